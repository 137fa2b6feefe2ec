"""Tiny models of Llama's shape, drawn by NumPy from fixed seeds, that mergekit is asked about."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

__all__ = ["AFTER", "LAYERS", "MODELS", "flat", "split", "weights", "write_models"]

MODELS = ("base", "a", "b")
LAYERS = 4
AFTER = ("lm_head.weight", "model.norm.weight")
"""Tensors that stand after the layers, sorted."""

_HIDDEN, _INNER, _HEADS, _KEY_HEADS, _WORDS = 8, 6, 2, 1, 5
_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": _HIDDEN,
    "intermediate_size": _INNER,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _KEY_HEADS,
    "num_hidden_layers": LAYERS,
    "vocab_size": _WORDS,
    "tie_word_embeddings": False,
    "dtype": "float32",
}


def weights(model: str) -> dict[str, np.ndarray]:
    """Give the tensors of a model, float32: normal values, and models near to the base."""
    base = _drawn(0)
    if model == "base":
        return base
    change = _drawn(MODELS.index(model))
    return {name: base[name] + np.float32(0.5) * change[name] for name in base}


def _drawn(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {n: generator.standard_normal(s, dtype=np.float32) for n, s in _shapes(LAYERS).items()}


def _shapes(layers: int) -> dict[str, tuple[int, ...]]:
    keys = _HIDDEN // _HEADS * _KEY_HEADS
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (_WORDS, _HIDDEN)}
    for layer in range(layers):
        inside = {
            "input_layernorm": (_HIDDEN,),
            "self_attn.q_proj": (_HIDDEN, _HIDDEN),
            "self_attn.k_proj": (keys, _HIDDEN),
            "self_attn.v_proj": (keys, _HIDDEN),
            "self_attn.o_proj": (_HIDDEN, _HIDDEN),
            "post_attention_layernorm": (_HIDDEN,),
            "mlp.gate_proj": (_INNER, _HIDDEN),
            "mlp.up_proj": (_INNER, _HIDDEN),
            "mlp.down_proj": (_HIDDEN, _INNER),
        }
        shapes |= {f"model.layers.{layer}.{name}.weight": s for name, s in inside.items()}
    return {**shapes, "model.norm.weight": (_HIDDEN,), "lm_head.weight": (_WORDS, _HIDDEN)}


def flat(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Give all tensors as one vector, float32, in the order of their sorted names."""
    return np.concatenate([tensors[name].ravel().astype(np.float32) for name in sorted(tensors)])


def split(vector: np.ndarray, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Take apart what `flat` has made of a model of any number of layers, or of some tensors."""
    ends, one = (sum(map(np.prod, _shapes(layers).values())) for layers in (0, 1))
    shapes = _shapes(LAYERS if names else int(vector.size - ends) // int(one - ends))
    tensors, begin = {}, 0
    for name in sorted(names or shapes):
        end = begin + int(np.prod(shapes[name]))
        tensors[name] = vector[begin:end].reshape(shapes[name])
        begin = end
    if begin != vector.size:
        raise ValueError(f"{vector.size} values are not those of whole layers")
    return tensors


def write_models(folder: Path) -> None:
    """Write the models as folders of Hugging Face's kind."""
    from safetensors.numpy import save_file

    for model in MODELS:
        (folder / model).mkdir()
        (folder / model / "config.json").write_text(json.dumps(_CONFIG), encoding="utf-8")
        save_file(weights(model), folder / model / "model.safetensors", {"format": "pt"})
