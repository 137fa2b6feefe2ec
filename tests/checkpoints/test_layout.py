import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conjoin.checkpoints.layout import choose_weights, shard_order
from conjoin.errors import CheckpointError


def shards(stem: str, total: int, suffix: str = "safetensors") -> list[str]:
    return [f"{stem}-{k:05d}-of-{total:05d}.{suffix}" for k in range(1, total + 1)]


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["model.safetensors", "pytorch_model.bin", "model.fp16.safetensors"], 1),
        (["pytorch_model.bin", "training_args.bin", "optimizer.bin"], 1),
        (["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"], 1),
        (["adapter_model.safetensors", "adapter_config.json"], 1),
        (["adapter_model.bin"], 1),
        (["model.safetensors", "adapter_model.safetensors"], 1),
        (["anything at all.safetensors", "config.json"], 1),
        ([*shards("x", 3), "config.json"], 3),
        ([*shards("pytorch_model", 2, "bin")], 2),
        ([*shards("model", 2), *shards("pytorch_model", 4, "bin")], 2),
    ],
)
def test_the_first_names_are_chosen(names: list[str], files: int) -> None:
    shuffled = random.Random(0).sample(names, len(names))
    layout = choose_weights(shuffled, "here")
    assert layout.index is None
    assert list(layout.files) == names[:files]


def test_an_index_is_found_with_what_stands_beside_it() -> None:
    names = ["model.safetensors", "model.safetensors.index.json", *shards("model", 2)]
    layout = choose_weights(names, "here")
    assert layout.index == "model.safetensors.index.json"
    assert layout.files == ("model.safetensors", *shards("model", 2))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "here has no weights: it has no files"),
        (["config.json", "training_args.bin"], "has no weights: it has config.json, training_args"),
        (["model_index.json"], "pipeline of diffusers"),
        (["a.safetensors", "b.safetensors"], "2 sets of weights"),
        ([*shards("a", 2), "b.safetensors"], "2 sets of weights"),
        (["model.safetensors", "diffusion_pytorch_model.safetensors"], "2 sets of weights"),
        (["model.safetensors", *shards("model", 2)], "both model.safetensors and shards"),
        ([*shards("model", 2), *shards("model", 3)], "more than one set: of 2 and of 3"),
        (shards("model", 3)[:2], "2 of 3 shards .* number 3 is missing"),
        (shards("model", 3)[1:], "number 1 is missing"),
        (["m-0-of-1.safetensors", "m-1-of-1.safetensors"], "number is not in 1..1"),
        (["m-01-of-02.safetensors", "m-1-of-2.safetensors"], "one shard twice"),
    ],
)
def test_no_guesses(names: list[str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        choose_weights(names, "here")


@given(st.integers(1, 120), st.randoms())
def test_shards_come_by_number(total: int, order: random.Random) -> None:
    names = [f"m-{k}-of-{total}.bin" for k in range(1, total + 1)]
    assert sorted(order.sample(names, total), key=shard_order) == names
