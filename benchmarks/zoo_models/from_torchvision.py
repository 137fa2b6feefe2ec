"""Every classification constructor of torchvision."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from zoo_models.torchvision_schema import declare_operators

NOTES: Mapping[str, str] = {}

SIZE = 32
"""Pixels of the sides of an image."""

SIZES = {"alexnet": 64, "inception_v3": 96, "googlenet": 64, "maxvit_t": 224}
"""Larger ones, where the architecture needs them."""

LARGE = (
    "convnext_base", "convnext_large", "efficientnet_b6", "efficientnet_b7", "efficientnet_v2_l",
    "regnet_x_16gf", "regnet_x_32gf", "regnet_y_128gf", "regnet_y_16gf", "regnet_y_32gf",
    "resnext101_32x8d", "resnext101_64x4d", "swin_b", "swin_v2_b", "vgg11", "vgg11_bn", "vgg13",
    "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "vit_b_16", "vit_b_32", "vit_h_14",
    "vit_l_16", "vit_l_32", "wide_resnet101_2", "wide_resnet50_2",
)  # fmt: skip
"""These come last."""

ARGUMENTS = {
    "maxvit_t": {"input_size": (224, 224)},  # windows of 7 x 7 in every stage
    "vit_b_16": {"image_size": 32},
    "vit_l_16": {"image_size": 32},
    "vit_b_32": {"image_size": 64},
    "vit_l_32": {"image_size": 64},
    "vit_h_14": {"image_size": 28},
    "inception_v3": {"init_weights": False},  # its initialization takes a minute
    "googlenet": {"init_weights": False},
}


def builds() -> Mapping[str, Callable[[], tuple[nn.Module, Tensor]]]:
    """Name the models, and how each is made."""
    declare_operators()
    from torchvision import models

    names = models.list_models(module=models)
    return {name: partial(_build, name) for name in sorted(names, key=LARGE.__contains__)}


def _build(name: str) -> tuple[nn.Module, Tensor]:
    declare_operators()
    from torchvision import models

    arguments = ARGUMENTS.get(name, {})
    size = SIZES.get(name, arguments.get("image_size", SIZE))
    return models.get_model(name, weights=None, **arguments), torch.randn(2, 3, size, size)
