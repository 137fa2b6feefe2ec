"""One small member each of many families of timm."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from zoo_models.torchvision_schema import declare_operators

SIZE = 64

SIZES = {"eva02_tiny_patch14_224": 56, "sequencer2d_s": 56}

FEWER: Mapping[str, Mapping[str, object]] = {
    "vit_tiny_patch16_224": {"depth": 2},
    "deit_tiny_distilled_patch16_224": {"depth": 2},
    "eva02_tiny_patch14_224": {"depth": 2},
    "swin_tiny_patch4_window7_224": {"depths": (2, 2, 2, 2)},
    "swinv2_tiny_window8_256": {"depths": (2, 2, 2, 2)},
    "xcit_nano_12_p16_224": {"depth": 2},
    "cait_xxs24_224": {"depth": 2},
    "convit_tiny": {"depth": 3, "local_up_to_layer": 2},
    "pit_ti_224": {"depth": (1, 2, 1)},
    "davit_tiny": {"depths": (1, 1, 2, 1)},
    "twins_svt_small": {"depths": (1, 1, 2, 1)},
    "convnextv2_atto": {"depths": (1, 1, 2, 1)},
    "sequencer2d_s": {"layers": (1, 1, 2, 1)},
}
"""Repetitions of equal blocks that are left out: they show nothing new."""

NOTES: Mapping[str, str] = {name: f"with {arguments}" for name, arguments in FEWER.items()}

ARGUMENTS: Mapping[str, Mapping[str, object]] = {
    # These know the size of the image, or cut windows of one size.
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 4},
    "swinv2_tiny_window8_256": {"img_size": 64, "window_size": 4},
    "eva02_tiny_patch14_224": {"img_size": 56, "num_classes": 10},
    **{
        name: {"img_size": 64}
        for name in (
            "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "mixer_s32_224",
            "resmlp_12_224", "gmlp_ti16_224", "cait_xxs24_224", "convit_tiny", "coat_lite_tiny",
            "levit_128s", "pit_ti_224", "volo_d1_224", "visformer_tiny", "nest_tiny",
            "coatnet_pico_rw_224", "botnet26t_256",
        )
    },
}  # fmt: skip

NAMES = (
    "resnet10t", "seresnext26ts", "res2net50_26w_4s", "resnest14d", "skresnet18", "regnetx_002",
    "efficientnet_b0", "mobilenetv3_small_050", "mobilenetv4_conv_small_050", "ghostnet_050",
    "densenet121", "dla46_c", "hrnet_w18_small", "ese_vovnet19b_slim_dw", "cspresnet50",
    "nf_resnet26", "repvgg_a0", "xception41", "rexnet_100", "convnext_atto", "convnextv2_atto",
    "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224",
    "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "mixer_s32_224", "resmlp_12_224",
    "gmlp_ti16_224", "poolformer_s12", "xcit_nano_12_p16_224", "cait_xxs24_224", "coat_lite_tiny",
    "levit_128s", "pit_ti_224", "mobilevit_xxs", "edgenext_xx_small", "coatnet_pico_rw_224",
    "focalnet_tiny_srf", "fastvit_t8", "volo_d1_224", "davit_tiny", "visformer_tiny",
    "twins_svt_small", "pvt_v2_b0", "nest_tiny", "convit_tiny", "botnet26t_256", "sequencer2d_s",
    "mambaout_femto", "efficientvit_b0", "repvit_m0_9",
)  # fmt: skip


def builds() -> Mapping[str, Callable[[], tuple[nn.Module, Tensor]]]:
    """Name the models, and how each is made."""
    return {name: partial(_build, name) for name in NAMES}


def _build(name: str) -> tuple[nn.Module, Tensor]:
    declare_operators()
    import timm

    size = SIZES.get(name, SIZE)
    arguments = {**ARGUMENTS.get(name, {}), **FEWER.get(name, {})}
    return timm.create_model(name, **arguments), torch.randn(2, 3, size, size)
