"""Constants that do not fit together, in a recipe of mergekit's, which merges none of them."""

from collections.abc import Mapping, Sequence

from conjoin.checkpoints import Kind
from conjoin.recipes.views import RenamedCheckpoint

__all__ = ["choose_constants"]


def choose_constants(
    views: Sequence[RenamedCheckpoint], preferred: int | None
) -> Mapping[str, int | None]:
    """Say from which of some models a constant is taken, where it cannot be that of all.

    Such as ``rotary_emb.inv_freq``, which older files have and newer ones do not, or masks of
    another dtype. One that all have alike is not among them, so that its values are compared.

    Args:
        views: the models of a slice.
        preferred: number of the one whose config goes along, if it is among them.

    Returns:
        Name -> number of the model; None to leave it out.
    """
    found: dict[str, int | None] = {}
    for name in dict.fromkeys(name for view in views for name in view.specs):
        having = [number for number, view in enumerate(views) if name in view.specs]
        specs = [views[number].specs[name] for number in having]
        alike = len({(spec.shape, spec.stored) for spec in specs}) == 1
        if any(spec.kind is not Kind.CONSTANT for spec in specs):
            continue
        if len(having) == len(views) and alike:
            continue
        everywhere = having[0] if len(having) == len(views) else None
        found[name] = preferred if preferred in having else everywhere
    return found
