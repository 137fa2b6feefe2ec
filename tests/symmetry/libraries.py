"""Libraries of models; a test that needs one is skipped where it is missing, with the reason."""

import importlib
import warnings
from contextlib import suppress
from types import ModuleType

import pytest
import torch

LIBRARY = torch.library.Library("torchvision", "FRAGMENT")  # kept alive, or its operators would go


def library(name: str) -> ModuleType:
    """Import a library of models.

    Beside a build of PyTorch that it was not compiled for, torchvision asks for operators that are
    not there. Its models need none of them, so that it is enough to declare them; transformers
    imports it too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library about itself
        with suppress(ImportError):
            _declare_operators_of_torchvision()
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"{name} is not installed: {error}")


def _declare_operators_of_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for operator in ("nms", "qnms"):
            with suppress(RuntimeError):
                LIBRARY.define(f"{operator}(Tensor dets, Tensor scores, float threshold) -> Tensor")
