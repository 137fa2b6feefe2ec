"""Tensors of tiny models that have layers."""

import torch


def layered(layers, seed, width=2):
    """Tensors of a model with layers; no two of them are equal."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    tensors = {"model.embed_tokens.weight": draw(3, width)}
    for number in range(layers):
        tensors[f"model.layers.{number}.attn.q_proj.weight"] = draw(width, width)
        tensors[f"model.layers.{number}.mlp.up.weight"] = draw(width, width)
        tensors[f"model.layers.{number}.ln.weight"] = draw(width)
    return tensors | {"model.norm.weight": draw(width), "lm_head.weight": draw(3, width)}
