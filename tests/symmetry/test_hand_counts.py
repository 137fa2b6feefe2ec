"""Known architectures: groups counted by hand from the architecture, and what is found.

A count is written as "size x how many", and what is counted stands beside it.
"""

from collections import Counter

import torch
import torch.nn.functional as F
from libraries import library
from torch import nn

from conjoin.symmetry import find_symmetries


def check(model, inputs, *counted: tuple[int, int]) -> None:
    """Compare sizes and numbers of groups; nothing is guilty, nothing unknown."""
    found = find_symmetries(model, inputs)
    expected: Counter[int] = Counter()
    for size, count in counted:
        expected[size] += count
    assert Counter(group.size for group in found.groups.values()) == expected
    assert found.proof.guilty == ()
    assert found.unknown == {}


def images(size: int):
    return torch.randn(2, 3, size, size)


def tokens():
    return torch.randint(50, (2, 5))


def test_vgg16_bn():
    """13 convolutions and 2 hidden layers, each a group; here of an eighth of the width."""
    vgg = library("torchvision.models.vgg")
    widths = [8, 8, "M", 16, 16, "M", 32, 32, 32, "M", 64, 64, 64, "M", 64, 64, 64, "M"]
    with torch.device("meta"):  # its classifier has 120 million weights
        model = vgg.VGG(vgg.make_layers(widths, batch_norm=True), init_weights=False)
    model.features = vgg.make_layers(widths, batch_norm=True)
    model.classifier = nn.Sequential(
        nn.Linear(64 * 7 * 7, 80), nn.ReLU(), nn.Linear(80, 80), nn.ReLU(), nn.Linear(80, 10)
    )
    check(model, images(32), (8, 2), (16, 2), (32, 3), (64, 6), (80, 2))


def test_resnet18():
    models = library("torchvision.models")
    check(
        models.resnet18(),
        images(64),
        *((size, 1) for size in (64, 128, 256, 512)),  # a residual stream for each stage
        *((size, 2) for size in (64, 128, 256, 512)),  # between the 2 convolutions of each block
    )


def test_resnet50():
    models = library("torchvision.models")
    check(
        models.resnet50(),
        images(64),
        (64, 1),  # the stem: a projection stands between it and the first stream
        *((size, 1) for size in (256, 512, 1024, 2048)),  # streams
        *((64, 6), (128, 8), (256, 12), (512, 6)),  # 2 in each of 3, 4, 6, 3 blocks
    )


def test_densenet121():
    """Growth 32, 6 + 12 + 24 + 16 = 58 layers, whose outputs are concatenated, not added."""
    models = library("torchvision.models")
    check(
        models.densenet121(),
        images(64),
        (64, 1),  # the stem
        (32, 58),  # what each layer adds
        (128, 58),  # the bottleneck of each, 4 times that
        *((128, 1), (256, 1), (512, 1)),  # the transitions between the 4 blocks
    )


def test_mobilenet_v2():
    models = library("torchvision.models")
    check(
        models.mobilenet_v2(),
        images(64),
        (32, 1),  # the stem, and the depthwise convolution of the first block, which has no rise
        *((size, 1) for size in (16, 24, 32, 64, 96, 160, 320)),  # streams, one for each stage
        # The rise of each other block: 6 times what comes in.
        *((96, 1), (144, 2), (192, 3), (384, 4), (576, 3), (960, 3)),
        (1280, 1),  # the last convolution
    )


def test_convnext():
    """ConvNeXt with 1, 1, 2, 1 blocks."""
    convnext = library("torchvision.models.convnext")
    widths = (8, 12, 16, 20, None)
    settings = [
        convnext.CNBlockConfig(widths[n], widths[n + 1], depth)
        for n, depth in enumerate((1, 1, 2, 1))
    ]
    check(
        convnext.ConvNeXt(settings, num_classes=10),
        images(64),
        *((size, 1) for size in (8, 12, 16, 20)),  # streams
        *((32, 1), (48, 1), (64, 2), (80, 1)),  # inside of each block, 4 times as wide
    )


def test_vit():
    """ViT with 2 layers of 3 heads."""
    models = library("torchvision.models")
    check(
        models.VisionTransformer(16, 8, 2, 3, 24, 40, num_classes=10),
        images(16),
        (24, 1),  # the stream
        (3, 2),  # heads, in each layer
        (8, 2),  # queries and keys of a head
        (8, 2),  # values of a head
        (40, 2),  # the hidden layer
    )


def test_swin():
    """Swin with 2 stages of 2 layers; the second layer's windows are shifted."""
    models = library("torchvision.models")
    check(
        models.SwinTransformer([4, 4], 12, [2, 2], [2, 4], [4, 4], num_classes=10),
        images(32),
        *((12, 1), (24, 1)),  # streams; a merge of patches has 4 x 12, which all move alike
        *((2, 2), (4, 2)),  # heads in each layer, which move in the bias tables too
        (6, 2 * 4),  # queries and keys of a head; its values: 12 / 2 and 24 / 4 are both 6
        *((48, 2), (96, 2)),  # hidden layers
    )


def test_gpt2():
    """GPT-2 with 2 layers of 4 heads: one tensor makes queries, keys and values."""
    transformers = library("transformers")
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=24, n_layer=2, n_head=4, use_cache=False,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    check(
        transformers.GPT2LMHeadModel(config),
        {"input_ids": tokens()},
        (24, 1),  # the stream, and with it the tied embedding
        (4, 2),  # heads
        (6, 2 * 2),  # queries and keys of a head; its values
        (96, 2),  # hidden layers
    )


def test_llama_with_grouped_queries():
    """Llama with 2 layers: 2 heads of keys and values, each for 3 of queries."""
    transformers = library("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=48, intermediate_size=40, num_hidden_layers=2, use_cache=False,
        num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    check(
        transformers.LlamaForCausalLM(config),
        {"input_ids": tokens()},
        (48, 1),  # the stream
        (2, 2),  # heads of keys and values
        (3, 2),  # heads of queries for each of them
        (8, 2),  # values of a head; rotary positions tell queries and keys apart by place
        (40, 2),  # hidden layers: gate and value move together
    )


class UNet(nn.Module):
    """Two depths; the skip is concatenated to what comes up."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.deep = nn.Sequential(
            nn.Conv2d(6, 10, 3, padding=1), nn.ReLU(), nn.Conv2d(10, 12, 3, padding=1), nn.ReLU()
        )
        self.up = nn.ConvTranspose2d(12, 7, 2, stride=2)
        self.join = nn.Conv2d(13, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        skip = self.down(x)
        y = self.up(self.deep(F.max_pool2d(skip, 2)))
        return self.head(self.join(torch.cat([y, skip], 1)).relu())


def test_unet():
    """One group for each of the 5 convolutions before the head; the skip has that of its source."""
    check(UNet(), images(8), (6, 1), (10, 1), (12, 1), (7, 1), (8, 1))


class Tagger(nn.Module):
    """Two layers of an LSTM, both in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 10)
        self.layers = nn.LSTM(10, 7, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(14, 3)

    def forward(self, x):
        return self.head(self.layers(self.embed(x))[0])


def test_lstm():
    """The embedding; units of 2 layers and 2 directions, whose 4 gates move together."""
    check(Tagger(), tokens(), (10, 1), (7, 4))
