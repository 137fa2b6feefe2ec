"""Results of mergekit for random recipes: what `tests/recipes/mergekit` compares conjoin with.

    python benchmarks/peers/mergekit_golden.py [FOLDER]

To be run with a Python that has mergekit 0.1.5. It writes ``recipes.yml`` (the recipes in
mergekit's YAML, by name) and ``results.npz`` (what mergekit makes of them) into the folder of the
tests, or another. Random recipes are drawn from fixed seeds, so another version of mergekit can be
put to the same questions.

The models are tiny ones of Llama's shape, drawn by NumPy from fixed seeds: the tests make them
anew, and no model is stored. Each recipe has an array ``NAME``: all tensors of its result,
flattened, one after the other in the order of their sorted names (see `split`). A recipe with
gradients has ``NAME!last`` besides: the head and the final norm under the same recipe with every
gradient replaced by its last value.
"""

import argparse
import copy
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mergekit_models import AFTER, LAYERS, MODELS, flat, split, weights, write_models

__all__ = ["AFTER", "MODELS", "flat", "main", "recipes", "split", "weights", "write_models"]

FOLDER = Path(__file__).parents[2] / "tests" / "recipes" / "mergekit"
_FILTERS = ("mlp", "self_attn", "q_proj", "layernorm", "embed_tokens", "lm_head", "layers.0.")


def recipes() -> dict[str, dict[str, Any]]:
    """Give all recipes by name: random ones of each method, and the ones written by hand."""
    drawn = {
        f"{method}-{number}": _recipe(method, random.Random(f"{method} {number}"))
        for method, count in _COUNTS.items()
        for number in range(count)
    }
    return {**drawn, **_BY_HAND}


_COUNTS = {
    "linear": 7,
    "slerp": 6,
    "task_arithmetic": 6,
    "ties": 9,
    "dare_linear": 3,
    "dare_ties": 3,
    "passthrough": 6,
    "nuslerp": 4,
    "multislerp": 4,
    "karcher": 3,
    "nearswap": 3,
    "arcee_fusion": 2,
    "breadcrumbs": 3,
    "breadcrumbs_ties": 4,
    "sce": 3,
    "ram": 3,
    "ramplus_tl": 3,
}

_TWO = {"sources": [{"model": "a", "layer_range": [2, 4]}, {"model": "b", "layer_range": [2, 4]}]}
_UNEVEN = {
    "merge_method": "linear",
    "parameters": {"weight": 0.5},
    "slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}]}, _TWO],
}
_DROPPED = {
    "models": [{"model": "a", "parameters": {"weight": 1.0, "density": 0.5}}],
    "base_model": "base",
    "dtype": "float32",
}
_BY_HAND: dict[str, dict[str, Any]] = {
    # The second has the sources at the head and the norm that the first should have there.
    "uneven-slices": _UNEVEN,
    "even-slices": {
        **_UNEVEN,
        "slices": [
            {"sources": [{**source, "layer_range": [0, 2]} for source in _TWO["sources"]]},
            _TWO,
        ],
    },
    "random-dare_linear": {"merge_method": "dare_linear", **_DROPPED},
    "random-dare_ties": {"merge_method": "dare_ties", **_DROPPED},
    "random-della": {"merge_method": "della", **_DROPPED},
    "random-della_linear": {"merge_method": "della_linear", **_DROPPED},
    # Of whole models: where conjoin differs on purpose is told from the models as they are.
    **{
        f"model_stock{name}": {
            "merge_method": "model_stock",
            "base_model": "base",
            "models": [{"model": model} for model in MODELS],
            "dtype": "float32",
            **parameters,
        }
        for name, parameters in (
            ("", {}),
            ("-filter_wise", {"parameters": {"filter_wise": True}}),
        )
    },
    "one-step-of-karcher": {
        "merge_method": "karcher",
        "models": [{"model": model} for model in MODELS],
        "parameters": {"max_iter": 1, "tol": 1e-4},
        "dtype": "float32",
    },
    "out-dtype": {
        "merge_method": "linear",
        "models": [{"model": m, "parameters": {"weight": 1}} for m in ("a", "b")],
        "out_dtype": "float16",
    },
}


