"""How many entries of bfloat16 results are not the correctly rounded ones, method by method.

    python benchmarks/rounding.py [--elements 1e6] [--only 'dare*'] [--mergekit PYTHON]
        [--weights A B C] [--change 0.002] [--seed 0] [--json FILE] [--markdown]

Three models and a base have one square tensor each, in bfloat16: the base is normal with a standard
deviation of 0.02, and a model is the base with a normal change. Every method of the table merges
them twice, by `conjoin.merge`: as they are, and in float64, which is rounded to bfloat16 once.
Printed is the share of entries in which the two differ. Nothing but the dtype differs between the
two: methods, parameters, weights and random numbers are the same.

With the Python of an environment that has mergekit, the same is printed of those methods that it
has, with its variants of them and the same parameters: its results in bfloat16, beside its own
results in float64, so that no difference between the variants is counted.

A method merges as many models as it takes, with the base where it takes one. Parameters are the
defaults, but for those in `SETTINGS`, with which there is more to round.

Weights matter. With 0.5, 0.3 and 0.4, one result of `linear` in twenty lies exactly in the middle
of two numbers of bfloat16, as sums of such numbers with short fractions do. Arithmetic with floats
that are nearly 0.3 gives one of both by its last roundings, in float32 another than in float64. So
there is a second column, `SHORT`, with these weights, for methods that take some; the first
has weights with which this hardly happens.
"""

import argparse
import fnmatch
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import conjoin
from conjoin.methods import MERGEKIT_DEFAULTS, MERGEKIT_NAMES, METHODS, Method, Need

