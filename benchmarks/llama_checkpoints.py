"""Checkpoints of Llama's shape and any size, in bfloat16 and in shards, for benchmarks of files."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

__all__ = ["MODELS", "dimensions", "make", "shapes"]

MODELS = ("a", "b", "c")
"""The second and the third are the first with noise."""

SHARDS = 3


def make(folder: Path, params: int) -> Path:
    """Make the three models, unless a run before has; give their folder."""
    place = folder / f"llama-{params}"
    if (place / "complete").exists():
        return place
    shutil.rmtree(place, ignore_errors=True)
    config = dimensions(params)
    total, done = count(config), 0
    names: list[dict[str, tuple[int, ...]]] = [{} for _ in range(SHARDS)]
    for name, shape in shapes(config).items():
        names[min(done * SHARDS // total, SHARDS - 1)][name] = shape
        done += torch.Size(shape).numel()
    used = [part for part in names if part]
    generator = torch.Generator().manual_seed(0)
    for model in MODELS:
        (place / model).mkdir(parents=True)
        text = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **config}
        (place / model / "config.json").write_text(json.dumps(text), encoding="utf-8")
        write_index(place / model, used)
    for number, part in enumerate(used):
        first = {n: torch.randn(s, generator=generator).mul_(0.02) for n, s in part.items()}
        write_shard(place / MODELS[0], number, len(used), first)
        for model in MODELS[1:]:
            noisy = {
                n: t + 0.002 * torch.randn(t.shape, generator=generator) for n, t in first.items()
            }
            write_shard(place / model, number, len(used), noisy)
    (place / "complete").touch()
    return place


def dimensions(params: int) -> dict[str, int]:
    """Give the configuration of a Llama of about so many parameters.

    Width and depth grow together as in the models of 1 to 7 billion, and the words with them, so
    that a small model is not all embedding.
    """
    width = 8
    while count(configured(width + 8, (width + 8) // 93 + 1)) <= params:
        width += 8
    layers = 1
    while count(configured(width, layers + 1)) <= params:
        layers += 1
    return configured(width, layers)


def configured(width: int, layers: int) -> dict[str, int]:
    """Give the configuration of a Llama by the names that transformers has for it."""
    return {
        "hidden_size": width,
        "intermediate_size": width * 8 // 3,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 8,
        "num_key_value_heads": width // 8,
        "vocab_size": min(32000, 16 * width),
    }


def shapes(config: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Give the names and shapes of all tensors, in the order of the model."""
    h, i, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    inside = {
        "input_layernorm": (h,),
        **{f"self_attn.{x}_proj": (h, h) for x in "qkvo"},
        "post_attention_layernorm": (h,),
        "mlp.gate_proj": (i, h),
        "mlp.up_proj": (i, h),
        "mlp.down_proj": (h, i),
    }
    layers = {
        f"model.layers.{k}.{name}.weight": shape
        for k in range(config["num_hidden_layers"])
        for name, shape in inside.items()
    }
    ends = {"model.norm.weight": (h,), "lm_head.weight": (v, h)}
    return {"model.embed_tokens.weight": (v, h), **layers, **ends}


def count(config: Mapping[str, int]) -> int:
    """Give the number of parameters."""
    return sum(torch.Size(shape).numel() for shape in shapes(config).values())


def shard(number: int, of: int) -> str:
    """Give the name of a shard."""
    return f"model-{number + 1:05}-of-{of:05}.safetensors"


def write_index(folder: Path, parts: Sequence[Mapping[str, Any]]) -> None:
    """Write which shard has which tensor."""
    table = {n: shard(k, len(parts)) for k, part in enumerate(parts) for n in part}
    text = json.dumps({"metadata": {}, "weight_map": table})
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def write_shard(folder: Path, number: int, of: int, tensors: dict[str, torch.Tensor]) -> None:
    """Write one shard in bfloat16."""
    halves = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    save_file(halves, folder / shard(number, of), {"format": "pt"})