def _recipe(method: str, rng: random.Random) -> dict[str, Any]:
    """Draw one recipe: models or slices, with parameters at every level."""
    stacked = rng.random() < 0.6
    recipe: dict[str, Any] = {"merge_method": method, "dtype": "float32"}
    of_model, of_method = _parameters(method, rng)
    if method == "slerp":
        models = rng.choice([["a", "b"], ["b", "a"]])
        recipe["base_model"] = rng.choice(models)
    elif method == "passthrough":
        models = [rng.choice(MODELS)]
    elif method in _ONE_OR_TWO:
        models = _ONE_OR_TWO[method](rng)
        if "base" in models or method not in _NO_BASE:
            recipe["base_model"] = "base"
        if stacked and "base_model" in recipe and "base" not in models:
            models = ["base", *models]
    elif method == "karcher":
        models = rng.sample(MODELS, rng.choice([2, 3]))
    elif method == "linear":
        models = rng.sample(MODELS, rng.choice([2, 3]))
        if "base" in models and rng.random() < 0.5:
            recipe["base_model"] = "base"
    else:
        models = rng.sample(MODELS, 3) if stacked or rng.random() < 0.5 else ["a", "b"]
        recipe["base_model"] = "base"
    if stacked:
        recipe["slices"] = [
            _slice(method, models, of_model, of_method, recipe.get("base_model"), rng)
            for _ in range(rng.choice([1, 2]))
        ]
    else:
        recipe["models"] = [
            _with(
                {"model": model},
                of_model if model != recipe.get("base_model") or method == "linear" else {},
                rng,
            )
            for model in models
        ]
    # What no other level says, for every tensor; the last place that is looked at.
    recipe["parameters"] = {
        key: [low, _value(low, high, rng, always=True)][rng.random() < 0.5]
        for key, (low, high) in {**of_model, **of_method}.items()
        if key not in _OPTIONAL or rng.random() < 0.5
    }
    return {key: value for key, value in recipe.items() if value != {}}


_OPTIONAL = (
    *("density", "scale", "lambda", "normalize", "rescale", "int8_mask", "gamma", "epsilon", "r"),
    *("alpha", "select_topk", "nuslerp_row_wise", "nuslerp_flatten"),
    "normalize_weights",
)

_NO_BASE = ("nuslerp", "multislerp")
"""Methods that merge the models themselves where there is no base."""

_ONE_OR_TWO: dict[str, Callable[[random.Random], list[str]]] = {
    "nearswap": lambda rng: [rng.choice(["a", "b"])],
    "arcee_fusion": lambda rng: [rng.choice(["a", "b"])],
    # With the base between them, or without any.
    "nuslerp": lambda rng: rng.choice([["a", "b"], ["b", "a"], ["b", "base", "a"]]),
    "multislerp": lambda rng: rng.choice([["a", "b"], ["b", "base", "a"]]),
}

Range = tuple[Any, Any]


def _parameters(method: str, rng: random.Random) -> tuple[dict[str, Range], dict[str, Range]]:
    """Give the parameters of a model and of the whole method, with the range of each."""
    flag = (False, True)
    if method == "slerp":
        return {}, {"t": (0.0, 1.0)}
    if method == "passthrough":
        return {"scale": (0.5, 2.0)}, {}
    if method == "linear":
        return {"weight": (0.1, 1.5)}, {"normalize": flag}
    if method in _OTHERS:
        return _OTHERS[method]
    of_method: dict[str, Range] = {"normalize": flag, "lambda": (0.5, 1.5), "int8_mask": flag}
    density = (1.0, 1.0) if method.startswith("dare") else (0.2, 0.9)
    if method == "task_arithmetic":
        # Without normalization a weight may be negative.
        weight = rng.choice([(0.1, 1.5), (-1.0, 1.0)])
        return {"weight": weight}, of_method if weight[0] > 0 else {"lambda": (0.5, 1.5)}
    gamma = {"gamma": (0.0, 0.3)} if method.startswith("breadcrumbs") else {}
    return {"weight": (0.1, 1.5), "density": density, **gamma}, {**of_method, "rescale": flag}


