"""Small models with tokenizers: a row for each token, and some rows for none."""

import json
from pathlib import Path

import torch

from conjoin.checkpoints import save

WIDTH = 3


def entry(token, number, **more):
    """An entry of ``added_tokens`` as the library `tokenizers` writes it."""
    settings = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, **settings, "special": True, **more}


def tokenizer(plain, added=()):
    """A ``tokenizer.json`` that divides text at spaces; tokens in the order of their numbers."""
    return {
        "version": "1.0",
        "added_tokens": [entry(token, len(plain) + at) for at, token in enumerate(added)],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {
            "type": "WordLevel",
            "vocab": {token: at for at, token in enumerate(plain)},
            "unk_token": plain[0],
        },
    }


def write(folder: Path, name, plain, added=(), *, spare=0, tied=False, seed=None, dtype=None):
    """Write a model; give its tensors. Each has `spare` rows without a token."""
    path = folder / name
    path.mkdir()
    rows = len(plain) + len(added) + spare
    generator = torch.Generator().manual_seed(sum(map(ord, name)) if seed is None else seed)
    draw = [torch.randn(rows, WIDTH, generator=generator) for _ in range(2)]
    tensors = {
        "model.embed_tokens.weight": draw[0],
        "model.layers.0.mlp.weight": torch.randn(WIDTH, WIDTH, generator=generator),
        "model.norm.weight": torch.randn(WIDTH, generator=generator),
        "lm_head.weight": draw[0] if tied else draw[1],
        "lm_head.bias": torch.randn(rows, generator=generator),
    }
    tensors = {key: value.to(dtype or value.dtype) for key, value in tensors.items()}
    if tied:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    save(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": rows}))
    (path / "tokenizer.json").write_text(json.dumps(tokenizer(plain, added)))
    return tensors


def by_token(tensors, plain, added=(), name="model.embed_tokens.weight"):
    """The rows of a model by token."""
    return {token: tensors[name][at] for at, token in enumerate((*plain, *added))}
