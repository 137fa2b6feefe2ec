"""Which files of a folder are its weights, told by their names alone.

A set of weights is one of

    STEM.safetensors                                        one file
    STEM.safetensors.index.json, STEM-00001-of-00002.safetensors, ...    an index and its shards
    STEM-00001-of-00002.safetensors, ...                    shards alone, all of them

or the same with `.bin`. The same rules choose among the files of a folder and of the Hub.
"""

import itertools
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from conjoin.errors import CheckpointError

__all__ = ["Layout", "choose_weights", "shard_order"]

# In this order, as their own library looks for them: transformers, diffusers.
_KNOWN = (
    (".safetensors", ("model", "diffusion_pytorch_model")),
    (".bin", ("pytorch_model", "diffusion_pytorch_model")),
)
_INDEX = ".index.json"
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one set of weights.

    Args:
        index: the name of the index, if there is one; it decides which files belong to the set.
        files: the names of the files with weights, by number.
    """

    index: str | None
    files: tuple[str, ...]


@dataclass(slots=True)
class _Set:
    stem: str
    suffix: str
    index: str | None = None
    single: str | None = None
    shards: list[str] = field(default_factory=list)


def choose_weights(names: Iterable[str], where: str) -> Layout:
    """Return the set of weights among the names of a folder's files.

    `model` and `diffusion_pytorch_model` come first, then `pytorch_model.bin`, then whatever
    safetensors set is the only one, then `adapter_model.bin`.

    Args:
        names: of the files.
        where: what to call the folder in messages.

    Raises:
        CheckpointError: there is no set, more than one, or shards are missing.

    >>> choose_weights(["config.json", "model.safetensors", "pytorch_model.bin"], "here")
    Layout(index=None, files=('model.safetensors',))
    >>> choose_weights(["x-2-of-2.safetensors", "x-1-of-2.safetensors"], "here").files
    ('x-1-of-2.safetensors', 'x-2-of-2.safetensors')
    """
    names = sorted(names)
    sets = _sets(names)
    for suffix, stems in _KNOWN:
        known = [sets[stem, suffix] for stem in stems if (stem, suffix) in sets]
        if known:
            return _layout(_only(known, where), where)
    others = [found for (_, suffix), found in sets.items() if suffix == ".safetensors"]
    # `.bin` files under other names may be anything: training arguments, optimizers.
    adapter = sets.get(("adapter_model", ".bin"))
    if not others and adapter is not None:
        others = [adapter]
    if not others:
        raise CheckpointError(f"{where} has no weights: {_expected(names)}")
    return _layout(_only(others, where), where)


def shard_order(name: str) -> tuple[str, int, str]:
    """Return what to sort names of shards by: the number, not its digits.

    >>> sorted(["m-10-of-10.bin", "m-9-of-10.bin"], key=shard_order)
    ['m-9-of-10.bin', 'm-10-of-10.bin']
    """
    match = _SHARD.match(name)
    return (name, 0, name) if match is None else (match[1], int(match[2]), name)


def _sets(names: Iterable[str]) -> dict[tuple[str, str], _Set]:
    sets: dict[tuple[str, str], _Set] = {}
    for name in names:
        bare = name.removesuffix(_INDEX)
        suffix = next((suffix for suffix, _ in _KNOWN if bare.endswith(suffix)), None)
        if suffix is None:
            continue
        stem = bare.removesuffix(suffix)
        shard = None if bare != name else _SHARD.fullmatch(stem)
        stem = stem if shard is None else shard[1]
        found = sets.setdefault((stem, suffix), _Set(stem, suffix))
        if bare != name:
            found.index = name
        elif shard is not None:
            found.shards.append(name)
        else:
            found.single = name
    return sets


def _only(sets: list[_Set], where: str) -> _Set:
    if len(sets) == 1:
        return sets[0]
    shown = ", ".join(f"{found.stem}*{found.suffix}" for found in sets[:5])
    raise CheckpointError(
        f"{where} has {len(sets)} sets of weights: {shown}; pass the file that is meant, or keep "
        "one set in the folder"
    )


def _layout(found: _Set, where: str) -> Layout:
    shards = sorted(found.shards, key=shard_order)
    files = (*([] if found.single is None else [found.single]), *shards)
    if found.index is not None:
        return Layout(found.index, files)
    if found.single is not None and shards:
        raise CheckpointError(
            f"{where} has both {found.single} and shards without an index ({shards[0]}, ...); one "
            "of them was left by an older result: remove it, or pass the file that is meant"
        )
    if shards:
        _check_complete(shards, where)
    return Layout(None, files)


def _check_complete(shards: list[str], where: str) -> None:
    matches = [match for name in shards if (match := _SHARD.match(name)) is not None]
    totals = sorted({int(match[3]) for match in matches})
    if len(totals) > 1:
        raise CheckpointError(
            f"{where} has shards of more than one set: of {' and of '.join(map(str, totals))}; "
            "remove the older ones"
        )
    numbers = [int(match[2]) for match in matches]
    for first, second in itertools.pairwise(shards):
        if shard_order(first)[1] == shard_order(second)[1]:
            raise CheckpointError(f"{where} has one shard twice: {first} and {second}")
    outside = [name for name in shards if not 1 <= shard_order(name)[1] <= totals[0]]
    if outside:
        raise CheckpointError(f"{where} has {outside[0]}, whose number is not in 1..{totals[0]}")
    if len(numbers) < totals[0]:
        missing = next(number for number in range(1, totals[0] + 1) if number not in numbers)
        raise CheckpointError(
            f"{where} has {len(numbers)} of {totals[0]} shards ({shards[0]}, ...), and number "
            f"{missing} is missing; copy or download it"
        )


def _expected(names: Collection[str]) -> str:
    found = f"it has {', '.join(list(names)[:5])}" if names else "it has no files"
    if len(names) > 5:
        found += ", ..."
    if "model_index.json" in names:
        return f"{found}; it is a pipeline of diffusers, so pass one of its folders, such as unet"
    return (
        f"{found}; expected model.safetensors, an index with shards, pytorch_model.bin, or one "
        "other safetensors file; a file of another name can be passed itself"
    )
