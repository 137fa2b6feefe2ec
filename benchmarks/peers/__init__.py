"""Published ways of merging two networks, as short as they are faithful: the competition.

    zipit.py      ZipIt! (Stoica et al., ICLR 2024)
    pleas.py      PLeaS (Nasery et al., 2024)
    regmean.py    RegMean (Jin et al., ICLR 2023), a reference in float64
    otfusion.py   OTFusion (Singh and Jaggi, NeurIPS 2020), for networks of equal sizes

Each is a function of two networks of one structure and of unlabelled inputs of each task, and
gives a network. They import nothing of conjoin, so that an error there cannot be in both. Their
docstrings say what is left out of the paper.
"""
