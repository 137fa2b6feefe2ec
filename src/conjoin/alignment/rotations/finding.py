"""`find_rotations`: a model -> what may be rotated in it, proved by running."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from conjoin.alignment.rotations.rotations import Rotatable, Rotations
from conjoin.alignment.rotations.scales import Scale, find_scales
from conjoin.alignment.rotations.turning import reflection
from conjoin.batches import Inputs, map_inputs, run_model
from conjoin.symmetry import Layout, Symmetries, find_symmetries
from conjoin.symmetry.proof import (
    TOLERANCE,
    InDouble,
    double_by_default,
    largest_error,
    randomized,
)

__all__ = ["find_rotations"]

FEWEST = 3
"""Units that keep their mean have this many, at least: two can only change places."""


def find_rotations(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    symmetries: Symmetries | Layout | None = None,
    seed: int = 0,
) -> Rotatable:
    """Find which groups of units may be rotated: multiplied by any orthogonal matrix.

    These are units that only linear layers write and read, and norms without weights between them:
    the residual stream of a transformer, once the weights of its norms are folded into the layers
    that read it; values, and queries with keys, within a head (with rotary positions, only the
    values); the middle of a factorized layer. Where a norm subtracts the mean, as LayerNorm does,
    rotations must keep the vector of ones.

    No architecture is known here. Each group of `conjoin.find_symmetries` is rotated at random in a
    copy in float64, and the outputs are compared; one that changes them is left to permutations.

    Args:
        model: any module that `conjoin.find_symmetries` takes; not changed.
        example_inputs: a batch of two or more examples.
        symmetries: of the model, if they are known already.
        seed: of the random rotations.

    Raises:
        InputError, TraceError: as `conjoin.find_symmetries`.

    Source: Ashkboos et al., SliceGPT, ICLR 2024, of the residual stream; Theus et al., Generalized
    Linear Mode Connectivity for Transformers, NeurIPS 2025.

    >>> net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    >>> found = find_rotations(net, torch.randn(2, 4))
    >>> list(found.groups), list(found.refused)
    (['0.weight:0'], ['1.weight:0'])
    >>> other = found.sample(torch.Generator().manual_seed(0)).apply(net)
    >>> x = torch.randn(5, 4)
    >>> bool(torch.allclose(net(x), other(x), atol=1e-5))
    True
    """
    generator = torch.Generator().manual_seed(seed)
    if symmetries is None:
        symmetries = find_symmetries(model, example_inputs, seed=seed)
    layout = symmetries if isinstance(symmetries, Layout) else symmetries.layout
    example = randomized(model, generator)
    inputs = map_inputs(example_inputs, _double)
    with torch.no_grad():
        expected = _run(example, inputs)
    scales = find_scales(example, layout, lambda net: _run(net, inputs), generator)
    aliases = _aliases(model)
    ties = {*aliases, *aliases.values()}

    state = {**dict(example.named_parameters()), **dict(example.named_buffers())}

    def rotatable(kinds: Mapping[str, bool]) -> Rotatable:
        used = tuple(scale for scale in scales if scale.group in kinds)
        return Rotatable(layout, kinds, used, aliases=aliases)

    def error(rotations: Rotations) -> float:
        """Run the example with the tensors that change, and put back what they were."""
        found = rotations.apply(state)
        changed = {name: found[name] for name in found if found[name] is not state[name]}
        before = {name: state[name].detach().clone() for name in changed}
        with torch.no_grad():
            _put(example, state, changed)
            worst = largest_error(_run(example, inputs), expected)
            _put(example, state, before)
        return worst

    kinds: dict[str, bool] = {}
    refused: dict[str, str] = {}
    holders = {name for group in layout.groups.values() for name in group.within}
    for name, group in layout.groups.items():
        if name in holders:
            refused[name] = "other groups lie within it, in an order or rotation of their own"
            continue
        for keeps_mean in (False, True):
            if keeps_mean and (group.within or group.size < FEWEST):
                continue
            one = rotatable({name: keeps_mean})
            shape = (*group.copies, group.size, group.size)
            turned = reflection(shape, generator, keeps_mean=keeps_mean)
            if error(Rotations(one, {name: turned})) <= TOLERANCE:
                kinds[name] = keeps_mean
                break
        else:
            tied = sorted(ties & {tensor for tensor, _ in group.members})
            refused[name] = _reason(tied, [s for s in scales if s.group == name])
    whole = error(rotatable(kinds).sample(generator)) if layout.groups else 0.0
    if whole > TOLERANCE:
        refused |= dict.fromkeys(kinds, "the outputs change when all groups are rotated at once")
        kinds, whole = {}, 0.0
    return replace(rotatable(kinds), refused=refused, error=whole)


def _reason(tied: Sequence[str], scales: Sequence[Scale]) -> str:
    found = (
        "the outputs change when it is rotated: something but linear layers and norms acts on its "
        "units one by one, or the weight of a norm cannot be folded into the layers that read it"
    )
    if tied:
        found += (
            f". {', '.join(tied)} is one tensor in two places, such as a tied embedding, so that "
            "the last norm cannot be folded into one of them alone; give each a copy of its own"
        )
    return found if not scales else f"{found} (folded: {', '.join(s.tensor for s in scales)})"


def _aliases(model: nn.Module) -> dict[str, str]:
    """Give other names of tied parameters -> their first name."""
    first: dict[int, str] = {}
    found = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(tensor), name)
        if known != name:
            found[name] = known
    return found


def _put(model: nn.Module, state: Mapping[str, Tensor], changed: Mapping[str, Tensor]) -> None:
    """Give a model other tensors, and let it forget what it has computed from those it had."""
    for name, tensor in changed.items():
        state[name].copy_(tensor)
    model.train()
    model.eval()


def _double(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.double() if tensor.is_floating_point() else tensor


def _run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Run a model, every step of it in float64."""
    with double_by_default(), InDouble():  # type: ignore[no-untyped-call]
        outputs = run_model(model, inputs)
    leaves = _pytree.tree_leaves(dict(outputs) if hasattr(outputs, "keys") else outputs)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
