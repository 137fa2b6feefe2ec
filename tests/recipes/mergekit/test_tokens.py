"""conjoin gives tokens the rows that mergekit 0.1.5 gives them.

``tokens.json`` and ``tokens.npz`` were made by ``benchmarks/peers/mergekit_tokens.py`` with the
real mergekit, from cases that are drawn there.
"""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from conjoin.checkpoints import open_checkpoint
from conjoin.recipes import Options, make_plan, read_recipe, run_plan

HERE = Path(__file__).parent
SCRIPT = Path(__file__).parents[3] / "benchmarks" / "peers" / "mergekit_tokens.py"
TOKENS = json.loads((HERE / "tokens.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mergekit_tokens", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_have_the_rows_that_mergekit_gives_them(name: str, peer, tmp_path: Path):
    case = peer.cases()[name]
    peer.write_models(tmp_path, case)
    path, out = tmp_path / "recipe.yml", tmp_path / "out"
    path.write_text(yaml.safe_dump(case["recipe"], sort_keys=False), encoding="utf-8")
    run_plan(make_plan(read_recipe(path)), out, Options(sync=False, card=False))
    result = open_checkpoint(out)
    tokenizer = json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))
    numbers = dict(tokenizer["model"]["vocab"])
    numbers |= {one["content"]: one["id"] for one in tokenizer["added_tokens"]}
    assert sorted(numbers) == TOKENS[name]
    with np.load(HERE / "tokens.npz") as file:
        expected = file[name]
    for tensor, rows in zip((peer.EMBED, peer.HEAD), expected, strict=True):
        at = [numbers[token] for token in TOKENS[name]]
        np.testing.assert_allclose(result[tensor].numpy()[at], rows, rtol=1e-5, atol=1e-6)
