"""How long merging large checkpoints takes, beside copying their files and beside mergekit.

    python benchmarks/merge_speed.py [--params 1e9] [--methods linear ties] [--rounds 5]
        [--folder FOLDER] [--mergekit PYTHON] [--json FILE]

Makes three checkpoints of Llama's shape in bfloat16, in shards, the second and third being the
first with noise (they are kept in the folder for the next run). Then whole processes run in turn,
round after round, with the same recipes in mergekit's YAML:

    torch       python -c "import torch": what a merge with torch has to begin with
    plan        conjoin plan RECIPE: all that comes before the first byte of a tensor
    copy of 2   cat of two models to /dev/null, and cp of one: the least that merging two can cost
    copy of 3   the same for a base and two models
    conjoin     conjoin merge RECIPE OUT --no-sync, for each method
    mergekit    mergekit-yaml RECIPE OUT, for each method, if its Python is given

conjoin's modules are compiled to bytecode first, as pip does when it installs: where that is not
written (PYTHONDONTWRITEBYTECODE), each run of a clone would compile them anew, for .15 s.

Nobody waits for the disk in these. The rows "synced" do: conjoin as it is by default, beside the
copy with `sync` of its files after it (not `sync -f`: that waits for what others write too).

How to read the numbers: benchmarks/README.md.
"""

import argparse
import compileall
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from llama_checkpoints import MODELS, make
from processes import Run, anonymous, timed

import conjoin
from conjoin.checkpoints import open_checkpoint

RECIPES: dict[str, dict[str, Any]] = {
    "linear": {"models": "ab", "of_model": {"weight": 0.5}},
    "slerp": {"models": "ab", "base": "a", "parameters": {"t": 0.5}},
    "task_arithmetic": {"models": "bc", "base": "a", "of_model": {"weight": 0.5}},
    "ties": {"models": "bc", "base": "a", "of_model": {"weight": 0.5, "density": 0.2}},
    "dare_ties": {"models": "bc", "base": "a", "of_model": {"weight": 0.5, "density": 0.5}},
    # The others of mergekit's methods: measured when they are named.
    "passthrough": {"models": "b"},
    "nuslerp": {"models": "bc", "of_model": {"weight": 0.5}},
    "multislerp": {"models": "bc", "of_model": {"weight": 0.5}},
    "karcher": {"models": "bc"},
    "dare_linear": {"models": "bc", "base": "a", "of_model": {"weight": 0.5, "density": 0.5}},
    "della": {"models": "bc", "base": "a", "of_model": {"weight": 0.5, "density": 0.5}},
    "della_linear": {"models": "bc", "base": "a", "of_model": {"weight": 0.5, "density": 0.5}},
    "breadcrumbs": {"models": "bc", "base": "a", "of_model": {"weight": 0.5, "density": 0.5}},
    "breadcrumbs_ties": {"models": "bc", "base": "a", "of_model": {"weight": 0.5, "density": 0.5}},
    "sce": {"models": "bc", "base": "a", "parameters": {"select_topk": 0.5}},
    "model_stock": {"models": "bc", "base": "a"},
    "nearswap": {"models": "b", "base": "a", "parameters": {"t": 0.001}},
    "arcee_fusion": {"models": "b", "base": "a"},
    "ram": {"models": "bc", "base": "a"},
    "ramplus_tl": {"models": "bc", "base": "a"},
}
DEFAULT = ("linear", "slerp", "task_arithmetic", "ties", "dare_ties")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="Time merging of checkpoints from file to file.")
    parser.add_argument(
        "--params",
        type=float,
        nargs="+",
        default=[1e9],
        help="of each model; several are measured one after the other (default: 1e9)",
    )
    parser.add_argument(
        "--methods", nargs="+", choices=["all", *RECIPES], default=[*DEFAULT], metavar="METHOD"
    )
    parser.add_argument("--rounds", type=int, default=5, help="medians are over these (default: 5)")
    parser.add_argument("--folder", type=Path, help="for the files; default: a temporary one")
    parser.add_argument("--mergekit", type=Path, help="Python of an environment with mergekit")
    parser.add_argument("--json", type=Path, help="write all times to this file")
    options = parser.parse_args(arguments)
    if min(options.params) < 1e4 or options.rounds < 1:
        parser.error("--params must be at least 1e4, and --rounds at least 1")
    methods = [*RECIPES] if "all" in options.methods else options.methods
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        reports = [
            measure(make(folder, round(params)), methods, options.rounds, options.mergekit)
            for params in options.params
        ]
    print("\n\n".join(map(table, reports)))
    if options.json:
        options.json.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")
    return 0


