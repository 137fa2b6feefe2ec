"""RegMean: each merged layer gives what the parents' layers give, as nearly as a linear map can."""

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from conjoin.data_statistics import Layer, matrix_of_weight, weight_of_matrix
from conjoin.errors import InputError, MethodError, MismatchError, NonFiniteError
from conjoin.methods.averages import linear

__all__ = ["RIDGE", "maps_of", "put_map", "regmean", "task_weights"]

RIDGE = 1e-7
"""Of each diagonal element of the summed Gram matrix: what float32 products round off."""


def regmean(
    parents: Sequence[Mapping[str, Tensor]],
    statistics: Sequence[Mapping[str, Tensor]],
    layers: Sequence[Layer],
    *,
    non_diagonal: float = 0.9,
    weights: Sequence[float] | None = None,
    biases: Collection[str] = (),
) -> dict[str, Tensor]:
    """Merge the weights of linear layers and convolutions in closed form, each layer by itself.

        W = argmin sum_i w_i mean_n |x_n W^T - x_n W_i^T|^2        over inputs x_n of parent i
          = (sum_i w_i G_i)^-1 sum_i w_i G_i W_i        G_i = a X_i^T X_i / N_i + (1 - a) diagonal

    with ``a = non_diagonal``: the elements of a Gram matrix off its diagonal are shrunk. The inputs
    are those of the parents, not of the merged network. Each group of a convolution has a matrix of
    its own.

    It is computed in float64, as a change from the weighted mean, which a small ridge (`RIDGE` of
    each diagonal element) keeps small. So weights of inputs that are zero in all parents' data are
    their mean; directions that no data show (fewer rows than features, with ``a = 1``) are left as
    in the mean; and equal parents give that parent, in float32 to the bit.

    Args:
        parents: named tensors of aligned models of one structure.
        statistics: of each parent on its own data, by `collect_statistics` with ``gram``. They are
            means over rows, so a parent with more data does not count more.
        layers: of the model, by `layers_of`; of kinds other than ``linear`` and ``convolution``
            nothing is merged. Layers without a Gram matrix in all statistics are left out.
        non_diagonal: ``a``, from 0 to 1.
        weights: how much each parent counts; equal if None. Only ratios matter.
        biases: names of layers whose bias is fitted with the weight, as that of one more input
            which is always 1. The statistics need their ``moments`` too.

    Returns:
        name -> tensor: weights of the layers that were merged, and `biases`, in the dtype and on
        the device of the first parent. Other biases and all else are not among them.

    Raises:
        MethodError: `non_diagonal` or `weights` cannot be used.
        InputError: another number of statistics than parents; no statistics have a Gram matrix, or
            some have that of a layer and others have not; or no mean of inputs, for a bias.
        MismatchError: a weight is missing, or shapes differ.
        NonFiniteError: a weight or a Gram matrix has NaN or infinite values.

    Source: Jin et al., Dataless knowledge fusion by merging weights of language models, ICLR 2023
    (arXiv:2212.09849).

    >>> from torch import nn
    >>> from conjoin.data_statistics import collect_statistics, layers_of
    >>> from conjoin.symmetry.tracing import trace
    >>> a, b = (nn.Linear(2, 1, bias=False) for _ in range(2))
    >>> _ = a.weight.data.copy_(torch.tensor([[1.0, 7.0]])), b.weight.data.fill_(3.0)
    >>> rows = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> seen = [collect_statistics(net, [x]) for net, x in zip((a, b), rows)]
    >>> layers = layers_of(trace(a, rows[0]))
    >>> regmean([a.state_dict(), b.state_dict()], seen, layers)["weight"]  # only b has seen input 1
    tensor([[1.6667, 3.0000]])
    """
    shares = task_weights(len(parents), weights)
    if len(statistics) != len(parents):
        raise InputError(f"{len(parents)} parents need as many statistics; found {len(statistics)}")
    if not 0 <= non_diagonal <= 1:
        raise MethodError(f"non_diagonal must be from 0 to 1, not {non_diagonal}")
    found: dict[str, Tensor] = {}
    for layer in layers:
        grams = _grams_of(layer, statistics)
        if layer.kind == "scale" or layer.weight is None or grams is None:
            continue
        bias = layer.name in biases and layer.bias is not None
        means = _means_of(layer, statistics) if bias else None
        found |= _merged(layer, parents, grams, means, non_diagonal, shares)
    if not found:
        raise InputError(
            "the statistics have no Gram matrix of any of the layers; collect them with "
            'collect_statistics(model, data, what=("gram",))'
        )
    return found


def task_weights(count: int, weights: Sequence[float] | None) -> list[float]:
    """Give one share of each parent, with the sum 1.

    Raises:
        MethodError: another number of weights, negative or infinite ones, or only zeros.

    >>> task_weights(2, None), task_weights(2, [3, 1])
    ([0.5, 0.5], [0.75, 0.25])
    """
    if not count:
        raise MethodError("there is no parent to merge")
    given = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(given) != count:
        raise MethodError(f"expected one weight for each of {count} parents; found {len(given)}")
    if not all(math.isfinite(w) and w >= 0 for w in given) or not sum(given):
        raise MethodError(f"weights must be numbers from 0 on, and not all zero; found {given}")
    return [weight / sum(given) for weight in given]


def _grams_of(layer: Layer, statistics: Sequence[Mapping[str, Tensor]]) -> list[Tensor] | None:
    name = f"{layer.name}:gram"
    have = [name in one for one in statistics]
    if not any(have):
        return None
    if not all(have):
        raise InputError(
            f"the statistics {have.index(False)} have no {name!r}, and those of another parent do; "
            "collect all with the same layers"
        )
    return [one[name] for one in statistics]


