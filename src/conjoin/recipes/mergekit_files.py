"""Which files are recipes of mergekit's, and which are for its other programs."""

from conjoin.recipes.nodes import TableNode

__all__ = ["is_mergekit", "not_a_merge"]

_KEYS = ("merge_method", "base_model", "tokenizer_source")
_OTHER_PROGRAMS = {
    "experts": "a file of mergekit-moe, which makes a mixture of experts of several models. "
    "conjoin does not; it merges models into one of the same structure",
    "genome": "a file of mergekit-evolve, which searches for a recipe. conjoin merges by the "
    "recipe that it finds (best_config.yaml)",
}


def is_mergekit(root: TableNode) -> bool:
    """Say whether a recipe is one of mergekit's, by keys that conjoin's own do not have."""
    native = "method" in root.entries and "merge_method" not in root.entries
    return not native and any(key in root.entries for key in _KEYS)


def not_a_merge(root: TableNode) -> str | None:
    """Say for which other program of mergekit's a file is; None if for none that is known."""
    return next(
        (
            f"this is {told}"
            for key, told in _OTHER_PROGRAMS.items()
            if key in root.entries and not {"models", "slices", "modules"} & root.entries.keys()
        ),
        None,
    )
