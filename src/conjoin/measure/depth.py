"""How deep two networks may be merged: layer by layer, the mean takes the place of a specialist."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from torch import nn

from conjoin.arguments import as_mapping
from conjoin.batches import Data
from conjoin.checkpoints import Spec, from_module
from conjoin.errors import InputError
from conjoin.measure.layers import Layer, group_layers, layers_of
from conjoin.measure.points import check_alike, check_data, measure
from conjoin.merging import merge
from conjoin.records import Record, Split
from conjoin.repairing import has_batchnorm, reestimate_batchnorm

__all__ = ["Layer", "Mode", "group_layers", "layers_of", "merging_by_depth"]

Mode = Literal["first", "only"]
"""``first``: all layers up to one are merged; ``only``: this one alone."""

PARTS = 12


def merging_by_depth(
    models: Mapping[str, nn.Module],
    own: Mapping[str, str],
    data: Mapping[str, Data],
    *,
    layers: Sequence[Layer] | None = None,
    statistics: Mapping[str, Data] | None = None,
    modes: Sequence[Mode] = ("first", "only"),
    name: str = "depth",
    split: Split = "test",
    seed: int = 0,
    how: Mapping[str, Any] | None = None,
    batch_size: int = 500,
    on_done: Callable[[int, int], None] | None = None,
) -> list[Record]:
    """Measure specialists of which some layers are replaced by the mean of all models.

        first, k = 0..L:   layers 1..k are the mean, the rest is the task's own
        only,  k = 1..L:   layer k is the mean, the rest is the task's own

    At k = 0 this is the specialist, unchanged; at k = L it is ``merge(models)``. Which model is the
    own one is told by the task, so every record says ``uses_task_label``. Merged layers have
    pooled running statistics, as `merge` makes them, if there are none to re-estimate on.

    Args:
        models: name -> network, of one structure; not changed.
        own: task -> name of the model that is its specialist. Other tasks of `data` are left out.
        data: task -> a loader or a pair, as for `evaluate`; a loader must give its batches anew for
            every network.
        layers: every tensor of the state exactly once; by default
            ``group_layers(layers_of(model), 12)`` of the first model.
        statistics: task -> data to re-estimate BatchNorm on, for every k but 0; a task that is
            missing has none.
        modes: what to measure.
        name: `Record.model`.
        split: which part of the data this is; recorded.
        seed: of the run; recorded.
        how: further keys for `how` of every record; those of the view stay.
        batch_size: used for whole sets.
        on_done: called with the number of networks measured so far, and of all.

    Returns:
        Records of the view ``depth``, with ``mode``, ``index`` (k), ``layer`` (name of layer k, or
        ``"none"``) and ``uses_task_label`` in `how`; a regression has no accuracy.

    Raises:
        InputError: no task with a specialist, an unknown name of a model, task or mode, or layers
            that are no partition of the state.
        MismatchError: the models differ in structure or constants.
        NonFiniteError: a weight is NaN or infinite.

    >>> import torch
    >>> a, b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> with torch.no_grad():
    ...     a.weight.fill_(0), b.weight.fill_(2)
    (Parameter ...
    >>> data = {"zero": (torch.ones(1, 1), torch.zeros(1, 1))}
    >>> records = merging_by_depth({"a": a, "b": b}, {"zero": "a"}, data, modes=["first"])
    >>> [(record.how["layer"], record.value) for record in records]
    [('none', 0.0), ('weight', 1.0)]
    """
    check_data(data)
    _check_names(models, own, data, modes)
    networks = list(models.values())
    check_alike(networks)
    if layers is None:
        layers = group_layers(layers_of(networks[0]), PARTS)
    else:
        _check_partition(layers, from_module(networks[0]).specs)
    settings = [(mode, k) for mode in modes for k in range(mode == "only", len(layers) + 1)]
    records, done = [], 0
    for task, specialist in own.items():
        position = list(models).index(specialist)
        fresh = (statistics or {}).get(task)
        for mode, index in settings:
            merged = layers[:index] if mode == "first" else layers[index - 1 : index]
            network = _merged(networks, position, layers, merged)
            if index and fresh is not None and has_batchnorm(network):
                network = reestimate_batchnorm(network, fresh)
            records += measure(
                network,
                {task: data[task]},
                {
                    **(how or {}),
                    "view": "depth",
                    "mode": mode,
                    "index": index,
                    "layer": layers[index - 1].name if index else "none",
                    "uses_task_label": True,
                },
                name=name,
                split=split,
                seed=seed,
                batch_size=batch_size,
            )
            done += 1
            if on_done is not None:
                on_done(done, len(own) * len(settings))
    return records


def _merged(
    networks: Sequence[nn.Module], position: int, layers: Sequence[Layer], merged: Sequence[Layer]
) -> nn.Module:
    if not merged:
        return networks[position]
    mean = {name for layer in merged for name in layer.tensors}
    # An exact name is a pattern that matches that name alone.
    keep = {name: position for layer in layers for name in layer.tensors if name not in mean}
    return merge(networks, "mean", keep=keep)


def _check_names(
    models: Mapping[str, nn.Module],
    own: Mapping[str, str],
    data: Mapping[str, Data],
    modes: Sequence[str],
) -> None:
    as_mapping(models, "models", '{"a": a, "b": b}')
    if not as_mapping(own, "own", '{"task": "a"}') or not modes:
        raise InputError("expected at least one task with a specialist, and one mode")
    for task, specialist in own.items():
        if specialist not in models:
            raise InputError(
                f"the specialist of {task!r} is {specialist!r}, which is no model; there are "
                f"{', '.join(map(repr, models)) or 'none'}"
            )
        if task not in data:
            raise InputError(
                f"{task!r} has a specialist but no data; there are data of "
                f"{', '.join(map(repr, data))}"
            )
    for mode in modes:
        if mode not in get_args(Mode):
            raise InputError(f"a mode is one of {', '.join(get_args(Mode))}, not {mode!r}")


def _check_partition(layers: Sequence[Layer], specs: Mapping[str, Spec]) -> None:
    if not all(isinstance(layer, Layer) for layer in layers):
        raise InputError(
            "layers are those of conjoin.measure.layers_of(model), or of group_layers, not "
            f"{layers!r:.80}"
        )
    named = Counter(name for layer in layers for name in layer.tensors)
    wrong: dict[str, Iterator[str]] = {
        "missing": (name for name in specs if name not in named),
        "unknown": (name for name in named if name not in specs),
        "named twice": (name for name in named if named[name] > 1),
    }
    for what, names in wrong.items():
        if (one := next(names, None)) is not None:
            raise InputError(
                f"the layers must have every tensor of the network exactly once; {one!r} is {what}"
            )
