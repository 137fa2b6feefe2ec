"""Whether parents fit a merged network: the same tensors, and the same operations on them."""

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from conjoin.batches import Inputs, run_model
from conjoin.checkpoints import describe_name_difference
from conjoin.data_statistics.execution import Execution, Program
from conjoin.data_statistics.watching import without_fast_path
from conjoin.errors import MismatchError
from conjoin.evaluation import evaluating
from conjoin.repairing.correcting import named_tensors

__all__ = ["check_function", "check_structure"]


def check_structure(merged: nn.Module, parent: nn.Module, label: str) -> None:
    """Check that a parent has the merged network's tensors.

    Raises:
        MismatchError: names, shapes, dtypes or devices differ; the message says where first.
    """
    ours, theirs = merged.state_dict(), parent.state_dict()
    difference = describe_name_difference(
        ours, theirs, first_label="the merged network", second_label=label
    )
    if difference:
        raise MismatchError(f"the merged network and {label} have different tensors:\n{difference}")
    for name, tensor in ours.items():
        if tensor.shape != theirs[name].shape:
            raise MismatchError(
                f"{name!r} has the shape {list(tensor.shape)} in the merged network, and "
                f"{list(theirs[name].shape)} in {label}; parents must have its structure"
            )
        for what, one, other in (
            ("dtype", tensor.dtype, theirs[name].dtype),
            ("device", tensor.device, theirs[name].device),
        ):
            if one != other:
                raise MismatchError(
                    f"{name!r} has the {what} {one} in the merged network, and {other} in {label}; "
                    "bring the networks to one dtype and device first: parent.to(...)"
                )


@torch.no_grad()
def check_function(program: Program, parent: nn.Module, batch: Inputs, label: str) -> None:
    """Check that the merged network's operations on a parent's weights are what the parent does.

    Two networks of equal tensors may still differ, say in a nonlinearity, and then the statistics
    would be those of no network.

    Args:
        program: of the merged network.
        parent: whose outputs are compared.
        batch: what it is run on.
        label: of the parent, for the message.

    Raises:
        MismatchError: the outputs differ.
    """
    with evaluating([parent]), without_fast_path():  # which makes zeros of padded places
        theirs = _tensors(run_model(parent, batch))
    run = Execution(program, named_tensors(parent), batch)
    ours = _tensors(run.value(program.nodes[-1]))
    for one, other in zip(ours, theirs, strict=False):
        if not bool(other.isfinite().all()):
            return  # the layer where that begins is named when the activations are measured
        size = float(other.abs().max()) if other.numel() else 0.0
        close = one.shape == other.shape and torch.allclose(one, other, 1e-2, 1e-2 * size)
        if not close:
            raise MismatchError(
                f"{label} has the merged network's tensors but computes something else with them; "
                "the operations of both must be the same (nonlinearities, settings of layers, "
                "buffers that are not saved)"
            )


def _tensors(outputs: object) -> list[Tensor]:
    leaves = [one for one in tree_leaves(outputs) if isinstance(one, Tensor)]
    return [one.double().cpu() for one in leaves if one.is_floating_point()]
