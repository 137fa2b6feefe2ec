"""The models of `benchmarks/zoo.py`, one module for each family; random weights, small inputs."""

import importlib
from collections.abc import Callable, Mapping

from torch import nn

from conjoin.batches import Inputs

__all__ = ["FAMILIES", "Build", "builds", "note_of"]

Build = Callable[[], tuple[nn.Module, Inputs]]
"""Makes a model and a batch of inputs."""

FAMILIES = ("own", "torchvision", "timm", "transformers")


def builds(family: str) -> Mapping[str, Build]:
    """Name the models of a family, and how each is made."""
    made: Mapping[str, Build] = _module_of(family).builds()
    return made


def note_of(family: str, name: str) -> str:
    """Say what is smaller in a model than its name says; empty, if nothing is."""
    return str(_module_of(family).NOTES.get(name, ""))


def _module_of(family: str):  # type: ignore[no-untyped-def]
    return importlib.import_module(f"zoo_models.from_{family}")
