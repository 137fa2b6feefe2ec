"""Files beside the weights of a model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conjoin.checkpoints import Checkpoint

__all__ = ["folder_of", "folder_of_tokenizer", "json_bytes", "parsed_json", "read_beside"]


def folder_of(checkpoint: Checkpoint) -> Path | None:
    """Give the folder with the config of a model, or None where there is no config."""
    # The first file is the model's own; those of an adapter come after it.
    parents = [path.parent for path in checkpoint.files[:1]]
    return parents[0] if parents and (parents[0] / "config.json").is_file() else None


def folder_of_tokenizer(checkpoint: Checkpoint, name: str) -> Path | None:
    """Give the folder with a model's tokenizer: that of its adapter, if that has one.

    Args:
        checkpoint: the model.
        name: of the file that is looked for.
    """
    folder = folder_of(checkpoint)
    if folder is None:
        return None
    adapters = {p.parent for p in checkpoint.files if p.name == "adapter_config.json"}
    return next((one for one in (*adapters, folder) if (one / name).is_file()), None)


def read_beside(checkpoint: Checkpoint, name: str) -> bytes:
    """Read a file beside a model's config; nothing if there is none."""
    folder = folder_of(checkpoint)
    try:
        return b"" if folder is None else (folder / name).read_bytes()
    except OSError:
        return b""


def json_bytes(config: Mapping[str, Any]) -> bytes:
    """Write a JSON file, in plain text where its characters allow that."""
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates
        return (json.dumps(config, indent=2) + "\n").encode()


def parsed_json(content: bytes) -> dict[str, Any] | None:
    """Give the object that a JSON file holds; None if it holds none."""
    try:
        config = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None
