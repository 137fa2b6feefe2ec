"""What `repair` has done, and what it was worth: for people, and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Candidate", "LayerRepair", "RepairReport"]


@dataclass(frozen=True)
class Candidate:
    """One way that was tried.

    Args:
        method: ``none`` is the merged network as it was given.
        score: on the validation examples, higher is better; None if it is not a number.
    """

    method: str
    score: float | None


@dataclass(frozen=True)
class LayerRepair:
    """One layer, in the order of execution.

    Args:
        name: of its module.
        kind: ``linear``, ``convolution`` or ``batchnorm``.
        channels: how many.
        done: what was moved: ``mean and deviation``, ``deviation``, ``mean``, ``re-estimated``, or
            ``nothing``.
        note: what could not be done, and why.
        constant: channels that do not vary in the merged network, so that their weights stayed.
        before, after: variance of its activations over that of the parents', the mean over the
            channels; after its BatchNorm, if it has one. None if no channel of the parents varies.
    """

    name: str
    kind: str
    channels: int
    done: str
    note: str
    constant: int
    before: float | None
    after: float | None


@dataclass(frozen=True)
class RepairReport:
    """What was tried, what was chosen and why, and what it did to each layer.

    Args:
        method: as it was asked for.
        chosen: the method of the module that came back.
        why: a sentence.
        measure: what the scores are.
        candidates: all that were tried, the merged network as it was given first.
        layers: those that can be repaired.
        left: (name, why) of layers that cannot be.
        examples: how many the statistics come from.
        held_out: share of the data that was kept for the scores; 0 if there were validation data.
    """

    method: str
    chosen: str
    why: str
    measure: str
    candidates: tuple[Candidate, ...]
    layers: tuple[LayerRepair, ...]
    left: tuple[tuple[str, str], ...]
    examples: int
    held_out: float

    @property
    def scores(self) -> dict[str, float | None]:
        """Score of each candidate by its method."""
        return {each.method: each.score for each in self.candidates}

    @property
    def worse(self) -> bool:
        """Whether what came back is worse than the merged network was: only if it was asked for."""
        before, after = self.scores["none"], self.scores[self.chosen]
        return before is not None and (after is None or after < before)

    def as_dict(self) -> dict[str, Any]:
        """Give all of it as JSON values."""
        return {**asdict(self), "worse": self.worse}

    def __str__(self) -> str:
        lines = [self.why, f"Scores: {self.measure}.", ""]
        rows = [
            (each.method, _number(each.score), "chosen" if each.method == self.chosen else "")
            for each in self.candidates
        ]
        lines += _table(("method", "score", ""), rows)
        if self.layers:
            columns = ("layer", "kind", "channels", "variance before", "after", "moved", "")
            lines += ["", "Variance of the activations relative to the parents':"]
            lines += _table(columns, [_row(layer) for layer in self.layers])
        lines += [f"Left alone: {name}: {why}." for name, why in self.left]
        return "\n".join(lines)


def _row(layer: LayerRepair) -> tuple[str, ...]:
    notes = [layer.note] if layer.note else []
    notes += [f"{layer.constant} constant"] if layer.constant else []
    numbers = (_number(layer.before), _number(layer.after))
    return (layer.name, layer.kind, str(layer.channels), *numbers, layer.done, "; ".join(notes))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    every = [columns, *rows]
    widths = [max(len(row[at]) for row in every) for at in range(len(columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in every
    ]
