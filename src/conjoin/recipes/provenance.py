"""How a result was made, written beside it: for readers a model card, for programs a JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash
import yaml

from conjoin import __version__
from conjoin.compiled import load_library
from conjoin.deferred import torch_version
from conjoin.recipes.plan import Plan
from conjoin.recipes.tasks import task_of
from conjoin.streaming import Done

__all__ = ["RECORD", "combined", "model_card", "provenance", "to_json"]

RECORD = "conjoin.json"
"""Name of the JSON file."""


def provenance(
    plan: Plan, done: Mapping[int, Done], out: Path, sha256: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Give what is needed to make a result again, and to check it.

    Digests are XXH3 (64 bits): of a tensor, over those of its parts, in order; of the parts of
    inputs, over their blocks of 2**18 elements. Of the files of the inputs the names are written,
    and not their folders, which the recipe says as far as it wants to; the recipe's folder is
    relative to the result's.

    Args:
        plan: that was run.
        done: what every job has read and written.
        out: where the result will be.
        sha256: of the files of the inputs, by path, if they were asked for.
    """
    return {
        "made_by": {
            "conjoin": __version__,
            "torch": torch_version(),
            "compiled": load_library() is not None,
            "python": platform.python_version(),
        },
        "plan": plan.hash,
        "recipe": plan.recipe.canonical(),
        "recipe_text": plan.recipe.text,
        "recipe_folder": os.path.relpath(plan.recipe.folder, out.parent),
        "single": plan.single,
        "task": task_of(plan.recipe),
        "inputs": _inputs(plan, done, sha256 or {}),
        "outputs": _outputs(plan, done),
        "notes": _notes(plan),
    }


def _inputs(
    plan: Plan, done: Mapping[int, Done], sha256: Mapping[str, str]
) -> list[dict[str, Any]]:
    # By their start: a layer that stands twice in the result is read twice.
    digests: dict[tuple[int, str], dict[int, str | None]] = {}
    for job in plan.jobs:
        task = plan.merged.tasks[job.name]
        for tensor, digest in zip(task.inputs, done[job.number].inputs, strict=True):
            digests.setdefault((tensor.model, tensor.name), {})[job.start] = digest
    recipe = plan.recipe
    sources = [*recipe.sources, *([] if recipe.base is None else [recipe.base])]
    found = []
    for number, (source, files) in enumerate(zip(sources, plan.identities, strict=True)):
        found.append(
            {
                "model": source.reference,
                "role": "base" if number == len(recipe.sources) else "model",
                "files": [_file(file, sha256) for file in files],
                "tensors": {
                    name: combined([parts[start] for start in sorted(parts)])
                    for (model, name), parts in digests.items()
                    if model == number
                },
            }
        )
    return found


def _file(file: Mapping[str, Any], sha256: Mapping[str, str]) -> dict[str, Any]:
    found = {
        "name": Path(file["path"]).name,
        "bytes": file["bytes"],
        "header": file["header"],
    }
    if file["path"] in sha256:
        found["sha256"] = sha256[file["path"]]
    return found


def _outputs(plan: Plan, done: Mapping[int, Done]) -> dict[str, Any]:
    digests: dict[str, list[str | None]] = {}
    for job in plan.jobs:
        digests.setdefault(job.name, []).append(done[job.number].out)
    return {name: combined(parts) for name, parts in digests.items()}


def combined(parts: Sequence[str | None]) -> str | None:
    """Give the digest of a tensor from those of its parts; None if one is missing."""
    whole = [part for part in parts if part is not None]
    if len(whole) < len(parts):
        return None  # a part was not read from its file, block by block
    return xxhash.xxh3_64_hexdigest("".join(whole).encode())


def model_card(plan: Plan, out: Path) -> str:
    """Give a README of the kind that the Hugging Face Hub shows: what was merged, and how.

    Models that are ids of the Hub are named as ``base_model``, so that the Hub draws the family.
    """
    recipe = plan.recipe
    sources = [*recipe.sources, *([] if recipe.base is None else [recipe.base])]
    head: dict[str, Any] = {"tags": ["merge", "conjoin"]}
    hub = [
        name for name in (_hub_id(source.reference, recipe.folder) for source in sources) if name
    ]
    if hub:
        head = {"base_model": list(dict.fromkeys(hub)), "base_model_relation": "merge", **head}
    if "config.json" in plan.carried:
        head["library_name"] = "transformers"
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {out.name}",
        "",
        f"Merged by [conjoin](https://pypi.org/project/conjoin/) {__version__} with the method "
        f"`{recipe.method.name}`: `{recipe.method.formula}`"
        + (f" ({recipe.method.paper})." if recipe.method.paper else "."),
        "",
        "| | model |",
        "|---|---|",
        *(
            f"| {'base' if k == len(recipe.sources) else k} | `{s.reference}` |"
            for k, s in enumerate(sources)
        ),
        "",
        *(f"- {note}" for note in _notes(plan)),
        "",
        "## Recipe",
        "",
        "```yaml",
        plan.recipe.text.rstrip(),
        "```",
        "",
        f"`{RECORD}` has the digests of all inputs and outputs; `conjoin verify` checks them.",
        "",
    ]
    return "\n".join(lines)


def _notes(plan: Plan) -> list[str]:
    """The notes; one of a line in the recipe names its file, and not where that is."""
    path = plan.recipe.path
    if path is None:
        return list(plan.notes)
    return [note.replace(str(path), path.name) for note in plan.notes]


def _hub_id(reference: str, folder: Path) -> str | None:
    name = reference.removeprefix("hf://").partition("+")[0].partition("@")[0]
    return (
        name
        if name.count("/") == 1 and name[0] not in "./~$" and not (folder / name).exists()
        else None
    )


def to_json(value: Mapping[str, Any]) -> bytes:
    """Give a record as the bytes of its file, the same for the same record."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
