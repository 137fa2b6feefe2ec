"""The user's networks, made and traced, with errors that name the line of their code."""

import io
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

from conjoin.errors import InputError, MismatchError, TraceError

if TYPE_CHECKING:
    from torch import nn

    from conjoin.batches import Inputs
    from conjoin.symmetry import Symmetries

__all__ = ["find_groups", "load_network"]


def load_network(
    spec: str, weights: Path | None, entry: str | None, seed: int, *, same_names: bool = False
) -> "nn.Module":
    """Make a network of the user's class, with the weights of a file if one is given.

    Args:
        spec: of the class.
        weights: the file.
        entry: of the file.
        seed: of what the class draws.
        same_names: whether the file has to have the names of the class, without a prefix.

    Raises:
        InputError, CheckpointError, MismatchError, NonFiniteError: they do not fit together.
        UserCodeError: the class raised.
    """
    from conjoin.checkpoints import open_checkpoint
    from conjoin.comparison.networks import check_finite, fresh, load_weights
    from conjoin.comparison.randomness import seeded
    from conjoin.comparison.user_code import find_callable

    if weights is None and entry is not None:
        raise InputError("--entry says which entry of a file; name the file with --weights")
    with seeded(seed):
        network = fresh(find_callable(spec), seed)
    if weights is not None:
        checkpoint = open_checkpoint(weights, entry=entry)
        found = load_weights(network, checkpoint, str(weights))
        check_finite(checkpoint, str(weights))
        other = next((there for name, there in found.items() if name != there), None)
        if same_names and other is not None:
            raise MismatchError(
                f"{weights} has a prefix before all names of {type(network).__name__} (as in "
                f"{other!r}), which what is written could not keep; save the state dict of that "
                "part of the network alone"
            )
    return network


def find_groups(network: "nn.Module", examples: "Inputs", seed: int) -> "Symmetries":
    """Find symmetries; errors say where in the user's code they come from."""
    from conjoin.comparison.user_code import is_theirs, their_traceback
    from conjoin.symmetry import find_symmetries

    try:
        with _quietly():
            return find_symmetries(network, examples, seed=seed)
    except InputError as error:
        if error.__cause__ is not None and is_theirs(error.__cause__):
            error.add_note(their_traceback(error.__cause__))
        raise
    except TraceError as error:
        # A traceback of torch.export is a page of frames, of which one tells something.
        error.add_note(_place(error.__cause__))
        raise


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep off the terminal what torch.export says before it fails: the graph so far."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _place(error: BaseException | None) -> str:
    """Say in which line of a model its tracing has stopped; the model may be a library's."""
    import torch

    hidden = (Path(torch.__file__).parent, Path(__file__).parents[1])
    frames = traceback.extract_tb(None if error is None else error.__traceback__)
    for frame in reversed(frames):
        path = Path(frame.filename)
        if path.is_file() and not any(map(path.is_relative_to, hidden)):
            return f"It stopped in {path}, line {frame.lineno}, in {frame.name}:\n    {frame.line}"
    return "It stopped in PyTorch's own code"