_FLAG = (False, True)
_OTHERS: dict[str, tuple[dict[str, Range], dict[str, Range]]] = {
    "nuslerp": (
        {"weight": (0.1, 1.5)},
        {"nuslerp_row_wise": _FLAG, "nuslerp_flatten": _FLAG},
    ),
    "multislerp": ({"weight": (0.1, 1.5)}, {"normalize_weights": _FLAG}),
    "karcher": ({}, {}),
    "nearswap": ({}, {"t": (0.1, 1.0)}),
    "arcee_fusion": ({}, {}),
    "sce": ({}, {"select_topk": (0.2, 1.0), "int8_mask": _FLAG}),
    "ram": ({}, {"epsilon": (0.0, 0.8)}),
    "ramplus_tl": ({}, {"epsilon": (0.0, 0.8), "r": (0.1, 2.0), "alpha": (0.2, 3.0)}),
}


def _slice(
    method: str,
    models: Sequence[str],
    of_model: Mapping[str, Range],
    of_method: Mapping[str, Range],
    base: str | None,
    rng: random.Random,
) -> dict[str, Any]:
    length = rng.choice([1, 2, 3])
    chosen = [rng.choice(MODELS)] if method == "passthrough" else models
    sources = []
    for model in chosen:
        begin = rng.randint(0, LAYERS - length)
        source = {"model": model, "layer_range": [begin, begin + length]}
        own = of_model if model != base or method == "linear" else {}
        sources.append(_with(source, own, rng))
    return _with({"sources": sources}, {**of_model, **of_method}, rng, often=0.3)


def _with(
    table: dict[str, Any], ranges: Mapping[str, Range], rng: random.Random, often: float = 0.7
) -> dict[str, Any]:
    """Add some parameters to a table."""
    found = {
        key: _value(low, high, rng) for key, (low, high) in ranges.items() if rng.random() < often
    }
    return {**table, "parameters": found} if found else table


def _value(low: Any, high: Any, rng: random.Random, *, always: bool = False) -> Any:
    """Draw a number, a gradient, or a list with filters; `always` one that says it for all."""

    def plain() -> Any:
        if rng.random() < 0.4:
            return [number() for _ in range(rng.choice([2, 3, 5]))]
        return number()

    def number() -> Any:
        return rng.random() < 0.5 if isinstance(low, bool) else round(rng.uniform(low, high), 2)

    if rng.random() < 0.5:
        return plain()
    filters = rng.sample(_FILTERS, rng.choice([1, 2]))
    rules = [{"filter": text, "value": plain()} for text in filters]
    if always or rng.random() < 0.5:
        rules.append({"value": plain()})
    return rules


def with_last_values(recipe: Any) -> Any:
    """Give a recipe in which every gradient is replaced by its last value."""
    if isinstance(recipe, dict):
        kept = recipe.get("layer_range")
        found = {key: with_last_values(value) for key, value in recipe.items()}
        return found if kept is None else {**found, "layer_range": kept}
    if isinstance(recipe, list):
        if recipe and all(isinstance(item, int | float) for item in recipe):
            return recipe[-1]
        return [with_last_values(item) for item in recipe]
    return recipe


def _results(found: Mapping[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder))
        before = Path.cwd()
        os.chdir(folder)  # mergekit takes paths from here
        try:
            for name, recipe in found.items():
                results[name] = flat(_merged(recipe, Path(folder, name)))
                last = with_last_values(recipe)
                if last != recipe:
                    made = _merged(last, Path(folder, f"{name}-last"))
                    results[f"{name}!last"] = flat({tensor: made[tensor] for tensor in AFTER})
        finally:
            os.chdir(before)
    return results


def _merged(recipe: dict[str, Any], out: Path) -> dict[str, np.ndarray]:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions
    from safetensors.numpy import load_file

    # A layer that is used twice is refused by safetensors unless it is copied.
    options = MergeOptions(
        copy_tokenizer=False, write_model_card=False, clone_tensors=True, quiet=True, random_seed=0
    )
    options.apply_global_options()
    run_merge(MergeConfiguration.model_validate(copy.deepcopy(recipe)), str(out), options)
    return load_file(out / "model.safetensors")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the recipes and mergekit's results."""
    parser = argparse.ArgumentParser(description="Make values for the tests, with mergekit.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="where to write them")
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    # Without aliases, which would not be seen from where a value stands.
    found = json.loads(json.dumps(recipes()))
    results = _results(found)
    text = yaml.safe_dump(found, sort_keys=False, default_flow_style=None, width=100)
    (folder / "recipes.yml").write_text(text, encoding="utf-8")
    np.savez_compressed(folder / "results.npz", **results)
    print(f"{len(found)} recipes in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
