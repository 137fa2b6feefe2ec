"""The user's models as networks: modules in memory, or files together with a class."""

import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conjoin.checkpoints import Checkpoint, as_checkpoint, describe_name_difference, open_checkpoint
from conjoin.comparison.randomness import seeded
from conjoin.comparison.source_code import code_digest, structure_digest
from conjoin.comparison.subject import Network
from conjoin.comparison.user_code import as_text, users_code
from conjoin.errors import InputError, MismatchError, NonFiniteError, UserCodeError
from conjoin.measure import nonfinite_tensors
from conjoin.stages import Stage

__all__ = [
    "Model",
    "Source",
    "check_finite",
    "check_fit",
    "digest_of",
    "fresh",
    "load_weights",
    "names_of",
    "network_of",
]

Model = nn.Module | str | PathLike[str]
"""A module, or a file or folder of its weights."""

Source = Callable[[], nn.Module]
"""Makes a network of the structure that files are of: a class, or a function without arguments."""


def names_of(models: Mapping[str, Model] | Iterable[Model]) -> dict[str, Model]:
    """Name models: by their file, with as much of its folder as tells it from the others.

    >>> list(names_of(["run1/best.pth", "run2/best.pth"]))
    ['run1/best', 'run2/best']
    >>> list(names_of([nn.Linear(1, 1), nn.Linear(1, 1)]))
    ['a', 'b']

    Raises:
        InputError: there are none or a single one without a list, two have one name, or something
            is neither module nor file.
    """
    if isinstance(models, nn.Module | str | PathLike) or not isinstance(models, Iterable):
        raise InputError(
            "models are a list or a mapping, [a, b] or {'a': a, 'b': b}, not one "
            f"{type(models).__name__}"
        )
    values = list(models.values() if isinstance(models, Mapping) else models)
    for model in values:
        if not isinstance(model, nn.Module | str | PathLike):
            raise InputError(
                f"a model is a torch.nn.Module or a file of weights, not {type(model).__name__}"
            )
    texts = list(map(str, models)) if isinstance(models, Mapping) else _names(values)
    names = [as_text(text) for text in texts]
    twice = [name for name, count in Counter(names).items() if count > 1 or not name]
    if twice:
        raise InputError(
            f"two models are called {twice[0]!r}; give different files, or pass a mapping "
            "{name: model}"
            if twice[0]
            else "a model has an empty name"
        )
    if not names:
        raise InputError("there is no model to compare")
    return dict(zip(names, values, strict=True))


def _names(models: Sequence[Model]) -> list[str]:
    """Give the shortest names that differ; the last ones, if none do."""
    depths = [len(Path(m).parts) for m in models if not isinstance(m, nn.Module)]
    names: list[str] = []
    for depth in range(1, max(depths, default=1) + 1):
        names = [_stem(model, number, depth) for number, model in enumerate(models)]
        if len(set(names)) == len(names):
            return names
    # a.pt beside a.pth
    return [str(m) if not isinstance(m, nn.Module) else names[n] for n, m in enumerate(models)]


def _stem(model: Model, number: int, depth: int) -> str:
    if isinstance(model, nn.Module):
        return chr(ord("a") + number) if number < 26 else f"model {number + 1}"
    path = Path(model) if Path(model).name else Path(model).resolve()
    last = path.name if path.is_dir() else path.stem
    return "/".join([*path.parts[-depth:-1], last])


def fresh(source: Source, seed: int = 0) -> nn.Module:
    """Make a new network; `seed` decides its random weights.

    Raises:
        UserCodeError: the user's class raised.
        InputError: it made no module.
    """
    name = getattr(source, "__name__", type(source).__name__)
    advice = (
        "for a class that takes arguments, name a function without arguments that returns the model"
    )
    with seeded(seed):
        try:
            with users_code(f"making the model ({name})"):
                made = source()
        except UserCodeError as error:
            if isinstance(error.__cause__, TypeError) and "argument" in str(error.__cause__):
                error.add_note(advice)
            raise
    if not isinstance(made, nn.Module):
        raise InputError(
            f"{name} must give a torch.nn.Module; it gave {type(made).__name__}; {advice}"
        )
    return made


