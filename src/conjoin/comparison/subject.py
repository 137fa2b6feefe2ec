"""What is compared: networks and data of one seed, loaded when they are needed.

    Subject
      tasks    name -> TaskData: three parts, each loaded when asked for
      groups   sets of networks of one structure that are combined
                 networks   name -> Network

Each network and each part of the data carries a `Stage` that says what it depends on, so that a
measurement is made again when, and only when, something that it depends on has changed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import nn

from conjoin.batches import Data
from conjoin.errors import InputError
from conjoin.stages import Stage

if TYPE_CHECKING:
    from conjoin.comparison.family import Row

__all__ = [
    "Continuum",
    "CoupledPoint",
    "Group",
    "Network",
    "Part",
    "Settings",
    "Subject",
    "TaskData",
    "View",
]

Part = Literal["train", "validation", "test"]

View = Literal["interpolation", "plane", "depth", "activations", "distances", "alignment"]


@dataclass(frozen=True)
class Network:
    """A trained network that is loaded when it is needed.

    Args:
        name: shown.
        stage: what its weights depend on.
        load: gives a module that nobody else holds, in eval mode.
    """

    name: str
    stage: Stage
    load: Callable[[], nn.Module]


@dataclass(frozen=True)
class TaskData:
    """A data set in its parts.

    Args:
        name: shown.
        parts: part -> what gives its data; a part that there is not is left out.
        stages: part -> what its data depend on.
        trained_on: whether a network was trained on it; else it is an unseen domain.
        regression: whether it is judged by loss alone.
        classes: their names, if they have any.
        counts: examples of each part, where known.
    """

    name: str
    parts: Mapping[Part, Callable[[], Data]]
    stages: Mapping[Part, Stage]
    trained_on: bool = True
    regression: bool = False
    classes: tuple[str, ...] | None = None
    counts: Mapping[Part, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Networks of one structure that are combined, and what is made of them.

    Args:
        key: short name, within the run.
        title: heading of its section in the table.
        networks: by name; their order is that of the merge.
        tasks: names of the tasks that its rows are measured on, besides the unseen ones.
        rows: what is measured.
        views: which curves are drawn.
        own: task -> name of the network that was trained for it; None finds it on validation data.
        plane: three networks that the loss surface goes through; None takes the first three.
        base: the network that all were fine-tuned from, for methods that merge changes of it.
    """

    key: str
    title: str
    networks: Mapping[str, Network]
    tasks: tuple[str, ...]
    rows: "tuple[Row, ...]"
    views: tuple[View, ...] = get_args(View)
    own: Mapping[str, str] | None = None
    plane: Mapping[str, Network] | None = None
    base: Network | None = None


@dataclass(frozen=True)
class CoupledPoint:
    """Networks that were trained together, at one strength.

    Args:
        profile: how the strength is spread over the layers.
        strength: as text, ``inf`` for infinity.
        networks: by name.
        own: task -> name of its network.
        gaps: gives (step, layer -> gap) over the training.
        heads: patterns of the tensors behind the trunk; none if there is no trunk.
        transfer: whether it is fine-tuned on few labels of unseen domains.
    """

    profile: str
    strength: str
    networks: Mapping[str, Network]
    own: Mapping[str, str]
    gaps: Callable[[], Sequence[tuple[int, Mapping[str, float]]]]
    heads: tuple[str, ...] = ()
    transfer: bool = True

    @property
    def name(self) -> str:
        """Name within the run."""
        return f"{self.profile} {self.strength}"


@dataclass(frozen=True)
class Continuum:
    """Coupled networks at several strengths, and what they are compared with.

    Args:
        points: what is measured.
        profiles: of each: ``name``, ``about``, and ``same_at_infinity``, the profile that it
            equals there, or None.
        references: ``independent``, ``two-headed`` and ``all data`` -> key of a row, or None.
        chosen: point that was chosen by a search, with what was tried; None chooses the best of
            all points on validation data.
    """

    points: tuple[CoupledPoint, ...]
    profiles: tuple[Mapping[str, Any], ...]
    references: Mapping[str, str | None]
    chosen: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Subject:
    """All that is compared for one seed.

    Args:
        seed: of the run that made the networks.
        tasks: by name, in the order of the table.
        groups: in the order of the table.
        scratch: a network that was never trained, for comparison in transfer; if there is one.
        continuum: networks that were coupled while they trained, if there are any.
    """

    seed: int
    tasks: Mapping[str, TaskData]
    groups: tuple[Group, ...]
    scratch: Network | None = None
    continuum: Continuum | None = None


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Args:
        statistics: training examples of each task for re-estimated statistics; their labels are
            not used.
        curve_examples: test examples of each task for the curves, at equal distances, since they
            may be sorted by class; the table uses all.
        points: of an interpolation curve.
        resolution: of the loss surface, in either direction.
        layers: a deep network's layers are grouped into at most so many for the curves by layer.
        labels: numbers of labels of an unseen domain to fine-tune on.
        transfer_steps: optimizer steps of each fine-tuning.
        samples: images of each task that the page shows.
    """

    statistics: int = 2_000
    curve_examples: int = 2_000
    points: int = 11
    resolution: int = 13
    layers: int = 12
    labels: tuple[int, ...] = (0, 10, 50, 100)
    transfer_steps: int = 40
    samples: int = 6

    def __post_init__(self) -> None:
        least = {
            "statistics": 2, "curve_examples": 1, "points": 3, "resolution": 2, "layers": 1,
            "transfer_steps": 1, "samples": 0,
        }  # fmt: skip
        for name, smallest in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < smallest:
                raise InputError(f"{name} must be {smallest} or more, not {value!r}")
        labels = self.labels if isinstance(self.labels, Sequence) else [None]
        if not all(isinstance(count, int) and count >= 0 for count in labels):
            raise InputError(
                f"labels must be numbers of examples, such as (0, 10, 50), not {self.labels!r}"
            )
