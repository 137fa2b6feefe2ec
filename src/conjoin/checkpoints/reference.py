"""References to models in a recipe or on a command line: `path@revision+adapter@revision`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conjoin.checkpoints.adapter import open_adapter
from conjoin.checkpoints.checkpoint import Checkpoint
from conjoin.checkpoints.hub import fetch_model, is_hub_id, remote_specs
from conjoin.checkpoints.open import open_checkpoint
from conjoin.checkpoints.spec import Spec
from conjoin.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "HeadersOnly",
    "Reference",
    "expand_path",
    "hub_name",
    "locate",
    "open_headers",
    "open_reference",
    "parse_reference",
]

_HUB = "hf://"
_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})")
_OF_FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".gguf", ".json", ".yml", ".yaml")


@dataclass(frozen=True, slots=True)
class Reference:
    """A model, and perhaps an adapter on it.

    Args:
        model: a path, a Hub id `organization/name`, or `hf://organization/name`.
        revision: of a model on the Hub.
        adapter: the same for a LoRA adapter.
        adapter_revision: of an adapter on the Hub.
    """

    model: str
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None


def parse_reference(text: str, *, relative_to: str | os.PathLike[str] | None = None) -> Reference:
    """Take `path@revision+adapter@revision` apart; all but the path may be missing.

    `$NAME`, `${NAME}` and `~` are expanded first. A path that exists and has an `@` or a `+` in
    its name is that path.

    Args:
        text: the reference.
        relative_to: the folder that relative paths count from; None means the current one.

    Raises:
        InputError: a part is empty, there are two adapters, or a variable is not set.

    >>> parse_reference("org/name@main+org/lora")
    Reference(model='org/name', revision='main', adapter='org/lora', adapter_revision=None)
    """
    expanded = expand_path(text)

    def exists(part: str) -> bool:
        return part != "" and os.path.lexists(_joined(part, relative_to))

    if exists(expanded):
        return Reference(expanded)
    model, adapter = _split_adapter(expanded, exists)
    model, revision = _split_revision(model, exists)
    adapter_revision = None
    if adapter is not None:
        adapter, adapter_revision = _split_revision(adapter, exists)
    reference = Reference(model, revision, adapter, adapter_revision)
    if "" in (model, revision, adapter, adapter_revision):
        raise InputError(
            f"the reference {text!r} has an empty part; expected path, path@revision, or "
            "path@revision+adapter@revision"
        )
    return reference


def open_reference(
    text: str,
    *,
    relative_to: str | os.PathLike[str] | None = None,
    entry: str | None = None,
) -> Checkpoint:
    """Open the model that a reference means, with its adapter, as one checkpoint.

    Args:
        text: `path@revision+adapter@revision`, see `parse_reference`.
        relative_to: the folder that relative paths count from; None means the current one.
        entry: for torch files in which several entries hold weights: which one.

    Raises:
        InputError: the reference cannot be taken apart, or huggingface_hub is needed and missing.
        CheckpointError: a model or an adapter cannot be found or opened.

    >>> import tempfile, torch
    >>> from conjoin.checkpoints import save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save({"fc.bias": torch.zeros(2)}, Path(folder, "model.safetensors"))
    ...     list(open_reference("model.safetensors", relative_to=folder))
    ['fc.bias']
    """
    reference = parse_reference(text, relative_to=relative_to)
    path = locate(reference.model, reference.revision, relative_to=relative_to)
    checkpoint = open_checkpoint(path, entry=entry)
    if reference.adapter is None:
        return checkpoint
    folder = locate(reference.adapter, reference.adapter_revision, relative_to=relative_to)
    return open_adapter(checkpoint, folder)


def locate(
    model: str,
    revision: str | None = None,
    *,
    relative_to: str | os.PathLike[str] | None = None,
) -> Path:
    """Return the path of a model; one that is on the Hub is fetched.

    A path that exists wins. Otherwise the Hub is asked for `hf://organization/name`, and for
    `organization/name` where no local folder `organization` and no suffix of a file speak for a
    mistyped path. It is never asked for `./x`, `../x`, `/x` or `~/x`.

    Raises:
        InputError: a revision of a path, or huggingface_hub is missing.
        CheckpointError: there is no such path, and the Hub was not asked or does not have it.
    """
    name = hub_name(model, relative_to=relative_to)
    path = _joined(model, relative_to)
    if name is None and revision is not None:
        raise InputError(
            f"{path} is a local path, which has no revision {revision!r}; leave out "
            f"@{revision}, or write {_HUB}{model} for the Hub"
        )
    if name is None:
        return path
    try:
        return fetch_model(name, revision)
    except (CheckpointError, InputError) as error:
        if model.startswith(_HUB):
            raise
        raise type(error)(f"there is no file {path}, and no folder; {error}") from error


def hub_name(model: str, *, relative_to: str | os.PathLike[str] | None = None) -> str | None:
    """Return the name by which the Hub is asked for a model, or None for a path that exists.

    Raises:
        InputError: ``hf://`` before something that is no name of the Hub.
        CheckpointError: there is no such path, and the Hub is not asked for it.
    """
    if model.startswith(_HUB):
        name = model.removeprefix(_HUB)
        if not is_hub_id(name):
            raise InputError(f"{model!r} is no model of the Hub; expected hf://organization/name")
        return name
    path = _joined(model, relative_to)
    if os.path.lexists(path):
        return None
    here = Path(model).absolute()
    if relative_to is not None and os.path.lexists(here):
        raise CheckpointError(
            f"there is no file {path}, and no folder; {here} exists, but paths in a recipe count "
            f"from its folder. Write the path from there, or {_HUB}{model} for the Hub"
        )
    refusal = _why_not_on_hub(model, path)
    if refusal is not None:
        raise CheckpointError(f"there is no file {path}, and no folder; {refusal}")
    return model


def open_headers(
    text: str,
    *,
    relative_to: str | os.PathLike[str] | None = None,
    entry: str | None = None,
) -> Checkpoint:
    """Open what a reference means for its specs alone: what is on the Hub is not downloaded.

    An adapter on the Hub changes no shape and no dtype, so it is left out; so are tensors that it
    would add. Everything on disk is opened as by `open_reference`.

    Raises:
        InputError, CheckpointError: as `open_reference`; also if a tensor is asked for.
    """
    reference = parse_reference(text, relative_to=relative_to)
    name = hub_name(reference.model, relative_to=relative_to)
    if name is not None:
        return HeadersOnly(remote_specs(name, reference.revision), source=text)
    adapter = reference.adapter
    if adapter is not None and hub_name(adapter, relative_to=relative_to) is not None:
        return open_checkpoint(_joined(reference.model, relative_to), entry=entry)
    return open_reference(text, relative_to=relative_to, entry=entry)


class HeadersOnly(Checkpoint):
    """A checkpoint of which only the headers are here.

    Args:
        specs: of its tensors.
        source: what to call it in messages.
    """

    def __init__(self, specs: Mapping[str, Spec], *, source: str) -> None:
        self._specs, self._source = dict(specs), source

    @property
    def specs(self) -> Mapping[str, Spec]:
        return self._specs

    @property
    def source(self) -> str:
        return self._source

    def __getitem__(self, name: str) -> Tensor:
        self.spec_of(name)
        raise CheckpointError(f"{self._source} has not been downloaded, so {name!r} is not here")


def expand_path(text: str) -> str:
    """Expand `$NAME`, `${NAME}` and a leading `~`.

    Raises:
        InputError: a variable is not set, or a user is not known.

    >>> expand_path("$HOME/models") == expand_path("~/models")
    True
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise InputError(
                f"the environment variable {name!r} in {text!r} is not set; set it, or write the "
                "path out"
            )
        return os.environ[name]

    expanded = _VARIABLE.sub(value, text)
    if not expanded.startswith("~"):
        return expanded
    try:
        return str(Path(expanded).expanduser())
    except RuntimeError as error:
        raise InputError(f"the ~ in {text!r} cannot be expanded: {error}") from error


