"""Tiny models of several layers, and recipes beside them."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "symmetry"))  # where libraries are imported

from layered_models import layered

from conjoin.checkpoints import open_checkpoint, save
from conjoin.recipes import make_plan, read_recipe, run_plan


@pytest.fixture
def model(tmp_path):
    """Write a model into a folder of its own; give its tensors."""

    def make(name, tensors=None, *, layers=3, config=None):
        seed = sum(map(ord, name))
        tensors = layered(layers, seed) if tensors is None else tensors
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        save(tensors, folder / "model.safetensors", overwrite=True)
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config))
        return tensors

    return make


@pytest.fixture
def recipe(tmp_path):
    """Write a recipe beside the models, and read it."""

    def read(text, name="recipe.yml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return read_recipe(path)

    return read


@pytest.fixture
def plan(recipe):
    """The plan of a recipe."""
    return lambda text, **options: make_plan(recipe(text), **options)


@pytest.fixture
def merged(plan):
    """The result of a recipe as a lazy checkpoint."""
    return lambda text: plan(text).merged


@pytest.fixture
def made(plan, tmp_path):
    """The result of a recipe, written and opened."""

    def make(text, name="out", options=None):
        run_plan(plan(text), tmp_path / name, options)
        return open_checkpoint(tmp_path / name)

    return make
