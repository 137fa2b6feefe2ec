"""A run folder -> tables, figures and one self-contained page. Nothing here sees a model.

What a run folder holds is said in ``docs/run-folder.md``.
"""