def _means_of(layer: Layer, statistics: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
    name = f"{layer.name}:input_mean"
    for number, one in enumerate(statistics):
        if name not in one:
            raise InputError(
                f"the statistics {number} have no {name!r}, which the bias of {layer.name!r} needs;"
                ' collect them with what=("moments", "gram")'
            )
    return [one[name] for one in statistics]


def maps_of(layer: Layer, parents: Sequence[Mapping[str, Tensor]], *, bias: bool) -> list[Tensor]:
    """Give each parent's weight as float64 [groups, outputs, features], its bias as one more.

    Raises:
        MismatchError: a tensor is missing, or shapes differ.
    """
    names = [str(layer.weight), *([str(layer.bias)] if bias else [])]
    for name in names:
        for number, parent in enumerate(parents):
            if name not in parent:
                raise MismatchError(f"parent {number} has no tensor {name!r}")
            if parent[name].shape != parents[0][name].shape:
                raise MismatchError(
                    f"{name!r} has the shape {list(parents[0][name].shape)} in parent 0, and "
                    f"{list(parent[name].shape)} in parent {number}"
                )
    device = parents[0][names[0]].device
    found = []
    for parent in parents:
        each = [parent[name].detach().to(device, torch.float64) for name in names]
        matrix = matrix_of_weight(layer, each[0])
        if bias:
            matrix = torch.cat([matrix, each[1].reshape(*matrix.shape[:2], 1)], 2)
        found.append(matrix)
    return found


def put_map(layer: Layer, like: Mapping[str, Tensor], matrix: Tensor) -> dict[str, Tensor]:
    """Give the weight that `maps_of` has taken apart, and the bias if it is among the features."""
    weight = like[str(layer.weight)]
    features = weight.shape[0] if layer.transposed else weight[0].numel()
    only = weight_of_matrix(layer, matrix[..., :features], weight.shape)
    found = {str(layer.weight): only.to(weight.device, weight.dtype).contiguous()}
    if matrix.shape[2] > features:
        bias = like[str(layer.bias)]
        offset = matrix[..., features].reshape(bias.shape)
        found[str(layer.bias)] = offset.to(bias.device, bias.dtype)
    return found


def _merged(
    layer: Layer,
    parents: Sequence[Mapping[str, Tensor]],
    grams: Sequence[Tensor],
    means: Sequence[Tensor] | None,
    non_diagonal: float,
    shares: Sequence[float],
) -> dict[str, Tensor]:
    each = maps_of(layer, parents, bias=means is not None)
    mean = linear(each, weights=shares)  # [groups, outputs, features]
    total, pull = torch.zeros(()), torch.zeros_like(mean)
    for number, (matrix, given, share) in enumerate(zip(each, grams, shares, strict=True)):
        gram = given.to(mean.device, torch.float64)
        if means is not None:
            gram = _with_ones(gram, means[number].to(gram.device, torch.float64))
        expected = (len(matrix), matrix.shape[2], matrix.shape[2])
        if tuple(gram.shape) != expected:
            raise MismatchError(
                f"the Gram matrix of {layer.name!r} of parent {number} has the shape "
                f"{list(gram.shape)}, and {layer.weight!r} needs {list(expected)}; collect it of "
                "this model"
            )
        shrunk = share * _shrunk(gram, non_diagonal)
        pull += (matrix - mean) @ shrunk
        total = shrunk if number == 0 else total.add_(shrunk)
    if not bool(total.isfinite().all() and mean.isfinite().all()):
        raise NonFiniteError(
            f"{layer.weight!r} of a parent, or its Gram matrix, has NaN or infinite values"
        )
    change = torch.stack([_solved(g, p) for g, p in zip(total, pull, strict=True)])
    return put_map(layer, parents[0], mean + change)


def _with_ones(gram: Tensor, mean: Tensor) -> Tensor:
    """Give the Gram matrix of rows with one more feature, which is always 1."""
    column = mean[:, :, None]
    one = torch.ones_like(column[:, :1])
    return torch.cat([torch.cat([gram, column], 2), torch.cat([column.mT, one], 2)], 1)


def _shrunk(gram: Tensor, non_diagonal: float) -> Tensor:
    """Give ``a G + (1 - a) diagonal(G)``, not in the place of G."""
    result = non_diagonal * gram
    result.diagonal(dim1=-2, dim2=-1).copy_(gram.diagonal(dim1=-2, dim2=-1))
    return result


def _solved(gram: Tensor, pull: Tensor) -> Tensor:
    """Give ``pull gram^-1``, with the ridge: [outputs, features]; `gram` is overwritten."""
    if not bool(pull.any()):
        return torch.zeros_like(pull)
    sizes = gram.diagonal().clamp(min=0.0).sqrt()
    seen = sizes > 0
    sizes = sizes.where(seen, torch.ones_like(sizes))
    gram.div_(sizes).div_(sizes[:, None])  # ones on the diagonal: no input counts for its unit
    gram.diagonal().copy_(torch.where(seen, 1 + RIDGE, 1.0))
    factor, failed = torch.linalg.cholesky_ex(gram)
    if not int(failed):
        solved: Tensor = torch.cholesky_solve((pull / sizes).mT, factor).mT / sizes
        return solved
    # Rounding of the products has made it indefinite: what is not above that is left alone.
    values, vectors = torch.linalg.eigh(gram)
    kept = values > RIDGE * len(gram)
    inverse = torch.where(kept, 1 / values.where(kept, torch.ones_like(values)), 0.0)
    change: Tensor = (pull / sizes) @ vectors * inverse @ vectors.mT / sizes
    return change
