"""Small networks with all kinds of layers, none of whose weights and statistics is constant."""

import torch
from libraries import library
from torch import nn


def randomized(net, seed=0):
    """Give the network in eval mode, with random weights and statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                if name.endswith("running_var"):
                    tensor.copy_(noise.exp())
                elif tensor.dim() < 2:
                    tensor.copy_(1 + noise / 2)
                else:
                    tensor.copy_(noise / tensor[0].numel() ** 0.5)
    return net.eval()


def vgg():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding="same"), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
        nn.Linear(96, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


def resnet():
    models = library("torchvision.models")
    return models.resnet.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5)


def concatenating():
    return library("torchvision.models").DenseNet(4, (2, 2), 8, num_classes=5)


def depthwise():
    """An inverted residual of MobileNet, and a grouped convolution."""
    models = library("torchvision.models.mobilenetv2")
    return nn.Sequential(
        models.InvertedResidual(3, 4, 2, 2), models.InvertedResidual(4, 4, 1, 3),
        nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, input):
        return self.attention(input, input, input)[0]


def encoder():
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


def bert():
    found = library("transformers")
    return found.BertModel(
        found.BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32,
        )
    )  # fmt: skip


def llama():
    found = library("transformers")
    return found.LlamaForCausalLM(
        found.LlamaConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, intermediate_size=32, use_cache=False,
        )
    )  # fmt: skip


def gpt2():
    found = library("transformers")
    return found.GPT2LMHeadModel(
        found.GPT2Config(
            vocab_size=50, n_embd=16, n_layer=1, n_head=2, use_cache=False, bos_token_id=0,
            eos_token_id=0,
        )
    )  # fmt: skip


def images(count, size=8):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def sequences(count):
    return torch.randn(count, 5, 8, generator=torch.Generator().manual_seed(count))


def words(count):
    ids = torch.randint(50, (count, 7), generator=torch.Generator().manual_seed(count))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    return {"attention_mask": mask, "input_ids": ids}


NETWORKS = {
    "vgg": (vgg, images),
    "resnet": (resnet, lambda count: images(count, 32)),
    "concatenating": (concatenating, lambda count: images(count, 32)),
    "depthwise": (depthwise, images),
    "attention": (Attention, lambda count: {"input": sequences(count)}),
    "encoder": (encoder, sequences),
    "bert": (bert, words),
    "llama": (llama, words),
    "gpt2": (gpt2, words),
}
