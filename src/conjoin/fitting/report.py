"""What merging with data did: layer by layer, and what was chosen."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from conjoin.fitting.least_squares import FittedLayer

__all__ = ["Choice", "FitReport"]


@dataclass(frozen=True)
class Choice:
    """Settings that were tried.

    Args:
        settings: name -> value.
        score: on validation data, larger is better: see `FitReport.scored_by`.
    """

    settings: Mapping[str, Any]
    score: float


@dataclass(frozen=True)
class FitReport:
    """What `merge_with_data` did.

    Args:
        method: by name.
        settings: that the result was made with.
        layers: what was done with each; empty for methods that fit none.
        aligned: of each model, the mean over layers of the cosine between its weights and those of
            the others after alignment; empty if nothing was aligned.
        choices: what was tried, in this order; empty if nothing was to be chosen.
        scored_by: what the score of a choice is.
        examples: of each model that were fitted on.
        held_out: of each model, further ones that nothing was fitted on.
        seconds: that all of it took.
        folded: name of a BatchNorm -> layer that it was folded into.
        kept: name of a BatchNorm that was not, though it was asked for -> why.
        solved: name of a layer -> by what, where not by the Gram matrix of its features: ``rows``
            or ``iterations``, see `conjoin.fitting.solving.solve`.
    """

    method: str
    settings: Mapping[str, Any]
    layers: tuple[FittedLayer, ...]
    aligned: tuple[float, ...]
    choices: tuple[Choice, ...]
    scored_by: str
    examples: tuple[int, ...]
    held_out: tuple[int, ...]
    seconds: float
    folded: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    solved: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Give numbers, texts, lists and dicts; NaN is None."""
        return _plain(asdict(self))  # type: ignore[no-any-return]

    def __str__(self) -> str:
        lines = [
            f"{self.method}: " + ", ".join(f"{k} {_shown(v)}" for k, v in self.settings.items())
        ]
        for choice in self.choices:
            tried = ", ".join(f"{k} {_shown(v)}" for k, v in choice.settings.items())
            lines.append(f"  tried {tried}: {choice.score:.4f} ({self.scored_by})")
        if self.layers:
            width = max(len(layer.name) for layer in self.layers)
            lines.append("distance from the parents, in units of their variance, held-out data:")
            lines.append(f"  {'layer'.ljust(width)}   mean of weights    fitted")
            for one in self.layers:
                note = f"  left: {one.left}" if one.left else ""
                lines.append(
                    f"  {one.name.ljust(width)}  {one.before:15.3f}  {one.after:8.3f}{note}"
                )
        lines += [f"{one.name}: {one.note}" for one in self.layers if one.note]
        if self.folded:
            lines.append(f"BatchNorm folded into the layer before it: {', '.join(self.folded)}")
        lines += [f"BatchNorm kept, {name}: {why}" for name, why in self.kept.items()]
        lines += [f"{name} was solved by {how}" for name, how in self.solved.items()]
        return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ":".join(map(_shown, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