def _joined(part: str, relative_to: str | os.PathLike[str] | None) -> Path:
    return Path(part) if relative_to is None else Path(relative_to) / part


def _split_adapter(text: str, exists: Callable[[str], bool]) -> tuple[str, str | None]:
    def is_path(part: str) -> bool:
        return exists(_split_revision(part, exists)[0])

    if "+" not in text or is_path(text):
        return text, None
    places = [k for k, character in enumerate(text) if character == "+"]
    # A plus within a part is a letter of a path that exists; the longest such model wins.
    for k in reversed(places):
        model, adapter = text[:k], text[k + 1 :]
        if is_path(model) and ("+" not in adapter or is_path(adapter)):
            return model, adapter
    model, _, adapter = text.partition("+")
    if "+" in adapter and not is_path(adapter):
        raise InputError(
            f"the reference {text!r} has more than one '+'; expected one model and one adapter. "
            "To use several adapters, merge the first into a file by itself"
        )
    return model, adapter


def _split_revision(text: str, exists: Callable[[str], bool]) -> tuple[str, str | None]:
    if exists(text) or "@" not in text:
        return text, None
    places = [k for k, character in enumerate(text) if character == "@"]
    k = next((k for k in reversed(places) if exists(text[:k])), places[0])
    return text[:k], text[k + 1 :]


def _why_not_on_hub(model: str, path: Path) -> str | None:
    """Say why a missing path is not looked for on the Hub; None if it is."""
    if not is_hub_id(model):
        return "it has not the form organization/name either, so the Hub was not asked"
    if model.endswith(_OF_FILES):
        return (
            f"the Hub was not asked, since its suffix is a file's; for the Hub, write {_HUB}{model}"
        )
    if path.parent.is_dir():
        return (
            f"the Hub was not asked, since there is a folder {path.parent}; for the Hub, write "
            f"{_HUB}{model}"
        )
    return None
