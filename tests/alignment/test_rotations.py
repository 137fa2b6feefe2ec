"""Rotations of residual streams, values, queries and keys: found, applied, and undone."""

import copy
import sys
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch import nn
from transformer_networks import TOKENS, RMSNorm, transformer

from conjoin import merge
from conjoin.alignment import align
from conjoin.alignment.rotations import Rotatable, Rotations, align_rotations, find_rotations
from conjoin.alignment.rotations.turning import nearest
from conjoin.checkpoints import open_checkpoint, save
from conjoin.errors import CheckpointError, InputError, MismatchError, NonFiniteError
from conjoin.symmetry import Permutations

sys.path.insert(0, str(Path(__file__).parents[1] / "symmetry"))  # `libraries` lies there

from libraries import library

STREAM = "places:1"
HEADS = [f"blocks.{n}.{name}" for n in range(2) for name in ("q.weight:0#1", "v.weight:0")]
SETTINGS = {
    "rms": {},
    "rms of torch": {"norm": nn.RMSNorm},
    "offset": {"norm": partial(RMSNorm, offset=1.0)},
    "layer norm": {"norm": nn.LayerNorm},
    "layer scale": {"scale": True},
    "norms after": {"after": True},
    "tied": {"tied": True},
}
FREE = ["rms", "rms of torch", "offset", "layer norm", "layer scale"]


@cache
def network_of(kind):
    """A network, and what was found in it; not to be changed."""
    net = transformer(0, **SETTINGS[kind])
    return net, find_rotations(net, TOKENS)


@pytest.fixture(params=SETTINGS)
def case(request):
    return request.param, *network_of(request.param)


@pytest.fixture
def rms():
    return network_of("rms")


def generator(seed):
    return torch.Generator().manual_seed(seed)


def perturbed(model, noise, seed):
    """Add noise, of each tensor's norm."""
    drawn = generator(seed)
    with torch.no_grad():
        for tensor in model.parameters():
            add = torch.randn(tensor.shape, generator=drawn, dtype=torch.float64)
            tensor.add_((add * (noise * tensor.double().norm() / add.norm())).to(tensor.dtype))
    return model


def distance(one, two):
    """How far the weights are apart, relative to their norm."""
    a, b = (torch.cat([p.detach().double().flatten() for p in m.parameters()]) for m in (one, two))
    return float((a - b).norm() / b.norm())


def same(one, two, tolerance=1e-9):
    with torch.no_grad():
        return float((one(TOKENS) - two(TOKENS)).abs().max()) < tolerance


def test_what_may_be_rotated_is_found(case):
    kind, _, found = case
    stream = {} if kind not in FREE else {STREAM: kind == "layer norm"}
    assert dict(found.keeps_mean) == stream | dict.fromkeys(HEADS, False)
    assert {"blocks.0.gate.weight:0", "blocks.0.q.weight:0"} < found.refused.keys()
    assert found.error < 1e-9


def test_a_norm_is_folded_into_what_reads_it(rms):
    _, found = rms
    readers = {scale.tensor: {p.tensor for p, _ in scale.powers} for scale in found.scales}
    expected = {"norm.weight": {"head.weight"}}
    for block in ("blocks.0.", "blocks.1."):
        expected[f"{block}norms.0.weight"] = {f"{block}{n}.weight" for n in "qkv"}
        expected[f"{block}norms.1.weight"] = {f"{block}{n}.weight" for n in ("gate", "up")}
    assert readers == expected


def test_a_random_element_keeps_the_function_and_moves_all(case):
    kind, net, found = case
    moved = found.sample(generator(1)).apply(net)
    assert same(net, moved)
    one, two = (model.words.weight.sort(-1).values for model in (net, moved))
    assert torch.equal(one, two) == (kind not in FREE)  # reordered at most
    assert distance(moved.blocks[0].v, net.blocks[0].v) > 1
    for scale in found.scales:
        weight = moved.get_parameter(scale.tensor)
        assert torch.equal(weight, torch.full_like(weight, 1 - scale.offset))


def test_folding_moves_nothing_but_norms(case):
    _, net, found = case
    folded = found.fold(net)
    assert same(net, folded)
    assert same(folded, found.fold(folded), 1e-12)
    assert torch.equal(folded.words.weight, net.words.weight)
    expected = net.blocks[0].q.weight
    if STREAM in found.groups:
        expected = expected * (net.blocks[0].norms[0].weight + getattr(net.norm, "offset", 0))
    assert torch.allclose(folded.blocks[0].q.weight, expected, rtol=0, atol=1e-12)


def test_layer_norm_rotates_by_what_keeps_the_mean_alone():
    net, found = network_of("layer norm")
    assert found.keeps_mean[STREAM]
    matrix = nearest(torch.randn(24, 24, generator=generator(0)).double())
    with pytest.raises(InputError, match=r"vector of ones, since a norm subtracts"):
        Rotations(found, {STREAM: matrix})
    free = Rotatable(found.layout, {STREAM: False}, found.scales)  # not what was proved
    assert not same(net, Rotations(free, {STREAM: matrix}).apply(net), 1e-3)


