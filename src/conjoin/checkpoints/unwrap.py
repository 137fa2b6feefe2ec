"""Finding the state dict in what a training script has saved.

Scripts save dicts around it ({"state_dict": ..., "optimizer": ..., "epoch": 3}), and wrappers of
modules put prefixes before its names. Both are removed here, by tables and rules that can be read,
and what was removed is told. When there is a choice, nobody guesses: it is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from conjoin.deferred import torch
from conjoin.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["unwrap"]

# Keys under which training scripts keep weights.
_WRAPPERS = (
    "state_dict",  # Lightning, timm, torchvision's older scripts
    "model_state_dict",  # PyTorch's own tutorial
    "model",  # torchvision's references, detectron2, fairseq
    "module",  # DeepSpeed
    "net",
    "network",
    "weights",
    "params",  # BasicSR
    "state_dict_ema",  # timm
    "model_ema",
    "ema",
    "ema_state_dict",
    "params_ema",
    "teacher",  # DINO
    "student",
    "generator",
    "discriminator",
)
# A pickled dict may contain itself.
_DEEPEST = 8
_LIGHTNING = "pytorch-lightning_version"
_COMPILED = "_orig_mod"  # torch.compile
_PARALLEL = "module."  # DataParallel, DistributedDataParallel, AveragedModel
_AVERAGED = "n_averaged"  # the counter of AveragedModel


def unwrap(
    obj: object, *, entry: str | None = None, source: str = "this object"
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the state dict inside what was saved, and notes on what was left out.

    Args:
        obj: a state dict, or dicts around one.
        entry: which key of the outermost dict holds the weights, if there are several.
        source: what to call the object in messages.

    Returns:
        The state dict, whose values may still be other things than tensors, and one note, in
        words, for each thing that was removed.

    Raises:
        CheckpointError: there is no state dict, or more than one.
        InputError: `entry` is no key, or holds no tensors.

    >>> import torch
    >>> saved = {"model": {"module.fc.bias": torch.zeros(2)}, "epoch": 3}
    >>> tensors, notes = unwrap(saved)
    >>> list(tensors)
    ['fc.bias']
    >>> notes
    ["took the entry 'model' and ignored 'epoch'", "removed the prefix 'module.' from all names"]
    """
    notes: list[str] = []
    inner = _checked_mapping(obj, source)
    if entry is not None:
        inner = _descend(inner, _checked_entry(inner, entry, source), notes)
    while (key := _wrapper_of(inner, source)) is not None:
        if len(notes) > _DEEPEST:
            raise CheckpointError(f"{source} has more than {_DEEPEST} dicts around its state dict")
        inner = _descend(inner, key, notes)
    tensors = _without_compiled(inner, notes, source)
    return _without_parallel(tensors, notes), notes


def _checked_mapping(obj: object, source: str) -> Mapping[str, object]:
    if isinstance(obj, Mapping):
        return obj
    raise CheckpointError(
        f"{source} holds an object of type {type(obj).__name__}, not a dict of named tensors; "
        "save model.state_dict() instead"
    )


def _checked_entry(obj: Mapping[str, object], entry: str, source: str) -> str:
    choices = [key for key, value in obj.items() if _holds_tensors(value)]
    if entry not in choices:
        found = ", ".join(map(repr, choices)) or "none"
        raise InputError(
            f"there is no entry {entry!r} with tensors in {source}; entries with tensors: {found}"
        )
    return entry


def _wrapper_of(obj: Mapping[str, object], source: str) -> str | None:
    """The key to descend to, or None if `obj` is the state dict itself."""
    if _LIGHTNING in obj and _holds_tensors(obj.get("state_dict")):
        return "state_dict"
    candidates = [key for key in _WRAPPERS if _holds_tensors(obj.get(key))]
    # One state dict under two keys is no choice.
    if candidates and any(obj[key] is not obj[candidates[0]] for key in candidates):
        raise CheckpointError(_choice(candidates, source))
    if candidates:
        return candidates[0]
    if "param_groups" in obj and "state" in obj:
        raise CheckpointError(
            f"{source} holds the state of an optimizer, not the weights of a model; "
            "save model.state_dict() instead"
        )
    unknown = [str(key) for key, value in obj.items() if _holds_tensors(value)]
    if unknown:
        raise CheckpointError(_choice(unknown, source))
    if obj and not any(isinstance(value, torch.Tensor) for value in obj.values()):
        keys = ", ".join(repr(key) for key in list(obj)[:8])
        raise CheckpointError(f"{source} holds no tensors; its keys are {keys}")
    return None


def _choice(keys: list[str], source: str) -> str:
    return (
        f"{source} holds tensors under {', '.join(map(repr, keys))}; "
        f"say which to use, for instance open_checkpoint(path, entry={keys[0]!r})"
    )


def _holds_tensors(value: object, depth: int = 0) -> bool:
    if not isinstance(value, Mapping) or depth > _DEEPEST:
        return False
    if any(isinstance(item, torch.Tensor) for item in value.values()):
        return True
    return any(_holds_tensors(value.get(key), depth + 1) for key in _WRAPPERS)


def _descend(obj: Mapping[str, object], key: str, notes: list[str]) -> Mapping[str, object]:
    inner = obj[key]
    assert isinstance(inner, Mapping)  # _holds_tensors said so
    others = [repr(other) for other in obj if other != key]
    notes.append(
        f"took the entry {key!r}" + (f" and ignored {', '.join(others)}" if others else "")
    )
    return inner


def _without_compiled(
    inner: Mapping[str, object], notes: list[str], source: str
) -> dict[str, object]:
    renamed: dict[str, object] = {}
    for name, value in inner.items():
        # Keys that are no strings stay: what takes the tensors names them in its error.
        bare = _strip_component(name) if isinstance(name, str) else name
        if bare in renamed:
            raise CheckpointError(
                f"{source} has two tensors named {bare!r}, one of them within a compiled module "
                f"({_COMPILED!r}); save the state dict of the original module"
            )
        renamed[bare] = value
    if list(renamed) != list(inner):
        notes.append(f"removed the component {_COMPILED!r} from names")
    return renamed


def _strip_component(name: str) -> str:
    parts = name.split(".")
    return ".".join(part for part in parts if part != _COMPILED) if _COMPILED in parts else name


def _without_parallel(named: dict[str, object], notes: list[str]) -> dict[str, Tensor]:
    while True:
        rest = [name for name in named if not _is_average_counter(name, named[name])]
        if not rest or not all(
            isinstance(name, str) and name.startswith(_PARALLEL) for name in rest
        ):
            # Values are checked where the mapping becomes a checkpoint.
            return named  # type: ignore[return-value]
        if len(rest) < len(named):
            notes.append(f"dropped {_AVERAGED!r}, the counter of an averaged model")
        notes.append(f"removed the prefix {_PARALLEL!r} from all names")
        named = {name.removeprefix(_PARALLEL): named[name] for name in rest}


def _is_average_counter(name: object, value: object) -> bool:
    return name == _AVERAGED and isinstance(value, torch.Tensor) and value.numel() == 1
