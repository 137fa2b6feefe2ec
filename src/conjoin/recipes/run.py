"""A plan carried out: all of the result, or a state that can be gone on with."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from conjoin.arguments import as_whole
from conjoin.atomic import write_bytes
from conjoin.deferred import has_torch, import_torch
from conjoin.errors import InputError, MethodError, MismatchError, NonFiniteError, StageError
from conjoin.recipes.carrying import adjusted, layers_before, rows_of_vocabulary
from conjoin.recipes.chat_templates import with_chat_template
from conjoin.recipes.identity import identify, sha256_of
from conjoin.recipes.plan import Plan
from conjoin.recipes.provenance import RECORD, model_card, provenance, to_json
from conjoin.streaming import (
    Done,
    Place,
    Progress,
    Ranks,
    allocate,
    check_out,
    run_forked,
    run_place,
    write_tensors,
)

__all__ = ["Options", "run_plan"]


@dataclass(frozen=True)
class Options:
    """How a plan is run; none of this changes a byte of the result.

    Args:
        resume: go on with what an interrupted run of the same plan has left; with nothing to go on
            with, begin.
        restart: remove what an interrupted run has left, and begin.
        overwrite: replace an existing result, at once when the new one is complete.
        processes: how many copies of this process share the work (see `run_forked`): the fastest
            way, but no program should be copied that has threads of its own.
        threads: of each process; None is one for each core.
        sync: wait until the result is on the disk before it appears: against a loss of power.
        sha256: write the SHA-256 of the input files into the record; a second or more per GB.
        card: write a model card, README.md (folders only).
        progress: is told how far it is.
    """

    resume: bool = False
    restart: bool = False
    overwrite: bool = False
    processes: int = 1
    threads: int | None = None
    sync: bool = True
    sha256: bool = False
    card: bool = True
    progress: Progress | None = None

    def __post_init__(self) -> None:
        as_whole(self.processes, "processes", 1)
        if self.threads is not None:
            as_whole(self.threads, "threads", 1)


def run_plan(
    plan: Plan,
    out: str | PathLike[str],
    options: Options | None = None,
    ranks: Ranks | None = None,
) -> Mapping[str, Any]:
    """Write the result of a plan: a folder, or one file if the plan is for a single one.

    Everything is made in ``OUT.partial`` and appears at `out` by one rename. When this is
    interrupted at any moment, the partial folder holds what is needed to go on.

    Args:
        plan: see `make_plan`.
        out: folder or file that will be the result.
        options: see `Options`.
        ranks: this process among those of the run.

    Returns:
        The record that is written beside the result, as ``conjoin.json``.

    Raises:
        InputError: there is no folder to write into, or `options` are none.
        OutputExistsError: something is at `out`.
        StageError: another run is at work there, or an interrupted run of another plan is.
        NonFiniteError, MismatchError, CheckpointError: the models cannot be merged.
        OSError: the disk is full, for instance; known before any tensor is read.
    """
    out, options, ranks = Path(out), options or Options(), ranks or Ranks()
    if not isinstance(options, Options):
        raise InputError(
            "options are conjoin.recipes.Options, such as Options(processes=2), not "
            f"{type(options).__name__}"
        )
    if ranks.count > 1:
        _same_plan(plan, ranks)
    with ExitStack() as stack:

        def prepared() -> Place:
            check_out(out, overwrite=options.overwrite)
            place = stack.enter_context(run_place(out))
            check_out(out, overwrite=options.overwrite)  # another run may have just finished
            _prepare(plan, place, options)
            return place

        place: Place = ranks.together(prepared)
        try:
            done = _write(plan, place, options, ranks)
            record: dict[str, Any] = ranks.together(lambda: _finish(plan, place, done, options))
        except StageError:
            raise  # it says itself what to do
        except (Exception, KeyboardInterrupt) as error:
            if place.plan() is not None:  # else it was too late, and the result is there
                error.add_note(f"What is done lies in {place.folder}; go on with resume=True.")
            raise
        return record


def _write(plan: Plan, place: Place, options: Options, ranks: Ranks) -> dict[int, Done]:
    def write(some: Ranks) -> dict[int, Done]:
        return write_tensors(
            plan.merged,
            plan.layout,
            plan.jobs,
            place,
            ranks=some,
            threads=options.threads,
            progress=options.progress if some.first else None,
        )

    if options.processes > 1 and not (has_torch() or plan.merged.may_go_straight()):
        import_torch()  # once, and not in each copy of this process
    try:
        # Processes of torchrun have threads, which are not to be copied.
        return write(ranks) if ranks.count > 1 else run_forked(write, options.processes)
    except (MethodError, MismatchError, NonFiniteError):
        place.give_up()  # the same would happen again: there is nothing to go on with
        raise


def _same_plan(plan: Plan, ranks: Ranks) -> None:
    if len(set(ranks.gather(plan.hash))) > 1:
        raise StageError(
            "the processes have made different plans: they do not see the same recipe and inputs, "
            "or run different versions, or only some have conjoin's compiled part"
        )


def _prepare(plan: Plan, place: Place, options: Options) -> None:
    left = place.plan()
    if left is not None and not options.restart:
        if not options.resume:
            raise StageError(
                f"an interrupted run has left {place.folder}; pass resume=True to go on with it, "
                "or restart=True to remove it and begin again"
            )
        if left.get("hash") == plan.hash:
            return
        raise StageError(
            f"{place.folder} is of another plan ({_difference(left, plan)}), so it cannot be gone "
            "on with; pass restart=True to remove it and begin again"
        )
    place.begin()
    allocate(place, plan.layout)
    place.note({"hash": plan.hash, "plan": plan.describe()})


def _difference(left: Mapping[str, Any], plan: Plan) -> str:
    """Which parts of a plan are not those of another."""
    before, now = left.get("plan"), json.loads(json.dumps(plan.describe()))
    if not isinstance(before, Mapping):
        return "what it was for cannot be read"
    names = {
        "recipe": "the recipe has changed",
        "inputs": "an input has changed",
        "conjoin": "another version of conjoin",
        "torch": "another version of torch",
    }
    found = [text for key, text in names.items() if before.get(key) != now[key]]
    return ", ".join(found) or "it differs"


def _finish(plan: Plan, place: Place, done: Mapping[int, Done], options: Options) -> dict[str, Any]:
    now = tuple(tuple(identify(files)) for files in plan.opened.files)
    if now != plan.identities:
        raise StageError(
            "an input was changed while it was read, so the result may be a mixture; run this "
            "again with restart=True"
        )
    paths = [Path(file["path"]) for files in plan.identities for file in files]
    digests = sha256_of(paths) if options.sha256 else {}
    record = provenance(plan, done, place.out, digests)
    single = plan.single
    if single is None:
        _carry(plan, place)
        if options.card:
            write_bytes(
                place.result / "README.md", model_card(plan, place.out).encode(errors="replace")
            )
        write_bytes(place.result / RECORD, to_json(record))
    else:
        write_bytes(place.result / f"{place.out.stem}.{RECORD}", to_json(record))
    place.finish(overwrite=options.overwrite, single=single, sync=options.sync)
    return record


def _carry(plan: Plan, place: Place) -> None:
    before = layers_before(plan.recipe, plan.opened)
    rows = rows_of_vocabulary(plan.recipe, plan.opened, plan.merged.specs)
    for name, path in plan.carried.items():
        target = place.result / name
        target.parent.mkdir(exist_ok=True)
        specs, matched = plan.merged.specs, plan.opened.matched
        entries = () if matched is None else matched.entries
        content = adjusted(
            name,
            path.read_bytes(),
            specs,
            plan.recipe,
            before,
            rows,
            entries,
            untied=plan.opened.untied,
        )
        if plan.chat_template is not None:
            content = with_chat_template(name, content, plan.chat_template)
        write_bytes(target, content)