def test_what_is_refused_says_why():
    _, tied = network_of("tied")
    assert "words.weight is one tensor in two places" in tied.refused[STREAM]
    with pytest.raises(InputError, match=r"'places:1' may not be rotated: .* a tied embedding"):
        Rotations(tied, {STREAM: torch.eye(24)})
    _, after = network_of("norms after")
    assert "cannot be folded into the layers that read it" in after.refused[STREAM]


def test_a_tied_model_is_not_taken_for_an_untied_one(rms):
    _, found = rms
    tied = transformer(0, tied=True)
    with pytest.raises(MismatchError, match=r"'words.weight' and 'head.weight' are one tensor"):
        found.sample(generator(0)).apply(tied)
    with pytest.raises(MismatchError, match=r"tied to 'words.weight', in the model"):
        align_rotations(tied, to=rms[0], rotatable=found)


def test_a_copy_of_the_embedding_makes_a_tied_network_free():
    net = transformer(0, tied=True)
    net.head.weight = nn.Parameter(net.words.weight.detach().clone())
    assert STREAM in find_rotations(net, TOKENS).groups


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05])
def test_what_was_rotated_is_brought_back(case, noise):
    _, net, found = case
    moved = perturbed(found.sample(generator(1)).apply(net), noise, 2)
    aligned = align_rotations(moved, to=net, rotatable=found)
    result = aligned.apply(moved)
    assert same(result, moved)
    assert distance(moved, net) > 1
    assert distance(result, net) < 1.2 * noise + 1e-6
    assert abs(aligned.before) < 0.3
    assert aligned.objective > 1 - 2 * noise**2 - 1e-6
    assert all(group.before < 0.5 and group.after > 0.99 for group in aligned.groups)


def test_permutations_alone_do_not_bring_it_back(rms):
    net, found = rms
    moved = found.sample(generator(1)).apply(net)
    assert distance(align(moved, to=net, symmetries=found.layout).apply(moved), net) > 0.5


def test_the_reference_is_combined_as_it_is(rms):
    """An average is the same with the reference's norms as with folded ones."""
    net, found = rms
    other = transformer(1)
    aligned = align_rotations(other, to=net, rotatable=found)
    plain = merge([net, aligned.apply(other)])
    rotations = Rotations(found, aligned.rotations.matrices, aligned.rotations.permutations)
    folded = merge([found.fold(net), rotations.apply(other)])
    assert same(plain, folded)
    assert torch.equal(plain.norm.weight, net.norm.weight)


def test_independent_networks_get_closer_than_by_orders(rms):
    net, found = rms
    other = transformer(1)
    by_order = align(other, to=net, symmetries=found.layout).apply(other)
    turned = align_rotations(other, to=net, rotatable=found).apply(other)
    none, order, rotation = (
        distance(found.fold(one), found.fold(net)) for one in (other, by_order, turned)
    )
    assert rotation < 0.97 * order < 0.97 * none


def test_a_rotation_of_the_reference_aligns_as_well(rms):
    net, found = rms
    other = transformer(1)
    sampled = found.sample(generator(5)).apply(other)
    one, two = (align_rotations(m, to=net, rotatable=found).objective for m in (other, sampled))
    assert two == pytest.approx(one, abs=0.05)


