"""Whether a result is what its record says: some of its tensors are made again and compared."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import xxhash

from conjoin.checkpoints import Checkpoint, open_checkpoint
from conjoin.deferred import torch
from conjoin.errors import CheckpointError
from conjoin.merging.blocks import blocks_of
from conjoin.recipes.plan import Plan, make_plan
from conjoin.recipes.provenance import RECORD, combined
from conjoin.recipes.reading import recipe_from_text
from conjoin.recipes.tasks import for_task
from conjoin.streaming import Job, NotedCheckpoint
from conjoin.streaming.noted import raw_bytes

__all__ = ["Verdict", "read_record", "verify"]


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Args:
        tensors: names of those that were made again.
        of: how many the result has.
        wrong: what does not fit, in words; empty if all does.
        notes: what could not be checked.
    """

    tensors: tuple[str, ...]
    of: int
    wrong: tuple[str, ...]
    notes: tuple[str, ...]


def read_record(out: str | PathLike[str]) -> dict[str, Any]:
    """Give the record of a result: of the folder, or of the file beside which it lies.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    out = Path(out)
    path = out / RECORD if out.is_dir() else out.with_name(f"{out.stem}.{RECORD}")
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(
            f"there is no {path}, which says how {out} was made; only results of conjoin merge can "
            "be verified"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("recipe_text"), str):
        raise CheckpointError(f"{path} is no record of conjoin merge")
    return found


def verify(out: str | PathLike[str], *, samples: int | None = 20, seed: int = 0) -> Verdict:
    """Make some tensors of a result again from its inputs, and compare all their bytes.

    Also compared: sizes and headers of the inputs, the digests of what is read, and those of the
    result's bytes, with what the record says.

    Args:
        out: folder or file that `run_plan` has made, with its record.
        samples: how many tensors, drawn at random; None is all.
        seed: of the drawing.

    Raises:
        CheckpointError, RecipeError: the record, the result or the inputs cannot be read.
    """
    out = Path(out)
    record = read_record(out)
    folder = (out.absolute().parent / str(record.get("recipe_folder", "."))).resolve()
    recipe = recipe_from_text(record["recipe_text"], folder=folder)
    task, single = record.get("task"), record.get("single")
    if type(task) is int and recipe.method.per_task:
        recipe = for_task(recipe, task)
    plan = make_plan(recipe, single=single if isinstance(single, str) else None)
    wrong = _changed_inputs(plan, record)
    if record.get("recipe") != json.loads(json.dumps(recipe.canonical())):
        wrong.append("the recipe's text and what the record says of it differ")
    result = open_checkpoint(out)
    names = [name for name, spec in plan.merged.specs.items() if spec.alias_of is None]
    chosen = names
    if samples is not None and samples < len(names):
        drawn = set(random.Random(seed).sample(names, samples))
        chosen = [name for name in names if name in drawn]
    missing = [name for name in plan.merged.specs if name not in result.specs]
    wrong += [f"{name!r} is missing" for name in missing]
    others = [name for name in result.specs if name not in plan.merged.specs]
    wrong += [f"{name!r} is not in what the recipe gives" for name in others]
    notes = []
    for name in chosen:
        if name in missing:
            continue
        wrong += _compare(plan, record, result, name)
    made_by, now = record.get("made_by", {}), plan.describe()
    if made_by.get("torch") != now["torch"]:
        notes.append("made with another version of torch, which may round otherwise")
    if made_by.get("compiled", False) != now["compiled"]:
        notes.append(
            "made with conjoin's compiled part and verified without it, or the other way round; "
            "sums over whole tensors may differ in their last bits"
        )
    return Verdict(tuple(chosen), len(names), tuple(wrong), tuple(notes))


def _changed_inputs(plan: Plan, record: Mapping[str, Any]) -> list[str]:
    wrong = []
    said: Sequence[Any] = record.get("inputs", [])
    for one, files in zip(said, plan.identities, strict=False):
        if len(one.get("files", [])) != len(files):
            wrong.append(
                f"the input {one.get('model')} has changed: its number of files was "
                f"{len(one.get('files', []))} and is {len(files)}"
            )
            continue
        for before, now in zip(one["files"], files, strict=True):
            for key in ("bytes", "header"):
                if before.get(key) != now[key]:
                    wrong.append(
                        f"the input {now['path']} has changed: its {key} was {before.get(key)} and "
                        f"is {now[key]}"
                    )
    if len(said) != len(plan.identities):
        wrong.append(f"the record has {len(said)} inputs, the recipe {len(plan.identities)}")
    return wrong


def _compare(plan: Plan, record: Mapping[str, Any], result: Checkpoint, name: str) -> list[str]:
    spec, found = plan.merged.specs[name], result.specs[name]
    if (spec.shape, spec.stored) != (found.shape, found.stored):
        return [
            f"{name!r} is {found.shape} {found.stored}, and should be {spec.shape} {spec.stored}"
        ]
    differing, outs, inputs = 0, [], list[list[str | None]]()
    for job in (job for job in plan.jobs if job.name == name):
        count, out, read = _again(plan, result, job)
        differing += count
        outs.append(out)
        inputs.append(read)
    wrong = []
    if differing:
        wrong.append(f"{name!r}: {differing} of {spec.numel} elements differ from what is computed")
    if outs and combined(outs) != record.get("outputs", {}).get(name):
        wrong.append(f"{name!r}: its bytes are not those that were written")
    task = plan.merged.tasks[name]
    for k, source in enumerate(task.inputs):
        own = combined([read[k] for read in inputs]) if inputs else None
        said = record["inputs"][source.model].get("tensors", {}).get(source.name)
        if own is not None and said is not None and own != said:
            wrong.append(f"{source.name!r} of {source} is not what was read then")
    return wrong


def _again(plan: Plan, result: Checkpoint, job: Job) -> tuple[int, str, list[str | None]]:
    """Elements of a job that differ, the digest of the result's bytes, and those of the inputs."""
    digest, differing = xxhash.xxh3_64(), 0
    task = plan.merged.tasks[job.name]
    whole = job.stop - job.start == task.spec.numel
    spans = [(job.start, job.stop)] if whole else list(blocks_of(job.start, job.stop))
    for start, stop in spans:
        made = plan.merged.read(job.name, start, stop).cpu().contiguous()
        there = result.read(job.name, start, stop)
        data = raw_bytes(there)
        digest.update(data)
        if raw_bytes(made) != data:
            pairs = made.view(torch.uint8) != there.contiguous().view(torch.uint8)
            differing += int(pairs.reshape(stop - start, -1).any(1).sum())
    read = [
        source.checkpoint.take(source.name, job.start, job.stop)
        if isinstance(source.checkpoint, NotedCheckpoint)
        else None
        for source in task.inputs
    ]
    return differing, digest.hexdigest(), read
