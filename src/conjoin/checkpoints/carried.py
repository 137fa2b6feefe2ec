"""The files beside the weights that a result should have too: config, tokenizer, licence."""

import json
import os
import re
from pathlib import Path
from typing import Any

from conjoin.checkpoints.folder import check_within
from conjoin.checkpoints.layout import choose_weights
from conjoin.errors import CheckpointError

__all__ = ["carried_files", "is_carried", "is_of_tokenizer"]

_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".bpe", ".vocab", ".spm")
_LICENCE = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY)([.-].*)?", re.IGNORECASE)
# What a training run left would say of the result what is not true of it.
_OF_THE_TRAINING = re.compile(
    r"trainer_state\.json|(all|train|eval|predict|test)_results\.(json|txt)|"
    r"requirements.*\.txt|README.*|.*\.index(\.[^.]+)?\.json",
    re.IGNORECASE,
)
# Where a config may name code of its own, under "auto_map".
_WITH_CODE = (
    "config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)
_TEMPLATES = "additional_chat_templates"
_OF_TOKENIZERS = re.compile(
    r"tokenizer.*\.json|tokenization\w*\.py|special_tokens_map\.json|added_tokens\.json|"
    r"vocab\.(json|txt)|merges\.txt|chat_template\.(json|jinja)|"
    rf".*\.(model|tiktoken|bpe|vocab|spm)|{_TEMPLATES}/.*"
)


def is_carried(name: str) -> bool:
    """Say by its name whether a file is carried along; code depends on the config, so it is not.

    >>> [is_carried(name) for name in ("config.json", "model.safetensors.index.json", "README.md")]
    [True, False, False]
    """
    if name.startswith(".") or _OF_THE_TRAINING.fullmatch(name):
        return False
    return name.endswith(_SUFFIXES) or _LICENCE.fullmatch(name) is not None


def is_of_tokenizer(name: str) -> bool:
    """Say by its name whether a carried file belongs to the tokenizer.

    >>> [is_of_tokenizer(name) for name in ("config.json", "tokenizer.json", "spiece.model")]
    [False, True, True]
    """
    return _OF_TOKENIZERS.fullmatch(name) is not None


def carried_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the files of a folder that a result made from it should have too, by name.

    Config, generation config, tokenizer, preprocessor, chat templates and licence: top-level
    files that `is_carried` knows by their suffix. `adapter_config.json` only where the weights are
    an adapter's. Python files only if a config names them under `auto_map`; they are copied as
    data. Also the templates in `additional_chat_templates`, and for sentence-transformers the
    configs of the folders that `modules.json` names. Nothing is executed; no weights are given.

    Raises:
        CheckpointError: the folder cannot be listed, or a file is a link that leads out of it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("config.json", "vocab.txt", "README.md", "model.py", "model.safetensors"):
    ...         Path(folder, name).write_text("{}") and None
    ...     [path.name for path in carried_files(folder)]
    ['config.json', 'vocab.txt']
    """
    folder = Path(folder)
    try:
        names = sorted(item.name for item in folder.iterdir() if item.is_file())
    except OSError as error:
        raise CheckpointError(f"cannot list {folder}: {error.strerror or error}") from error
    configs = {name: _parsed(folder, name) for name in (*_WITH_CODE, "modules.json")}
    code = {module for name in _WITH_CODE for module in _own_code(configs[name])}
    chosen = [name for name in names if is_carried(name) or name in code]
    if not _has_adapter_alone(names):
        chosen = [name for name in chosen if name != "adapter_config.json"]
    for inner in _parts(configs["modules.json"]):
        if (folder / inner).is_dir() and check_within(folder, inner):
            chosen += [f"{inner}/{item.name}" for item in (folder / inner).glob("*.json")]
    chosen += [f"{_TEMPLATES}/{item.name}" for item in (folder / _TEMPLATES).glob("*.jinja")]
    return [check_within(folder, name) for name in sorted(chosen) if (folder / name).is_file()]


def _has_adapter_alone(names: list[str]) -> bool:
    try:
        return choose_weights(names, "").files[0].startswith("adapter_model")
    except CheckpointError:
        return False


def _parsed(folder: Path, name: str) -> Any:
    """What a JSON file holds; None if it is missing or damaged, as the file is only copied."""
    if not (folder / name).is_file():
        return None
    try:
        return json.loads(check_within(folder, name).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _own_code(config: Any) -> set[str]:
    """Names of the Python files of `auto_map`: {"AutoModel": "modeling_x.XModel"}."""
    auto_map = config.get("auto_map") if isinstance(config, dict) else None
    if not isinstance(auto_map, dict):
        return set()
    values = [
        item
        for value in auto_map.values()
        for item in (value if isinstance(value, list) else [value])
    ]
    # "repository--module.Class" is code of another repository.
    return {
        f"{value.rpartition('.')[0]}.py"
        for value in values
        if isinstance(value, str) and re.fullmatch(r"\w+\.\w+", value)
    }


def _parts(modules: Any) -> list[str]:
    """Folders of a sentence-transformers model, such as "1_Pooling"."""
    entries = modules if isinstance(modules, list) else []
    paths = [entry.get("path") for entry in entries if isinstance(entry, dict)]
    return [path for path in paths if isinstance(path, str) and re.fullmatch(r"\w+", path)]