def test_bfloat16():
    net = transformer(0).bfloat16()
    found = find_rotations(net, TOKENS)
    moved = found.sample(generator(1)).apply(net)
    result = align_rotations(moved, to=net, rotatable=found).apply(moved)
    assert {p.dtype for p in result.parameters()} == {torch.bfloat16}
    assert distance(moved, net) > 1
    assert distance(result, net) < 2 * 2**-8  # two roundings
    assert torch.equal(result.norm.weight, net.norm.weight)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_llama(tied):
    transformers = library("transformers")
    config = transformers.LlamaConfig(
        vocab_size=60, hidden_size=48, intermediate_size=40, num_hidden_layers=2, use_cache=False,
        num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=16,
        tie_word_embeddings=tied,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = transformers.LlamaForCausalLM(config).eval()
    for n, tensor in enumerate(p for p in net.parameters() if p.dim() == 1):
        tensor.data.add_(0.3 * torch.randn(tensor.shape, generator=generator(n)))
    found = find_rotations(net, {"input_ids": TOKENS})
    values = [f"model.layers.{n}.self_attn.v_proj.weight:0" for n in range(2)]
    assert list(found.groups) == ([] if tied else ["model.embed_tokens.weight:1"]) + values
    moved = perturbed(found.sample(generator(1)).apply(net), 0.05, 2)
    aligned = align_rotations(moved, to=net, rotatable=found)
    result = aligned.apply(moved)
    with torch.no_grad():
        assert torch.allclose(result(TOKENS).logits, moved(TOKENS).logits, atol=1e-5)
    assert distance(result, net) < 0.06
    assert aligned.objective > 0.995


def test_named_tensors_and_files(rms, tmp_path):
    net, found = rms
    state = found.sample(generator(1)).apply(net.state_dict())
    aligned = align_rotations(state, to=net.state_dict(), rotatable=found)
    path = tmp_path / "rotations.safetensors"
    aligned.rotations.save(path)
    again = Rotations.load(path)
    assert again.rotatable == found
    for one, two in (
        (aligned.rotations.matrices, again.matrices), (aligned.rotations.norms, again.norms)
    ):  # fmt: skip
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    one, two = aligned.apply(state), again.apply(state)
    assert list(one) == list(state)
    assert all(torch.allclose(one[n], two[n], rtol=0, atol=1e-12) for n in one)
    assert all(torch.allclose(one[n], t, atol=1e-5) for n, t in net.state_dict().items())
    assert Permutations.load(path) == aligned.rotations.permutations
    aligned.rotations.permutations.save(path)
    with pytest.raises(CheckpointError, match="no rotations"):
        Rotations.load(path)
    save(one, tmp_path / "aligned.safetensors")
    stored = open_checkpoint(tmp_path / "aligned.safetensors")
    assert align_rotations(stored, to=net.state_dict(), rotatable=found).before > 0.999


def test_nothing_given_is_changed(rms):
    net, found = rms  # the network has been traced, run, and rotated by now
    other = transformer(1)
    align_rotations(other, to=net, rotatable=found).apply(other)
    for seed, model in enumerate((net, other)):
        new = transformer(seed).state_dict()
        assert all(torch.equal(new[name], t) for name, t in model.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_bad_input(rms):
    net, found = rms
    with pytest.raises(InputError, match="give a module as the reference and example_inputs"):
        align_rotations(net, to=net)
    with pytest.raises(InputError, match=r"must be orthogonal, \[24, 24\]"):
        Rotations(found, {STREAM: 2 * torch.eye(24)})
    with pytest.raises(InputError, match="'other' may not be rotated: there is no such group"):
        Rotations(found, {"other": torch.eye(2)})
    with pytest.raises(InputError, match="is no weight of a norm"):
        Rotations(found, {}, norms={"other": torch.ones(2)})
    order = Permutations(found.layout, {STREAM: torch.arange(24).flip(0)})
    with pytest.raises(InputError, match="its order must be the identity"):
        Rotations(found, {}, order)
    with pytest.raises(MismatchError, match="different tensors"):
        align_rotations(transformer(0, layers=1), to=net, rotatable=found)
    with pytest.raises(MismatchError, match="in the reference, and"):
        align_rotations(transformer(0, words=61), to=net, rotatable=found)
    broken = copy.deepcopy(net)
    broken.head.weight.data[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"'head.weight' of the model"):
        align_rotations(broken, to=net, rotatable=found)
    zero = copy.deepcopy(net)
    zero.norm.weight.data[3] = 0.0
    with pytest.raises(InputError, match=r"align to the folded reference"):
        align_rotations(net, to=zero, rotatable=found)
    folded = found.fold(zero)
    assert same(folded, zero)
    result = align_rotations(zero, to=folded, rotatable=found).apply(zero)
    assert same(result, zero)


def test_norm_bias_with_a_zero_weight_is_refused():
    net, found = network_of("layer norm")
    net = copy.deepcopy(net)
    net.norm.weight.data[3] = 0.0
    with pytest.raises(InputError, match=r"'norm.weight' has a zero, so that 'norm.bias'"):
        found.fold(net)


class Factors(nn.Module):
    """A linear layer in two factors, and a nonlinear layer."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(8, 5, bias=False), nn.Linear(5, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, x):
        return self.head(self.up(self.down(x)).tanh())


def test_by_hand():
    """Two factors of one matrix: the best rotation is Procrustes' for both."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one, two = Factors().double(), Factors().double()
    found = find_rotations(one, torch.randn(2, 8, generator=generator(0)).double())
    assert list(found.groups) == ["down.weight:0"]
    for net in (one, two):
        net.up.weight.data.zero_()  # the other factor alone decides
    aligned = align_rotations(two, to=one, rotatable=found)
    u, _, vh = torch.linalg.svd(one.down.weight @ two.down.weight.T)
    assert torch.allclose(aligned.rotations.matrices["down.weight:0"], u @ vh, atol=1e-5)


@pytest.mark.parametrize("keeps_mean", [False, True])
def test_nearest_is_the_best_of_many(keeps_mean):
    drawn = generator(0)
    matrix = torch.randn(2, 5, 5, generator=drawn, dtype=torch.float64)
    best = nearest(matrix, keeps_mean=keeps_mean)
    eye = torch.eye(5, dtype=torch.float64)
    assert torch.allclose(best @ best.mT, eye.expand(2, 5, 5), atol=1e-12)
    assert torch.allclose(best.sum(-1), torch.ones(2, 5).double(), atol=1e-12) == keeps_mean
    others = torch.randn(500, 1, 5, 5, generator=drawn, dtype=torch.float64)
    near = best + 0.1 * others  # among them, some close to the best
    for candidates in (others, near):
        values = (nearest(candidates, keeps_mean=keeps_mean) * matrix).sum((-1, -2))
        assert bool((values <= (best * matrix).sum((-1, -2)) + 1e-12).all())
