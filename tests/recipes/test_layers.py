"""Stacks of layers are found from names, for the naming of every family."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.errors import InputError
from conjoin.recipes import Outside, find_layers

few = settings(deadline=None, max_examples=60)

REST = ["attn.q.weight", "attn.q.bias", "mlp.up.weight", "norm.weight"]


def stack(prefix: str, numbers: list[int], rest: list[str] = REST) -> list[str]:
    return [f"{prefix}{number}.{name}" for number in numbers for name in rest]


# names, the patterns of the stacks and their lengths
KNOWN = {
    "llama": (
        ["model.embed_tokens.weight", *stack("model.layers.", [0, 1, 2]), "lm_head.weight"],
        [("model.layers.*", 3)],
    ),
    "gpt2": (["wte.weight", *stack("h.", list(range(12))), "ln_f.bias"], [("h.*", 12)]),
    "bert": (stack("bert.encoder.layer.", [0, 1]), [("bert.encoder.layer.*", 2)]),
    "encoder and decoder": (
        ["shared.weight", *stack("encoder.block.", [0, 1]), *stack("decoder.block.", [0, 1, 2])],
        [("encoder.block.*", 2), ("decoder.block.*", 3)],
    ),
    "torchvision's ViT": (
        stack("encoder.layers.encoder_layer_", [0, 1, 2]),
        [("encoder.layers.encoder_layer_*", 3)],
    ),
    "ResNet: its stages": (
        [
            "conv1.weight",
            *(f"layer{i}.{k}.conv1.weight" for i in (1, 2, 3, 4) for k in (0, 1)),
            *(f"layer{i}.0.downsample.0.weight" for i in (2, 3, 4)),
            "fc.weight",
        ],
        [("layer*", 4)],
    ),
    "experts belong to their layer": (
        [
            "model.layers.0.mlp.up.weight",  # a dense first layer
            *(f"model.layers.{i}.mlp.experts.{e}.up.weight" for i in (1, 2) for e in range(8)),
            *(f"model.layers.{i}.norm.weight" for i in (0, 1, 2)),
            *(f"model.layers.{i}.attn.q.weight" for i in (0, 1, 2)),
        ],
        [("model.layers.*", 3)],
    ),
    "a first layer with more": (
        [*stack("blocks.", [0, 1, 2]), "blocks.0.attn.relative.weight"],
        [("blocks.*", 3)],
    ),
    "holes": (stack("layers.", [0, 1, 5]), [("layers.*", 3)]),
    "one layer": (stack("model.layers.", [0]), [("model.layers.*", 1)]),
    "the modules of a Sequential are no layers": (
        [f"features.{i}.{kind}" for i in (0, 3, 6) for kind in ("weight", "bias")],
        [],
    ),
    "heads do not follow each other": (stack("heads.", [0, 1]), []),
    "fc1 and fc2 are two layers by themselves": (stack("fc", [1, 2]), []),
    "no numbers": (["weight", "bias", "a.b.c"], []),
    "nothing": ([], []),
}


@pytest.mark.parametrize("case", KNOWN)
def test_known_families(case: str):
    names, expected = KNOWN[case]
    assert [(s.pattern, len(s)) for s in find_layers(names).stacks] == expected


@pytest.mark.parametrize("case", KNOWN)
def test_what_is_found_is_what_its_pattern_selects(case: str):
    names, _ = KNOWN[case]
    found = find_layers(names)
    for one in found.stacks:
        again = find_layers(names, one.pattern)
        assert again.stacks == (one,)
        for name in names:
            place = found.of(name)
            assert again.of(name) == (place if place and place.stack == one else None)


PARTS = st.sampled_from(["model", "layers", "block", "h", "mlp", "0", "1", "2", "7", "layer3", "w"])
NAMES = st.lists(st.lists(PARTS, min_size=1, max_size=6).map(".".join), unique=True, max_size=30)


@few
@given(NAMES, st.randoms(use_true_random=False))
def test_order_of_the_names_does_not_matter(names: list[str], generator: random.Random):
    shuffled = generator.sample(names, len(names))
    first, second = find_layers(names), find_layers(shuffled)
    assert set(first.stacks) == set(second.stacks)
    assert all(first.of(name) == second.of(name) for name in names)


@few
@given(NAMES)
def test_every_layer_is_counted(names: list[str]):
    layers = find_layers(names)
    for name in names:
        place = layers.of(name)
        if place is None:
            assert layers.place(name) in tuple(Outside)
            with pytest.raises(InputError, match="no layer"):
                layers.rename(name, 0)
            continue
        assert 0 <= place.index < place.count == len(place.stack)
        assert name.startswith(f"{place.stack.prefix}{place.number}")
        assert layers.rename(name, place.number) == name
    for one in layers.stacks:
        members = {p.index for n in names if (p := layers.of(n)) and p.stack == one}
        assert members == set(range(len(one)))


@few
@given(st.integers(1, 40), st.integers(0, 99), st.sampled_from(["model.layers.", "h.", "layer"]))
def test_rename_and_back(count: int, new: int, prefix: str):
    names = stack(prefix, list(range(1, count + 2)))
    layers = find_layers(names)
    for name in names:
        place = layers.of(name)
        assert place is not None
        renamed = layers.rename(name, new)
        assert renamed == name.replace(f"{prefix}{place.number}.", f"{prefix}{new}.", 1)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("model.embed_tokens.weight", Outside.BEFORE),
        ("bert.embeddings.LayerNorm.weight", Outside.BEFORE),
        ("transformer.wpe.weight", Outside.BEFORE),
        ("patch_embed.proj.bias", Outside.BEFORE),
        ("cls_token", Outside.BEFORE),
        ("vision.pre_layrnorm.weight", Outside.BEFORE),
        ("conv1.weight", Outside.BEFORE),
        ("model.norm.weight", Outside.AFTER),
        ("lm_head.weight", Outside.AFTER),
        ("embed_out.weight", Outside.AFTER),
        ("transformer.ln_f.bias", Outside.AFTER),
        ("bert.pooler.dense.weight", Outside.AFTER),
        ("classifier.bias", Outside.AFTER),
        ("fc.weight", Outside.AFTER),
        ("logit_scale", Outside.UNKNOWN),
        ("anything.weight", Outside.UNKNOWN),
    ],
)
def test_where_outside(name: str, where: Outside):
    assert find_layers([name, *stack("layers.", [0, 1])]).place(name) is where


def test_a_pattern_with_stages():
    names = [f"stages.{s}.blocks.{b}.weight" for s in (0, 1) for b in range(2 + s)]
    assert find_layers(names, "stages.*").stacks[0].numbers == (0, 1)
    found = find_layers(names, "stages.*.blocks.*")
    assert [(s.prefix, len(s)) for s in found.stacks] == [
        ("stages.0.blocks.", 2),
        ("stages.1.blocks.", 3),
    ]


def test_a_pattern_makes_a_sequential_a_stack():
    names = [f"features.{i}.weight" for i in (0, 3, 6)]
    layers = find_layers(names, "features.*")
    place = layers.of("features.3.weight")
    assert place is not None
    assert (place.index, place.count, place.number) == (1, 3, 3)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("model.layrs.*", "did you mean 'model.layers.*'"),
        ("model.layers", "has to end where the number stands"),
        ("*.bias", "has to end"),
        ("zzz*", "fits none of the"),
    ],
)
def test_a_wrong_pattern(pattern: str, message: str):
    with pytest.raises(InputError, match=message):
        find_layers(stack("model.layers.", [0, 1]), pattern)


def test_a_part_with_layers_that_is_no_tower_stands_where_its_name_says():
    names = [
        *(f"encoder.layers.{n}.lin.weight" for n in range(3)),
        *(f"decoder.layers.{n}.lin.weight" for n in range(3)),
        *(f"classifier.convs.{n}.conv.weight" for n in range(2)),
        "classifier.out.weight",
        *(f"vision.blocks.{n}.lin.weight" for n in range(2)),
        "vision.norm.weight",
    ]
    layers = find_layers(names, "encoder.layers.*")
    assert layers.place("classifier.out.weight") is Outside.AFTER
    assert layers.place("classifier.convs.1.conv.weight") is Outside.AFTER
    assert layers.place("decoder.layers.1.lin.weight") is Outside.UNKNOWN
    assert layers.place("vision.norm.weight") is Outside.BEFORE
    assert layers.place("vision.blocks.1.lin.weight") is Outside.BEFORE
    assert layers.place("projector.weight") is Outside.BEFORE
    assert layers.place("image_to_text_projection.weight") is Outside.BEFORE
    # Where there is no tower, a projector may stand anywhere.
    alone = find_layers([f"encoder.layers.{n}.lin.weight" for n in range(3)], "encoder.layers.*")
    assert alone.place("projector.weight") is Outside.UNKNOWN
    # Beside the tower's own layers, nothing is a tower.
    layers = find_layers(names, "vision.blocks.*")
    assert layers.place("vision.norm.weight") is Outside.AFTER
    assert layers.place("encoder.layers.1.lin.weight") is Outside.UNKNOWN
