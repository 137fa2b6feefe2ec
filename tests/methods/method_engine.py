"""The smallest engine that keeps the contract of methods: blocks, totals, generators."""

import hashlib
import inspect
from collections.abc import Sequence

import torch
from torch import Tensor

from conjoin.methods import Method, TotalOf, find_method

BLOCK = 1 << 18


def models_of(row: Method, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Take as many tensors as the method merges, the last one repeatedly if there are too few."""
    count = row.models or max(len(tensors), row.least)
    return [tensors[min(i, len(tensors) - 1)] for i in range(count)]


def generator_of(seed: int, name: str, block: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{name}/{block}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def run(
    method: str | Method,
    tensors: Sequence[Tensor],
    base: Tensor | None = None,
    *,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    block: int = BLOCK,
    backwards: bool = False,
    **parameters: object,
) -> Tensor:
    """Merge one tensor."""
    models = [{"w": tensor} for tensor in tensors]
    ancestor = None if base is None else {"w": base}
    return run_model(
        method,
        models,
        ancestor,
        weights=weights,
        seed=seed,
        block=block,
        backwards=backwards,
        **parameters,
    )["w"]


def run_model(
    method: str | Method,
    models: Sequence[dict[str, Tensor]],
    base: dict[str, Tensor] | None = None,
    *,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    block: int = BLOCK,
    backwards: bool = False,
    **parameters: object,
) -> dict[str, Tensor]:
    """Merge models; with `backwards` the blocks of results are made in the other order."""
    row = find_method(method) if isinstance(method, str) else method
    row.check(parameters, base=base is not None, weights=weights is not None, models=len(models))
    settings = {**row.defaults, **parameters, "weights": weights or [1.0] * len(models)}

    def pieces(name):
        size = models[0][name].numel()
        for number, start in enumerate(range(0, max(size, 1), block)):
            flat = [model[name].reshape(-1)[start : start + block] for model in models]
            given = {"generator": generator_of(seed, name, number)}
            if base is not None:
                given["base"] = base[name].reshape(-1)[start : start + block]
            yield flat, given

    def summary(names):
        blocks = [block for name in names for block in pieces(name)]
        return call_with(row.summarize, Totals(blocks), settings)

    whole = None
    if row.summarize is not None and settings.get("per") == "model":
        whole = summary(list(models[0]))
    results = {}
    for name, tensor in models[0].items():
        extra = {}
        if row.summarize is not None:
            extra["summary"] = summary([name]) if whole is None else whole
        work = list(pieces(name))
        if not row.in_blocks(parameters):
            given = {"generator": generator_of(seed, name, 0)}
            if base is not None:
                given["base"] = base[name]
            work = [([model[name] for model in models], given)]
        order = reversed(range(len(work))) if backwards else range(len(work))
        made = {
            i: call_with(row.function, work[i][0], {**settings, **extra, **work[i][1]})
            for i in order
        }
        results[name] = torch.cat([made[i].reshape(-1) for i in sorted(made)]).view(tensor.shape)
    return results


class Totals:
    """Totals over blocks of (tensors, given)."""

    def __init__(self, blocks):
        self.blocks = blocks
        self.size = sum(tensors[0].numel() for tensors, _ in blocks)

    def __call__(self, function):
        adds = "into" in inspect.signature(function).parameters
        found = None
        for flat, given in self.blocks:
            value = call_with(function, flat, {**given, "into": found})
            assert value.dtype in (torch.float64, torch.int64)
            found = value if adds else value.clone() if found is None else found.add_(value)
        return found

    def numbers(self, function):
        return self(function).tolist()

    def sample(self, function, count):
        step = max(1, -(-self.size // count))
        parts = []
        for flat, given in self.blocks:
            base = {"base": given["base"][::step]} if "base" in given else {}
            parts.append(call_with(function, [tensor[::step] for tensor in flat], base))
        return torch.cat(parts, -1)


def call_with(function, tensors, given):
    """Call with those keywords that the function has."""
    wanted = inspect.signature(function).parameters
    return function(tensors, **{k: v for k, v in given.items() if k in wanted})


def summary_of(row, tensors, given):
    """Give the summary of one tensor as one block."""
    return call_with(row.summarize, TotalOf(tensors, **given), given)