def network_of(
    name: str, model: Model, source: Source | None, *, entry: str | None, device: torch.device
) -> Network:
    """Give a model as a `Network`, after checking that it can be one.

    Raises:
        InputError: a file without a class.
        MismatchError: the class does not fit the file: what is missing, what is extra.
        NonFiniteError: it has NaN or infinity.
    """
    if isinstance(model, nn.Module):
        checkpoint: Checkpoint = as_checkpoint(model)
        module = model
        code = structure_digest(model)

        def load() -> nn.Module:
            return copy.deepcopy(module).to(device).eval()

    else:
        path = Path(model)
        if source is None:
            raise InputError(f"to run {path}, its class is needed: --model net.py:Name")
        checkpoint = open_checkpoint(path, entry=entry)
        made = source
        new = fresh(made)
        check_fit(new, checkpoint, str(path))
        code = f"{code_digest(made)} {structure_digest(new)}"

        def load() -> nn.Module:
            new = fresh(made)
            load_weights(new, open_checkpoint(path, entry=entry), str(path))
            return new.to(device).eval()

    check_finite(checkpoint, name)
    settings = {"weights": digest_of(model, entry), "code": code, "device": device.type}
    return Network(name, Stage("network", 1, {**settings, "torch": torch.__version__}), load)


def check_finite(model: Any, name: str) -> None:
    """Raise if a model has NaN or infinity: nothing that is made of it would mean anything."""
    bad = nonfinite_tensors(model)
    if bad:
        first, count = next(iter(bad.items()))
        raise NonFiniteError(
            f"{first!r} of {name} has {count.nan} NaN and {count.inf} infinite among "
            f"{count.count} values ({len(bad)} such tensors); mend or leave out that model"
        )


def load_weights(module: nn.Module, checkpoint: Checkpoint, where: str) -> dict[str, str]:
    """Load the tensors of a file into a network of its class; give the names as `check_fit`.

    Raises:
        MismatchError: they have different tensors.
    """
    found = check_fit(module, checkpoint, where)
    module.load_state_dict({name: checkpoint[there] for name, there in found.items()})
    return found


def check_fit(module: nn.Module, checkpoint: Checkpoint, where: str) -> dict[str, str]:
    """Say which name each tensor of a class has in a file.

    All may have one prefix there, such as that of the attribute of a LightningModule.

    Raises:
        MismatchError: they have different tensors.
    """
    own = module.state_dict()
    kind = type(module).__name__
    prefix = _prefix_of(checkpoint, own)
    found = {name.removeprefix(prefix): name for name in checkpoint}
    names = describe_name_difference(
        own,
        found,
        first_label=f"{kind} (missing in the file)",
        second_label="the file (extra)",
    )
    if names:
        raise MismatchError(f"{where} does not fit {kind}:\n{names}")
    for name, there in found.items():
        spec = checkpoint.specs[there]
        if tuple(own[name].shape) != tuple(spec.shape):
            raise MismatchError(
                f"{where} does not fit {kind}: {name!r} has the shape {list(spec.shape)} in the "
                f"file, {list(own[name].shape)} in the class; was it made with other arguments?"
            )
    return found


def _prefix_of(names: Iterable[str], own: Mapping[str, Tensor]) -> str:
    """Give what stands before each name in a file, if nothing else differs; else nothing."""
    names = list(names)
    first = next(iter(own), "")
    prefixes = [name.removesuffix(first) for name in names if name.endswith(f".{first}")]
    for prefix in prefixes if first else []:
        if {f"{prefix}{name}" for name in own} == set(names):
            return prefix
    return ""


def digest_of(model: Model, entry: str | None = None) -> str:
    """Give the SHA-256 of a file, of all files of a folder's weights, or of a module's tensors.

    Raises:
        CheckpointError: the file cannot be read.
    """
    if not isinstance(model, nn.Module):
        path = Path(model)
        if path.is_dir():
            files = [_digest_of_file(file) for file in open_checkpoint(path, entry=entry).files]
            found = hashlib.sha256(" ".join(files).encode()).hexdigest()
        else:
            found = _digest_of_file(path)
        return found if entry is None else f"{found} {entry}"
    digest = hashlib.sha256()
    # Buffers that are not saved matter too.
    for name, tensor in {**model.state_dict(), **dict(model.named_buffers())}.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
