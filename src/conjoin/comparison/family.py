"""What a row of the table is made from, and what a row is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from conjoin.alignment import Alignment, align
from conjoin.batches import Inputs
from conjoin.comparison.examples import first_pairs, joined
from conjoin.comparison.subject import Group, Network, Settings, TaskData
from conjoin.evaluation import Predictor
from conjoin.repairing import has_batchnorm, reestimate_batchnorm
from conjoin.symmetry import Symmetries, find_symmetries

__all__ = ["Chosen", "Family", "Row", "RowKind"]

T = TypeVar("T")

EXAMPLES = 8
"""Examples of a task that a network is traced on."""

COMPARED = 500
"""Examples of a task that activations are compared on."""

RowKind = Literal["parent", "reference", "ensemble", "merge", "control"]
"""What a row is: a network that was given; one to compare with; several networks that answer
together; one network out of several; or something that shows why merging is hard."""


@dataclass(frozen=True)
class Family:
    """The networks of a group with their data: what a row is made from.

    Args:
        group: the networks.
        tasks: those that they were trained on, by name.
        settings: how many examples.
        seed: of the run.
        own: task -> name of the network that is best on its validation part.
    """

    group: Group
    tasks: Mapping[str, TaskData]
    settings: Settings
    seed: int
    own: Mapping[str, str]
    _made: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def networks(self) -> Mapping[str, Network]:
        """Networks by name, not loaded."""
        return self.group.networks

    def models(self) -> dict[str, nn.Module]:
        """Give every network, loaded anew, by name."""
        return {name: network.load() for name, network in self.networks.items()}

    def statistics(
        self, tasks: Sequence[str] | None = None, most: int | None = None
    ) -> list[list[tuple[Inputs, Tensor]]]:
        """Give training examples of each task, in batches; their labels are not used.

        With labels, since two inputs in a tuple could be taken for inputs and labels.

        Args:
            tasks: by name; all by default.
            most: examples of each; as many as the settings say by default, and never more.
        """
        chosen = self.tasks if tasks is None else tasks
        count = min(self.settings.statistics, self.settings.statistics if most is None else most)
        return [
            first_pairs(self.tasks[task].parts["train"](), count, task, batch_size=250)
            for task in chosen
        ]

    def own_data(self, most: int) -> list[list[tuple[Inputs, Tensor]]]:
        """Give training examples of each network's own tasks; of all, if it has none of its own.

        Args:
            most: examples of each task.
        """
        found = []
        for name in self.networks:
            own = [task for task, network in self.own.items() if network == name]
            found.append([pair for part in self.statistics(own or None, most) for pair in part])
        return found

    def compared(self) -> list[tuple[Inputs, Tensor]]:
        """Give the training examples that activations are compared on."""
        return [pair for part in self.statistics(most=COMPARED) for pair in part]

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Give what a function gives, which is called by the first who asks for it by this name."""
        if name not in self._made:
            self._made[name] = make()
        found: T = self._made[name]
        return found

    def alignments(self, method: str) -> list[Alignment]:
        """Align the networks by ``weights`` or ``activations``, once for all who ask.

        Raises:
            InputError, TraceError: nothing is known that may be reordered in them.
        """
        return self.once(
            f"aligned by {method}",
            lambda: align(
                list(self.models().values()),
                symmetries=self.symmetries,
                data=None if method == "weights" else self.compared(),
                method=method,
                seed=self.seed,
            ),
        )

    def examples(self, task: str) -> Inputs:
        """Give a batch of validation inputs that a network can be traced on."""
        pairs = first_pairs(self.tasks[task].parts["validation"](), EXAMPLES, task)
        # Examples of different sizes cannot be joined; two of the first batch are enough.
        return pairs[0][0] if len(pairs[0][1]) > 1 else joined(pairs)[0]

    @cached_property
    def symmetries(self) -> Symmetries:
        """What may be reordered in the networks.

        Raises:
            TraceError: the networks cannot be traced.
        """
        network = next(iter(self.networks.values())).load()
        return find_symmetries(network, self.examples(next(iter(self.tasks))), seed=self.seed)

    @cached_property
    def normalized(self) -> bool:
        """Whether the networks have BatchNorm with running statistics."""
        return has_batchnorm(next(iter(self.networks.values())).load())

    def why_not_reestimate(self) -> str | None:
        """Say why statistics cannot be re-estimated; None if they can."""
        if not self.normalized:
            return "the networks have no BatchNorm, so there are no statistics to re-estimate"
        lacking = [name for name, task in self.tasks.items() if "train" not in task.parts]
        if lacking:
            return f"{', '.join(lacking)} has no training part to re-estimate statistics from"
        return None

    def repaired(self, module: nn.Module) -> nn.Module:
        """Re-estimate the statistics of a module on all tasks, where that can be done."""
        if self.why_not_reestimate() is not None:
            return module
        return reestimate_batchnorm(module, *self.statistics())


def _applies(family: Family) -> str | None:  # noqa: ARG001
    """Give no reason against a row: every family can have it."""
    return None


@dataclass(frozen=True)
class Chosen:
    """A predictor for which something was chosen on validation data; the choice is recorded.

    Args:
        predictor: what was made.
        choice: what was chosen, as JSON values by name.
    """

    predictor: Predictor
    choice: Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        name: shown; unique within a group.
        kind: what it is.
        about: a sentence for people.
        make: gives a module, an ensemble, or one of both for each task; `Chosen` if something
            was chosen for it.
        why_not: says why it cannot be made of a family; None if it can.
        save: whether its network is written to a file.
        start: whether it is tried as a start for fine-tuning on an unseen domain.
        version: raised whenever a change of the code changes its numbers.
    """

    name: str
    kind: RowKind
    about: str
    make: Callable[[Family], Predictor | Chosen]
    why_not: Callable[[Family], str | None] = _applies
    save: bool = False
    start: bool = False
    version: int = 1
