"""Torchvision on a build of PyTorch that it was not compiled for."""

from contextlib import suppress

import torch

__all__ = ["LIBRARY", "declare_operators"]

LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
"""Kept alive: with it the operators would go."""

OPERATORS = ("nms", "qnms")


def declare_operators() -> None:
    """Declare what torchvision asks for while it is imported, if its own library does not load.

    Beside a build of PyTorch for CPUs, PyPI's torchvision fails with "operator torchvision::nms
    does not exist". Its classification models need none of its operators.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in OPERATORS:
            with suppress(RuntimeError):
                LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
