"""Models on the Hugging Face Hub: choosing the files that are needed, and fetching them.

Needs `pip install "conjoin[hub]"`. Cache, token, mirror and offline mode are those of
huggingface_hub: HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE. Its bars show the
progress of a download.
"""

import glob
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from conjoin.checkpoints.carried import is_carried
from conjoin.checkpoints.layout import choose_weights
from conjoin.checkpoints.safetensors_header import CODES
from conjoin.checkpoints.spec import Spec, kind_by_name
from conjoin.dtypes import is_known
from conjoin.errors import CheckpointError, InputError

__all__ = ["fetch_model", "files_to_fetch", "is_hub_id", "remote_specs"]

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
# Files of which a model in the cache has at least one.
_LANDMARKS = (
    "config.json",
    "adapter_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
_IN_FOLDERS = re.compile(r"additional_chat_templates/[^/]+\.jinja|\w+/config\.json")


def is_hub_id(text: str) -> bool:
    """Say whether a text has the form of a Hub id, `organization/name`.

    >>> [is_hub_id(text) for text in ("org/name", "./org/name", "a/b/c", "name")]
    [True, False, False, False]
    """
    return (
        _ID.fullmatch(text) is not None
        and len(text) <= 96
        and not any(part in text for part in ("--", ".."))
        and not text.endswith((".git", "-", "."))
    )


def fetch_model(name: str, revision: str | None = None) -> Path:
    """Download the files of a model that are needed, and return its folder in the cache.

    What is in the cache already is not downloaded again. If the Hub cannot be reached, or
    HF_HUB_OFFLINE is set, the cache is used as it is.

    Args:
        name: `organization/name`.
        revision: a branch, tag or commit; None means the main branch.

    Raises:
        InputError: huggingface_hub is not installed.
        CheckpointError: there is no such model or revision, or no access, or it has no weights.
    """
    hub = _hub()
    what = _what(name, revision)
    errors = hub.utils
    try:
        info = hub.model_info(name, revision=revision)
    except (
        errors.GatedRepoError,
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
    ) as e:
        raise CheckpointError(f"{what} cannot be had: {_first_line(e)}; {_advice(e)}") from e
    except Exception as error:  # every library for HTTP has errors of its own
        folder = _cached(hub, name, revision)
        if folder is None:
            raise CheckpointError(
                f"{what} is not in the cache, and the Hub cannot be asked: {_first_line(error)}"
            ) from error
        return folder
    needed = files_to_fetch([file.rfilename for file in info.siblings or []], what)
    try:
        folder = hub.snapshot_download(
            name, revision=revision, allow_patterns=[glob.escape(file) for file in needed]
        )
    except Exception as error:
        raise CheckpointError(f"{what} could not be downloaded: {_first_line(error)}") from error
    return Path(folder)


def files_to_fetch(names: Iterable[str], what: str) -> list[str]:
    """Return which of the files in a repository are needed: one set of weights, and small files.

    Args:
        names: of all files, with `/` between folders.
        what: what to call the repository in messages.

    Raises:
        CheckpointError: it has no weights, or several sets of them.

    >>> files_to_fetch(["README.md", "config.json", "model.safetensors", "pytorch_model.bin"], "it")
    ['config.json', 'model.safetensors']
    """
    names = sorted(names)
    top = [name for name in names if "/" not in name]
    layout = choose_weights(top, what)
    weights = {*layout.files, layout.index}
    if "adapter_config.json" in top:
        weights |= {name for name in top if name.startswith("adapter_model.")}
    # Only the config knows whether Python files are needed to load the result; they are short.
    return [
        name
        for name in names
        if name in weights
        or (name in top and (is_carried(name) or name.endswith(".py")))
        or _IN_FOLDERS.fullmatch(name)
    ]


def remote_specs(name: str, revision: str | None = None) -> dict[str, Spec]:
    """Read the headers of a model's safetensors files on the Hub, without downloading the files.

    Raises:
        InputError: huggingface_hub is not installed.
        CheckpointError: there is no such model, it has no safetensors files, or a dtype is unknown.
    """
    hub = _hub()
    what = _what(name, revision)
    try:
        found = hub.get_safetensors_metadata(name, revision=revision)
    except Exception as error:
        raise CheckpointError(
            f"the headers of {what} cannot be read without a download: {_first_line(error)}"
        ) from error
    specs: dict[str, Spec] = {}
    for file, header in found.files_metadata.items():
        for tensor, info in header.tensors.items():
            if info.dtype not in CODES or not is_known(CODES[info.dtype]):
                raise CheckpointError(
                    f"tensor {tensor!r} in {file} of {what} has the dtype {info.dtype!r}, which "
                    f"this version of torch cannot represent; known are {', '.join(CODES)}"
                )
            dtype = CODES[info.dtype]
            kind = kind_by_name(tensor, dtype, tuple(info.shape))
            specs[tensor] = Spec(tuple(info.shape), dtype, kind, source=f"{file} of {what}")
    return specs


def _hub() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.utils
    except ImportError as error:
        raise InputError(
            'models on the Hugging Face Hub need huggingface_hub: pip install "conjoin[hub]"'
        ) from error
    return huggingface_hub


def _cached(hub: ModuleType, name: str, revision: str | None) -> Path | None:
    """The folder of a revision in the cache, perhaps with some files only."""
    for landmark in _LANDMARKS:
        path = hub.try_to_load_from_cache(name, landmark, revision=revision)
        if isinstance(path, str):  # else None, or a mark that the file is known not to exist
            return Path(path).parent
    return None


def _what(name: str, revision: str | None) -> str:
    return f"the model {name!r} of the Hub" + ("" if revision is None else f" at {revision!r}")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _advice(error: Exception) -> str:
    kind = type(error).__name__
    if kind == "GatedRepoError":
        return "ask for access on its page, and log in by `hf auth login` or HF_TOKEN"
    if kind == "RevisionNotFoundError":
        return "a revision is a branch, a tag or a full commit"
    return "check the name; a private model needs `hf auth login` or HF_TOKEN"
