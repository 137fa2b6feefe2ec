"""What `conjoin merge` does once it knows the recipe: plan, run, and say what came out."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conjoin.errors import InputError

if TYPE_CHECKING:
    import torch

    from conjoin.checkpoints import Checkpoint
    from conjoin.recipes import Plan, Recipe
    from conjoin.streaming import Ranks

__all__ = ["Run", "carry_out", "carry_out_all"]

_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_OTHERS = (".gguf", ".h5", ".npz", ".onnx", ".pickle", ".pkl", ".tar", ".zip")
"""Suffixes of files that nobody means a folder by, and that are not written."""


@dataclass(frozen=True)
class Run:
    """How to run; see `conjoin.recipes.Options`."""

    overwrite: bool
    resume: bool
    restart: bool
    workers: int | None
    device: str
    sync: bool
    sha256: bool


def carry_out_all(
    recipe: "Recipe", out: Path, run: Run, opened: Mapping[str, "Checkpoint"]
) -> list[dict[str, Any]]:
    """Write what a recipe says, one result or one for each model, and give a summary of each.

    Of a method that gives one result for each task, `out` becomes a folder with a result for each
    model. Of several processes, only the first gives summaries.

    Args:
        recipe: what to do.
        out: a folder; or a file, whose suffix says of which format.
        run: how.
        opened: models that are open already, by their reference in the recipe.
    """
    from conjoin.recipes import make_plan, tasks_of
    from conjoin.streaming import check_out

    _check_suffix(out)
    if out.suffix not in (*_TORCH, ".safetensors") and recipe.output.format == "torch":
        raise InputError(
            f"the recipe asks for one torch file; give it a name that ends in .pt, not {out}"
        )
    # Every mistake is found before the first gigabyte is downloaded, or a folder made.
    make_plan(recipe, given=opened, headers_only=True)
    recipes = tasks_of(recipe)
    if not recipes:
        found = carry_out(recipe, out, run, opened)
        return [] if found is None else [found]
    if out.suffix in (*_TORCH, ".safetensors"):
        raise InputError(
            f"{recipe.method.name} gives one result for each model, so {out} has to be a folder; "
            "or say whose is wanted by the parameter task"
        )
    if not (run.resume or run.restart or run.overwrite):
        check_out(out, overwrite=False)
    out.mkdir(exist_ok=True)
    summaries = []
    try:
        for title, one in recipes.items():
            if run.resume and (out / title).exists():
                continue  # it was finished before
            summary = carry_out(one, out / title, run, opened)
            summaries += [] if summary is None else [summary]
    finally:
        with contextlib.suppress(OSError):
            out.rmdir()  # nothing was made: it is empty
    return summaries


def carry_out(
    recipe: "Recipe", out: Path, run: Run, opened: Mapping[str, "Checkpoint"]
) -> dict[str, Any] | None:
    """Write what a recipe says, and give a summary; None in all processes but the first.

    Args:
        recipe: what to do.
        out: a folder; or a file, whose suffix says of which format.
        run: how.
        opened: models that are open already, by their reference in the recipe.
    """
    from conjoin.recipes import make_plan
    from conjoin.streaming import joined_ranks

    began, suffix = time.monotonic(), out.suffix
    with joined_ranks() as ranks:
        if suffix in _TORCH:
            plan = make_plan(recipe, given=opened, device=_device(run.device), single=out.name)
            _write_torch(plan, out, run, ranks)
        else:
            single = out.name if suffix == ".safetensors" else None
            plan = make_plan(recipe, given=opened, device=_device(run.device), single=single)
            _stream(plan, out, run, ranks)
        first = ranks.first
    return _summary(plan, out, time.monotonic() - began) if first else None


def _check_suffix(out: Path) -> None:
    """Raise for what would become a folder, and has a name that means a file."""
    known = (*_TORCH, ".safetensors")
    if out.suffix in known or out.is_dir():
        return
    close = get_close_matches(out.suffix, known, n=1, cutoff=0.8)
    if close or out.suffix in _OTHERS:
        hint = f"; did you mean {out.stem}{close[0]}?" if close else "."
        raise InputError(
            f"cannot write {out} by its suffix {out.suffix!r}{hint} Files end in "
            f"{', '.join(known)}; a name without a suffix is a folder"
        )


def _device(name: str) -> "torch.device | None":
    if name == "cpu":
        return None
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"there is no device {name!r}; use cpu, cuda or cuda:NUMBER") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("torch finds no CUDA device here; leave out --device")
    return device


def _stream(plan: "Plan", out: Path, run: Run, ranks: "Ranks") -> None:
    from conjoin.cli.progress import byte_bar
    from conjoin.recipes import Options, run_plan
    from conjoin.streaming import can_fork, default_threads

    workers = run.workers or default_threads()
    # A process of torchrun is no program to copy: it has the threads of its connections.
    forked = ranks.count == 1 and can_fork(_device(run.device))
    with byte_bar() as update:
        options = Options(
            processes=workers if forked else 1,
            threads=1 if forked else workers,
            resume=run.resume,
            restart=run.restart,
            overwrite=run.overwrite,
            sync=run.sync,
            sha256=run.sha256,
            progress=update if ranks.first else None,
        )
        run_plan(plan, out, options, ranks)


def _write_torch(plan: "Plan", out: Path, run: Run, ranks: "Ranks") -> None:
    """Files of torch.save are made in memory, by one process, and not in parts."""
    from conjoin.checkpoints import save
    from conjoin.cli.progress import tracked

    if ranks.count > 1 or run.resume or run.restart or run.sha256:
        raise InputError(
            f"{out} is a file of torch.save, which is written at once by one process; write a "
            ".safetensors file or a folder to resume, to note digests, or to use more processes"
        )
    with tracked(plan.merged) as checkpoint:
        save(checkpoint, out, overwrite=run.overwrite)


def _summary(plan: "Plan", out: Path, seconds: float) -> dict[str, Any]:
    own = [spec for spec in plan.merged.specs.values() if spec.alias_of is None]
    files = [out] if out.is_file() else sorted(path for path in out.iterdir() if path.is_file())
    return {
        "out": str(out),
        "method": plan.recipe.method.name,
        "models": len(plan.recipe.sources),
        "tensors": len(plan.merged),
        "bytes": sum(spec.nbytes for spec in own),
        "file_bytes": sum(path.stat().st_size for path in files),
        "seconds": round(seconds, 3),
        "needs_reestimation": bool(plan.merged.pooled),
        "plan": plan.hash,
        "notes": list(plan.notes),
    }
