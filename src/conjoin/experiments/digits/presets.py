"""The sizes of the experiment."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from conjoin.comparison import Settings
from conjoin.errors import InputError
from conjoin.experiments.digits.training import Schedule
from conjoin.sweeping import STRENGTHS

__all__ = ["PRESETS", "Preset", "find_preset"]


FINE = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, math.inf)
"""Strengths around the onset."""


@dataclass(frozen=True)
class Preset:
    """How large a run is.

    Args:
        about: one line for people.
        sources: the two tasks, as `open_source` reads them; ``{mnist}`` and ``{svhn}`` stand for
            the folders that the user names.
        unseen: a domain that nothing is trained on, likewise; None for none.
        train: training images of each task; None takes all that there are.
        validation: validation images of each task, at most.
        test: test images of each task, at most.
        settings: how much is measured.
        width: factor on the thread's channel numbers.
        schedule: how each network is trained.
        strengths: of the continuum, if it is asked for.
        profiles: of the continuum, by name, some with strengths of their own.
    """

    about: str
    sources: tuple[str, str]
    unseen: str | None
    train: int | None
    validation: int
    test: int
    settings: Settings
    width: float
    schedule: Schedule
    strengths: tuple[float, ...] = FINE
    profiles: tuple[str, ...] = ("uniform",)


PRESETS: Mapping[str, Preset] = {
    "quick": Preset(
        about="embedded data, no download, width 1/8: the demo, minutes on two cores",
        sources=("handwritten", "street"),
        unseen=None,
        train=5_000,
        validation=1_000,
        test=2_000,
        settings=Settings(statistics=500, curve_examples=500, points=7, resolution=7, layers=13),
        width=1 / 8,
        schedule=Schedule(epochs=5, batch_size=64, learning_rate=0.02),
        strengths=(0.0, 0.01, 0.1, math.inf),
    ),
    "small": Preset(
        about="real MNIST and rendered street numbers, 12,000 images a task, width 1/8: "
        "for many trainings, as of --continuum",
        sources=("mnist:{mnist}", "street"),
        unseen="handwritten",
        train=12_000,
        validation=2_000,
        test=20_000,
        settings=Settings(curve_examples=1_000, resolution=11, layers=13, labels=(50,)),
        width=1 / 8,
        schedule=Schedule(epochs=3, batch_size=64, learning_rate=0.02),
        strengths=STRENGTHS,
        profiles=("uniform", "upstream", "trunk"),
    ),
    "standard": Preset(
        about="real MNIST and rendered street numbers, 24,000 images a task, width 1/4: "
        "about 25 minutes a seed on two cores",
        sources=("mnist:{mnist}", "street"),
        unseen="handwritten",
        train=24_000,
        validation=5_000,
        test=10_000,
        settings=Settings(curve_examples=1_000, resolution=11, layers=13),
        width=1 / 4,
        schedule=Schedule(epochs=10),
        profiles=("uniform", "pooled norm:0.1,1", "tied finish:1"),
    ),
    "thesis": Preset(
        about="real MNIST and SVHN, all images, the thread's full width: for a GPU",
        sources=("mnist:{mnist}", "svhn:{svhn}"),
        unseen="handwritten",
        train=None,
        validation=10_000,
        test=30_000,
        settings=Settings(statistics=10_000, curve_examples=5_000, points=21, layers=13),
        width=1.0,
        schedule=Schedule(epochs=20),
    ),
}


def find_preset(name: str) -> Preset:
    """Give the preset of this name.

    Raises:
        InputError: there is none.

    >>> find_preset("quick").width
    0.125
    """
    if name not in PRESETS:
        raise InputError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