WEIGHTS = (0.5317, 0.3142, 0.4272)
SHORT = (0.5, 0.3, 0.4)
SPREAD = 0.02

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "passthrough": {"scale": 0.7},
    "slerp": {"t": 0.4},
    "nearswap": {"t": 0.001},
    "sce": {"select_topk": 0.5},
}
PEER = Path(__file__).parent / "peers" / "mergekit_tensors.py"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="Count entries that are not rounded correctly.")
    parser.add_argument("--elements", type=float, default=1e6, help="of the tensor (default: 1e6)")
    parser.add_argument("--change", type=float, default=0.002, help="its standard deviation")
    parser.add_argument("--only", default="*", help="a shell pattern of names of methods")
    parser.add_argument("--mergekit", type=Path, help="Python of an environment with mergekit")
    parser.add_argument(
        "--weights", type=float, nargs=len(WEIGHTS), default=WEIGHTS, metavar=("A", "B", "C")
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write all shares to this file")
    parser.add_argument("--markdown", action="store_true", help="print the table for a page")
    options = parser.parse_args(arguments)
    methods = [row for name, row in METHODS.items() if fnmatch.fnmatch(name, options.only)]
    if not methods or options.elements < 1:
        parser.error("--only must match a method, and --elements be at least 1")
    base, models = make_models(round(math.sqrt(options.elements)), options.change, options.seed)
    cases = [Case(row, tuple(options.weights)) for row in methods]
    ours = {case.row.name: share_of_ours(case, models, base) for case in cases}
    short = {
        case.row.name: share_of_ours(Case(case.row, SHORT), models, base)
        for case in cases
        if case.takes_weights
    }
    theirs = {}
    if options.mergekit is not None:
        with tempfile.TemporaryDirectory() as folder:
            theirs = shares_of_mergekit(options.mergekit, cases, models, base, Path(folder))
    report = {
        "elements": base.numel(),
        "change": options.change,
        "weights": list(options.weights),
        "torch": torch.__version__,
        "conjoin": conjoin.__version__,
        "shares": ours,
        "shares of short weights": short,
        "mergekit": theirs,
    }
    print(table(report, markdown=options.markdown))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def make_models(side: int, change: float, seed: int) -> tuple[Tensor, list[Tensor]]:
    """Draw a base and three models, bfloat16 [side, side]."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(side, side, generator=generator) for _ in range(1 + len(WEIGHTS))]
    base = (SPREAD * drawn[0]).bfloat16()
    return base, [(base.float() + change * noise).bfloat16() for noise in drawn[1:]]


def rounded(tensor: Tensor) -> Tensor:
    """Round float64 to bfloat16 once, ties to even.

    torch goes by way of float32, and so rounds twice. Numbers smaller than 1.2e-38 are not looked
    at with care: none is here.
    """
    bits = tensor.view(torch.int64)
    bits = bits + ((1 << 44) - 1) + (bits >> 45 & 1)  # 45 of the 52 bits of a fraction go
    return (bits >> 45 << 45).view(torch.float64).bfloat16()


def differing(found: Tensor, exact: Tensor) -> float:
    """Give the share of entries of a bfloat16 result that are not those of the float64 result."""
    return (found != rounded(exact)).double().mean().item()


@dataclass(frozen=True)
class Case:
    """A method, and the weights of the models if it takes weights."""

    row: Method
    weights: tuple[float, ...] = WEIGHTS

    @property
    def count(self) -> int:
        """How many models are merged."""
        return self.row.models or len(self.weights)

    @property
    def takes_weights(self) -> bool:
        """Whether the weights matter."""
        return Need.WEIGHTS in self.row.needs


def share_of_ours(case: Case, models: Sequence[Tensor], base: Tensor) -> float:
    """Merge in bfloat16 and in float64, and count."""

    def merged(dtype: torch.dtype) -> Tensor:
        found: dict[str, Tensor] = conjoin.merge(
            [{"w": model.to(dtype)} for model in models[: case.count]],
            case.row.name,
            base={"w": base.to(dtype)} if case.row.takes_base else None,
            weights=case.weights[: case.count] if case.takes_weights else None,
            parameters=SETTINGS.get(case.row.name, {}),
        )
        return found["w"]

    return differing(merged(torch.bfloat16), merged(torch.float64))


def request(case: Case) -> dict[str, Any]:
    """Say what mergekit is to do: models by number, the base, and its names of parameters."""
    row = case.row
    theirs = {ours: name for name, ours in MERGEKIT_NAMES[row.name].items()}
    settings = dict(SETTINGS.get(row.name, {}))
    if "density" in MERGEKIT_DEFAULTS[row.name]:
        settings["density"] = row.defaults["density"]  # there, nothing is dropped by default
    parameters: dict[str, Any] = {theirs.get(name, name): v for name, v in settings.items()}
    if case.takes_weights and row.name != "karcher":  # there, it has no weights
        parameters["weight"] = {str(i): case.weights[i] for i in range(case.count)}
    # Its slerp calls the first of the two models base.
    base = "0" if row.name == "slerp" else "base" if row.takes_base else None
    return {"models": [str(i) for i in range(case.count)], "base": base, "parameters": parameters}


def shares_of_mergekit(
    python: Path, cases: Sequence[Case], models: Sequence[Tensor], base: Tensor, folder: Path
) -> dict[str, float]:
    """Let mergekit merge in a process of its own, and count here.

    Raises:
        RuntimeError: it has failed; with what it said.
    """
    known = [case for case in cases if case.row.name in MERGEKIT_DEFAULTS]
    requests = {case.row.name: request(case) for case in known}
    tensors = {"base": base, **{str(i): model for i, model in enumerate(models)}}
    torch.save(tensors, folder / "models.pt")
    (folder / "requests.json").write_text(json.dumps(requests), encoding="utf-8")
    ended = subprocess.run(
        [str(python), str(PEER), str(folder)], check=False, capture_output=True, text=True
    )
    if ended.returncode:
        raise RuntimeError(f"{python} {PEER.name} ended with {ended.returncode}:\n{ended.stderr}")
    shares = {}
    for name in requests:
        results = torch.load(folder / f"{name}.pt", weights_only=True)
        shares[name] = differing(results["bfloat16"], results["float64"])
    return shares


def table(report: Mapping[str, Any], *, markdown: bool = False) -> str:
    """Show shares in percent, one line for each method."""
    found = [("method", "merged", "conjoin", "short weights", "mergekit")]
    for name, share in report["shares"].items():
        merged = "in blocks" if METHODS[name].elementwise else "whole"
        others = (report[kind].get(name) for kind in ("shares of short weights", "mergekit"))
        cells = ("" if other is None else percent(other) for other in others)
        found.append((name, merged, percent(share), *cells))
    if markdown:
        rows = [f"| {' | '.join(row)} |".replace("  ", " ") for row in found]
        return "\n".join([rows[0], "|---|---|---:|---:|---:|", *rows[1:]])
    head = "{elements:,} elements, changes of {change:g}, torch {torch}".format(**report)
    lines = [f"{n:<18}{m:<11}{o:>12}{s:>16}{t:>12}".rstrip() for n, m, o, s, t in found]
    return "\n".join([head, "", *lines])


def percent(share: float) -> str:
    """Write a share so that one entry of a million can be seen."""
    return f"{100 * share:.4f} %"


if __name__ == "__main__":
    sys.exit(main())