def write_recipe(folder: Path, method: str) -> Path:
    """Write a recipe that both conjoin and mergekit read (JSON is YAML)."""
    said = RECIPES[method]
    models = [
        {"model": str(folder / name), "parameters": said.get("of_model", {})}
        for name in said["models"]
    ]
    recipe = {"merge_method": method, "dtype": "bfloat16", "models": models}
    if "base" in said:
        recipe["base_model"] = str(folder / said["base"])
    if "parameters" in said:
        recipe["parameters"] = said["parameters"]
    path = folder / f"{method}.yml"
    path.write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
    return path


def reads(method: str) -> int:
    """Give how many models a method reads."""
    said = RECIPES[method]
    return len({*said["models"], *said.get("base", "")})


def measure(
    folder: Path, methods: Sequence[str], rounds: int, mergekit: Path | None
) -> dict[str, Any]:
    """Run every way once in each round, so that whatever slows the machine slows all of them.

    Before the rounds, every way runs once while its memory is looked at. It warms up the cache of
    files too.
    """
    compileall.compile_dir(Path(str(conjoin.__file__)).parent, quiet=2)
    ways = commands(folder, methods, mergekit)
    memory = {}
    for way, command in ways.items():
        remove(folder / "out")
        memory[way] = anonymous(command)
        if way == "linear":
            check(folder)
    found: dict[str, list[Run]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, command in ways.items():
            remove(folder / "out")  # which is not measured
            found[way].append(timed(command))
    size = sum(path.stat().st_size for path in (folder / "a").glob("*.safetensors"))
    return {
        "params": size // 2,
        "gigabytes of a model": size / 1e9,
        "rounds": rounds,
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "conjoin": conjoin.__version__,
        "mergekit": mergekit and version(mergekit),
        "runs": {way: [asdict(run) for run in runs] for way, runs in found.items()},
        "MB": memory,
        "methods": {m: ratios(found, memory, m, m, size) for m in methods},
        "synced": {m: ratios(found, memory, m, f"{m} synced", size) for m in methods[:1]},
        "seconds of import torch": median(run.wall for run in found["torch"]),
        "seconds to plan": median(run.wall for run in found["plan"]),
    }


def commands(folder: Path, methods: Sequence[str], mergekit: Path | None) -> dict[str, list[str]]:
    """Give the command of each way."""
    recipes = {method: str(write_recipe(folder, method)) for method in methods}
    out, first = str(folder / "out"), methods[0]
    python = [sys.executable, "-m", "conjoin"]
    ways = {
        "torch": [sys.executable, "-c", "import torch"],
        "plan": [*python, "plan", recipes[first]],
    }
    for number in sorted({reads(method) for method in methods}):
        ways[f"copy of {number}"] = copying(folder, number, sync=False)
    ways[f"copy of {reads(first)} synced"] = copying(folder, reads(first), sync=True)
    for method in methods:
        ways[method] = [*python, "merge", recipes[method], out, "--no-sync"]
    ways[f"{first} synced"] = [*python, "merge", recipes[first], out]
    if mergekit is not None:
        run = [str(mergekit), "-m", "mergekit.scripts.run_yaml"]
        for method in methods:
            ways[f"mergekit {method}"] = [*run, recipes[method], out, "--no-copy-tokenizer"]
    return ways


def copying(folder: Path, number: int, *, sync: bool) -> list[str]:
    """Give the command that reads so many models and writes one."""
    models = " ".join(f"{name}/*.safetensors" for name in MODELS[:number])
    end = " && sync out/* out" if sync else ""
    # A copy that shares blocks with the original would write nothing.
    script = (
        f"cd {str(folder)!r} && cat {models} > /dev/null && mkdir out && "
        f"cp --reflink=never a/*.safetensors out{end}"
    )
    return ["sh", "-c", script]


def remove(out: Path) -> None:
    """Remove a result, and what a run that was killed has left."""
    for path in (out, out.with_name(f"{out.name}.partial")):
        shutil.rmtree(path, ignore_errors=True)


def check(folder: Path) -> None:
    """Raise unless the result is the mean of the first two models."""
    a, b, found = (open_checkpoint(folder / name) for name in ("a", "b", "out"))
    for name in (next(iter(found)), "model.norm.weight"):
        expected = ((a[name].float() + b[name].float()) / 2).bfloat16()
        torch.testing.assert_close(found[name], expected, rtol=0, atol=0)


def version(python: Path) -> str:
    """Give the version of mergekit in an environment."""
    script = "import importlib.metadata as m; print(m.version('mergekit'))"
    return subprocess.run(
        [str(python), "-c", script], check=True, capture_output=True, text=True
    ).stdout.strip()


def median(values: Iterable[float]) -> float:
    """Give the median to four places."""
    return round(statistics.median(values), 4)


def ratios(
    found: Mapping[str, list[Run]], memory: Mapping[str, float], method: str, way: str, size: int
) -> dict[str, Any]:
    """Compare one way with others in the same round, and give the medians."""
    copy = f"copy of {reads(method)}" + (" synced" if way != method else "")
    rounds = list(zip(found[way], found[copy], strict=True))
    gigabytes = (reads(method) + 1) * size / 1e9
    report = {
        "copies": median(o.wall / c.wall for o, c in rounds),
        "copies of CPU": median(o.cpu / c.cpu for o, c in rounds),
        "MB": round(memory[way], 1),
        "seconds per GB": median(o.wall / gigabytes for o, _ in rounds),
        "seconds": median(run.wall for run in found[way]),
        "CPU seconds": median(run.cpu for run in found[way]),
        "seconds of the copy": median(run.wall for run in found[copy]),
    }
    if way == method and f"mergekit {method}" in found:
        both = list(zip(found[f"mergekit {method}"], found[way], strict=True))
        report["times faster than mergekit"] = median(m.wall / o.wall for m, o in both)
        report["times less CPU than mergekit"] = median(m.cpu / o.cpu for m, o in both)
        report["seconds of mergekit"] = median(m.wall for m, _ in both)
        report["CPU seconds of mergekit"] = median(m.cpu for m, _ in both)
        report["MB of mergekit"] = round(memory[f"mergekit {method}"], 1)
    return report


COLUMNS = {
    "x copy": "copies",
    "x CPU": "copies of CPU",
    "s/GB": "seconds per GB",
    "s": "seconds",
    "CPU s": "CPU seconds",
    "MB": "MB",
    "copy s": "seconds of the copy",
    "mk s": "seconds of mergekit",
    "mk CPU s": "CPU seconds of mergekit",
    "mk MB": "MB of mergekit",
    "faster": "times faster than mergekit",
    "less CPU": "times less CPU than mergekit",
}


def table(report: Mapping[str, Any]) -> str:
    """Show medians and ratios, one line for each method."""
    lines = [
        "models of {params:,} parameters in bfloat16 ({gigabytes of a model:.2f} GB); medians of "
        "{rounds} rounds, {cores} cores, torch {torch}, {machine}, mergekit {mergekit}".format(
            **report
        ),
        "python -c 'import torch': {seconds of import torch:.2f} s, {MB[torch]:.0f} MB; "
        "conjoin plan: {seconds to plan:.2f} s".format(**report),
        "",
        f"{'':<20}" + "".join(f"{column:>11}" for column in COLUMNS),
    ]
    synced = {f"{method} synced": row for method, row in report["synced"].items()}
    for name, row in {**report["methods"], **synced}.items():
        cells = [f"{row[key]:.2f}" if key in row else "-" for key in COLUMNS.values()]
        lines.append(f"{name:<20}" + "".join(f"{cell:>11}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
