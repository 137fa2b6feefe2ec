"""Rows that mergekit gives to tokens: what `tests/recipes/mergekit` compares conjoin with.

    python benchmarks/peers/mergekit_tokens.py [FOLDER]

To be run with a Python that has mergekit 0.1.5. It writes ``tokens.json`` and ``tokens.npz`` into
the folder of the tests, or another: for each case, which tokens mergekit's result has, and the rows
of embedding and head, in the order of these tokens. Models and recipes are drawn from fixed seeds;
the tests make them anew.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["EMBED", "HEAD", "cases", "main", "write_models"]

FOLDER = Path(__file__).parents[2] / "tests" / "recipes" / "mergekit"
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_COUNT, _HIDDEN, _INNER = 24, 4, 6
_WORDS = ("cat", "dog", "eel", "fox", "gnu", "hen", "ibis")
_MARKS = ("<a>", "<b>", "<c>", "<d>")
Case = dict[str, Any]


def cases() -> dict[str, Case]:
    """Give the cases: tokens of each model, and a recipe."""
    return {f"tokens-{number}": _case(random.Random(number)) for number in range(_COUNT)}


def _case(rng: random.Random) -> Case:
    models = ["base", "a", "b"][rng.choice([0, 1]) :]
    tokens = {}
    for model in models:
        plain = ["<unk>", *rng.sample(_WORDS, rng.randint(2, 6))]
        tokens[model] = {
            "plain": plain,
            "added": rng.sample(_MARKS, rng.randint(0, 3)),
            "spare": rng.choice([0, 0, 2]),
        }
    recipe: dict[str, Any] = {"dtype": "float32"}
    listed = models if "base" not in models else models[1:]
    weights = [round(rng.uniform(0.2, 1.5), 2) for _ in listed]
    recipe["models"] = [
        {"model": model, "parameters": {"weight": weight}}
        for model, weight in zip(listed, weights, strict=True)
    ]
    if "base" in models:
        recipe |= {"merge_method": "task_arithmetic", "base_model": "base"}
    else:
        recipe["merge_method"] = "linear"
    sources = ["union", "union", *models]
    if rng.random() < 0.4:
        recipe["tokenizer_source"] = rng.choice(sources)
        return {"tokens": tokens, "recipe": recipe}
    said = {}
    for token in rng.sample([*_MARKS, "<new>", "cat"], rng.choice([0, 1, 2])):
        model = rng.choice(models)
        of = rng.choice([*tokens[model]["plain"], *tokens[model]["added"]])
        said[token] = {
            "source": rng.choice(
                [{"kind": "zero"}, {"kind": "model_token", "model": model, "token": of}]
            ),
            "force": rng.random() < 0.3,
        }
    recipe["tokenizer"] = {"source": rng.choice(sources), "tokens": said}
    return {"tokens": tokens, "recipe": recipe}


def write_models(folder: Path, case: Case) -> None:
    """Write the models of a case as folders of Hugging Face's kind, with tokenizers."""
    from safetensors.numpy import save_file

    for number, (name, tokens) in enumerate(case["tokens"].items()):
        path = folder / name
        path.mkdir()
        words = [*tokens["plain"], *tokens["added"]]
        rows = len(words) + tokens["spare"]
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": _HIDDEN,
            "intermediate_size": _INNER,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "num_hidden_layers": 1,
            "vocab_size": rows,
            "tie_word_embeddings": False,
            "dtype": "float32",
        }
        (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        generator = np.random.default_rng(number)
        shapes = {
            EMBED: (rows, _HIDDEN),
            HEAD: (rows, _HIDDEN),
            "model.norm.weight": (_HIDDEN,),
            **{
                f"model.layers.0.{part}.weight": shape
                for part, shape in (
                    ("input_layernorm", (_HIDDEN,)),
                    ("post_attention_layernorm", (_HIDDEN,)),
                    *((f"self_attn.{one}_proj", (_HIDDEN, _HIDDEN)) for one in "qkvo"),
                    ("mlp.gate_proj", (_INNER, _HIDDEN)),
                    ("mlp.up_proj", (_INNER, _HIDDEN)),
                    ("mlp.down_proj", (_HIDDEN, _INNER)),
                )
            },
        }
        drawn = {n: generator.standard_normal(s, dtype=np.float32) for n, s in shapes.items()}
        save_file(drawn, path / "model.safetensors", {"format": "pt"})
        (path / "tokenizer.json").write_text(json.dumps(_tokenizer(tokens)), encoding="utf-8")
        of_class = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
        (path / "tokenizer_config.json").write_text(json.dumps(of_class), encoding="utf-8")


def _tokenizer(tokens: dict[str, Any]) -> dict[str, Any]:
    settings = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    plain = tokens["plain"]
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": len(plain) + at, "content": token, **settings, "special": True}
            for at, token in enumerate(tokens["added"])
        ],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {
            "type": "WordLevel",
            "vocab": {token: at for at, token in enumerate(plain)},
            "unk_token": "<unk>",
        },
    }


def _rows(case: Case, folder: Path) -> tuple[list[str], np.ndarray]:
    """Let mergekit merge; give the tokens of the result, sorted, and their rows."""
    import transformers
    from mergekit.config import MergeConfiguration
    from mergekit.io.tasks import LoaderCache
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions
    from safetensors.numpy import load_file

    write_models(folder, case)
    LoaderCache().flush_all()  # it knows models by their paths, which other cases have too
    before = Path.cwd()
    os.chdir(folder)  # mergekit takes paths from here
    try:
        options = MergeOptions(write_model_card=False, clone_tensors=True, quiet=True)
        run_merge(MergeConfiguration.model_validate(case["recipe"]), "out", options)
        tensors = load_file(folder / "out" / "model.safetensors")
        numbers = transformers.AutoTokenizer.from_pretrained("out").get_vocab()
    finally:
        os.chdir(before)
    tokens = sorted(numbers)
    at = [numbers[token] for token in tokens]
    return tokens, np.stack([tensors[EMBED][at], tensors[HEAD][at]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tokens and rows of mergekit's results."""
    parser = argparse.ArgumentParser(description="Make values for the tests, with mergekit.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="where to write them")
    folder = parser.parse_args(arguments).folder.resolve()
    tokens, rows, failed = {}, {}, {}
    for name, case in cases().items():
        with tempfile.TemporaryDirectory() as place:
            try:
                tokens[name], rows[name] = _rows(case, Path(place))
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"
    (folder / "tokens.json").write_text(json.dumps(tokens, indent=1) + "\n", encoding="utf-8")
    np.savez_compressed(folder / "tokens.npz", **rows)
    for name, why in failed.items():
        print(f"{name}: mergekit fails: {why}", file=sys.stderr)
    print(f"{len(rows)} of {len(cases())} cases are in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
