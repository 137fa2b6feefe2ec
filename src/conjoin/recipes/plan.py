"""A plan: all that a recipe comes to, known from headers before any tensor is read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from conjoin import __version__
from conjoin.compiled import load_library
from conjoin.deferred import torch, torch_version
from conjoin.merging import BLOCK, Merged, Rule, Task
from conjoin.recipes.agreeing import check_agreement
from conjoin.recipes.carrying import (
    carried_from,
    carrier_of,
    layers_before,
    rows_of_vocabulary,
    unclear_config,
    unclear_vocabulary,
)
from conjoin.recipes.chat_templates import chat_template_of
from conjoin.recipes.identity import identify, sha256_of
from conjoin.recipes.opening import Model, Opened, open_sources
from conjoin.recipes.parts import build_tasks
from conjoin.recipes.reading import read_recipe, recipe_from
from conjoin.recipes.recipe import Recipe
from conjoin.streaming import Job, Layout, cut_into_jobs, lay_out
from conjoin.streaming.jobs import SPAN

__all__ = ["Plan", "Record", "make_plan"]

_SHARD_BYTES = 5_000_000_000
"""As transformers writes by default."""


@dataclass(frozen=True, slots=True)
class Record:
    """How one tensor of the result is made, and where it goes.

    Args:
        name: of the tensor.
        rule: by which it is made; see `conjoin.merging.Rule`.
        method: of merging, where the rule is that.
        sources: (number of the model, name there) of all that is read; the base is last.
        weights: one number per model, or None.
        parameters: of the method.
        shape, dtype: of the result.
        arithmetic: dtype in which it is computed.
        file: that it is written to.
        begin, end: bytes in that file.
        tied_to: for a second name, the tensor that it means; nothing is computed for it.
    """

    name: str
    rule: str
    method: str | None
    sources: tuple[tuple[int, str], ...]
    weights: tuple[float, ...] | None
    parameters: Mapping[str, Any]
    shape: tuple[int, ...]
    dtype: str
    arithmetic: str
    file: str
    begin: int
    end: int
    tied_to: str | None


@dataclass(frozen=True)
class Plan:
    """What a recipe comes to. `make_plan` makes one.

    Args:
        recipe: of which.
        opened: its models.
        merged: the result as a lazy checkpoint.
        layout: of the files.
        jobs: parts in which it is written.
        carried: files that go along (config, tokenizer), by their name in the result.
        notes: what a user should know before it runs.
        identities: of the files of every model, the base last.
        single: name of the one file that the result is; None if it is a folder.
        chat_template: that the tokenizer of the result gets; None to leave it.
    """

    recipe: Recipe
    opened: Opened
    merged: Merged
    layout: Layout
    jobs: tuple[Job, ...]
    carried: Mapping[str, Path]
    notes: tuple[str, ...]
    identities: tuple[tuple[Mapping[str, Any], ...], ...]
    single: str | None = None
    chat_template: str | None = None

    @property
    def read_bytes(self) -> int:
        """Bytes of tensors that are read, once."""
        found = {
            (source.model, source.name): source.spec.nbytes
            for task in self.merged.tasks.values()
            if task.spec.alias_of is None
            for source in task.inputs
        }
        return sum(found.values())

    @property
    def passes(self) -> int:
        """How many times the inputs are read at least: twice where a method looks at all first."""
        return 1 + any(
            task.summarized for task in self.merged.tasks.values() if task.spec.alias_of is None
        )

    def records(self) -> tuple[Record, ...]:
        """Give one flat record for each tensor of the result, in its order."""
        return self._records

    @cached_property
    def _records(self) -> tuple[Record, ...]:
        places = {
            name: (file.name, begin)
            for file in self.layout.files
            for name, begin in file.offsets.items()
        }
        return tuple(
            _record(name, task, places[task.spec.alias_of or name])
            for name, task in self.merged.tasks.items()
        )

    def describe(self) -> dict[str, Any]:
        """Give all that the bytes of the result depend on, as plain data."""
        return {
            "recipe": self.recipe.canonical(),
            "inputs": [[dict(file) for file in files] for files in self.identities],
            "records": [
                {field: getattr(record, field) for field in _FIELDS} for record in self.records()
            ],
            "carried": self._digests,
            "chat_template": self.chat_template,
            "untied": self.opened.untied,
            "conjoin": __version__,
            "torch": torch_version(),
            "compiled": load_library() is not None,
            "block": BLOCK,
            "span": SPAN,
        }

    @cached_property
    def _digests(self) -> dict[str, str]:
        """SHA-256 of the files that go along."""
        found = sha256_of(list(self.carried.values()))
        return {name: found[str(path)] for name, path in sorted(self.carried.items())}

    @cached_property
    def hash(self) -> str:
        """SHA-256 of `describe()`: equal for plans that lead to the same bytes."""
        text = json.dumps(self.describe(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


_FIELDS = tuple(field.name for field in dataclasses.fields(Record))


def make_plan(
    recipe: Recipe | str | PathLike[str] | Mapping[str, Any],
    *,
    given: Mapping[str, Model] | None = None,
    device: torch.device | None = None,
    single: str | None = None,
    headers_only: bool = False,
) -> Plan:
    """Plan a recipe from the headers of its models; no tensor is read.

    Args:
        recipe: see `read_recipe`; or the file, or the mapping, that it is in.
        given: models that are open already, or modules, by their reference in the recipe.
        device: where the arithmetic is done; None is the CPU.
        single: name of the one file that the result is to be; None divides it by the recipe.
        headers_only: download nothing from the Hub: the plan can be looked at, and not run.

    Raises:
        RecipeError: something does not fit; the message has every problem, with its line.
        InputError: `given` is no mapping.

    >>> import tempfile
    >>> from conjoin.checkpoints import save
    >>> from conjoin.recipes import recipe_from
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in "ab":
    ...         _ = save({"fc.bias": torch.zeros(3)}, Path(folder, f"{name}.safetensors"))
    ...     recipe = recipe_from(
    ...         {"method": "mean", "models": ["a.safetensors", "b.safetensors"]}, folder=folder
    ...     )
    ...     plan = make_plan(recipe)
    >>> plan.read_bytes, [record.name for record in plan.records()]
    (24, ['fc.bias'])
    """
    if isinstance(recipe, str | PathLike):
        recipe = read_recipe(recipe)
    elif isinstance(recipe, Mapping):
        recipe = recipe_from(recipe)
    opened = open_sources(recipe, given, headers_only=headers_only)
    built = build_tasks(recipe, opened)
    merged = Merged(
        built.tasks,
        seed=recipe.seed,
        allow_nonfinite=recipe.nonfinite == "allow",
        device=device,
        metadata={"conjoin.method": recipe.method.name, **recipe.output.metadata},
    )
    shard = None if single is not None else recipe.output.shard_size or _SHARD_BYTES
    layout = lay_out(
        merged.specs, merged.metadata, shard_bytes=shard, name=single or "model.safetensors"
    )
    carried, notes = carried_from(recipe, opened) if single is None else ({}, [])
    notes += unclear_config(carried, merged.specs, recipe, layers_before(recipe, opened))
    differences = check_agreement(recipe, opened, merged)
    notes += [*opened.notes, *(differences if carried else [])]
    template, told = chat_template_of(recipe, opened, carried, carrier_of(recipe, opened)[1])
    notes += told
    rows = rows_of_vocabulary(recipe, opened, merged.specs)
    notes += unclear_vocabulary(carried, rows)
    if opened.matched is not None:
        notes += opened.matched.notes
        if single is not None and opened.matched.entries:
            notes.append(
                f"{single} is one file, without the tokenizer that has the new tokens; write a "
                "folder to have it"
            )
    elif carried and rows is not None:
        notes.append(
            f"config.json gets the vocab_size {rows[1]} of the result's embeddings; the tokenizer "
            f"that goes along is of a model with {rows[0]}: put the one that fits in its place"
        )
    return Plan(
        recipe,
        opened,
        merged,
        layout,
        cut_into_jobs(layout, merged),
        carried,
        (*recipe.notes, *built.notes, *_notes(merged, built.dropped, opened.missing), *notes),
        tuple(tuple(identify(files)) for files in opened.files),
        single,
        template,
    )


def _record(name: str, task: Task, place: tuple[str, int]) -> Record:
    file, begin = place
    spec = task.spec
    return Record(
        name,
        task.rule.value,
        task.method.name if task.method is not None else None,
        tuple((source.model, source.name) for source in task.inputs),
        task.settings.weights if task.rule in (Rule.METHOD, Rule.POOL) else None,
        _parameters(task),
        spec.shape,
        spec.stored.name,
        task.working.name,
        file,
        begin,
        begin + spec.nbytes,
        spec.alias_of,
    )


def _parameters(task: Task) -> dict[str, Any]:
    """Every parameter, so that one which is left out is equal to its default."""
    if task.rule is not Rule.METHOD or task.method is None:
        return {}
    return {**task.method.defaults, **task.settings.parameters}


def _notes(merged: Merged, dropped: Sequence[str], missing: Sequence[str]) -> list[str]:
    found = [f"{name} has to be downloaded" for name in missing]
    if dropped:
        found.append(
            f"{len(dropped)} tensors that only some models have are left out: {dropped[0]}, ..."
        )
    if merged.pooled:
        found.append(
            "BatchNorm statistics are pooled and do not fit the merged weights; re-estimate them "
            "on training data before use (conjoin.reestimate_batchnorm)"
        )
    return found
