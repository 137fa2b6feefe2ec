"""Summaries: the same bits whoever makes them, once each, over what they are about."""

import threading
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from conjoin.checkpoints import MemoryCheckpoint
from conjoin.errors import MethodError, NonFiniteError
from conjoin.merging import BLOCK, Alone, Merged, Piece, Settings, make_tasks
from conjoin.methods import Method, Need
from conjoin.methods.reductions import sum_of

calls: list[str] = []


def about(
    tensors,
    *,
    base: Tensor,
    weights,
    summary: Tensor,
    generator: torch.Generator,
    per: str = "tensor",
    power: float = 1.0,
) -> Tensor:
    """Every element is the summary: sum, number of elements and blocks, noise, weights."""
    return summary.sum().float().expand_as(base).clone()


def look(total, *, weights, power: float = 1.0) -> Tensor:
    """The sum of differences, of elements, of blocks, of random numbers, and of weights."""
    calls.append("look")

    def sums(tensors, *, base, generator):
        assert all(tensor.dim() == 1 and tensor.numel() <= BLOCK for tensor in tensors)
        assert not isinstance(base, list)
        noise = torch.rand(base.shape, generator=generator)
        return torch.stack([sum_of(tensors[0] - base), sum_of(noise)]).double()

    def counts(tensors):
        return torch.tensor([tensors[0].numel(), min(1, tensors[0].numel())])

    found = total(sums)
    return torch.cat([found, total(counts).double(), torch.tensor([sum(weights) * power])])


METHOD = Method("about", about, "", needs=frozenset({Need.BASE, Need.WEIGHTS}), summarize=look)


class Backwards(Alone):
    """Does pieces in the other order, as other threads may."""

    def each(self, function, pieces):
        return super().each(function, pieces[::-1])[::-1]

    def summed(self, function, pieces):
        return super().summed(function, pieces[::-1])


def _model(*sizes, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return MemoryCheckpoint(
        {f"w{i}": torch.randn(size, generator=generator).to(dtype) for i, size in enumerate(sizes)}
    )


def _merged(models, *, parameters=None, weights=(1.0,), workers=None, seed=0, **given):
    settings = Settings(weights, parameters or {})
    tasks = make_tasks(
        models[:1], METHOD, base=models[1], kept={}, settings=lambda name: settings, **given
    )
    merged = Merged(tasks, seed=seed)
    merged.summaries.workers = workers or Alone()
    return merged


@pytest.fixture
def models():
    return [_model(3, 2 * BLOCK + 7, 0, seed=seed) for seed in range(2)]


def _difference(models, *names):
    return sum(float((models[0][n].double() - models[1][n].double()).sum()) for n in names)


def test_over_each_tensor_by_hand(models):
    merged = _merged(models)
    for name, blocks in (("w0", 1), ("w1", 3), ("w2", 0)):
        numel = models[0].specs[name].numel
        found = merged.summaries.of(name).tolist()
        assert found[0] == pytest.approx(_difference(models, name), rel=1e-6)
        assert found[1] == pytest.approx(numel / 2, rel=0.01, abs=1.5)
        assert found[2:] == [numel, blocks, 1]
    assert merged.summaries.keys_of_models() == {}


def test_over_the_whole_model_by_hand(models):
    merged = _merged(models, parameters={"per": "model", "power": 3.0}, weights=(2.0,))
    found = merged.summaries.of("w0")
    assert found.tolist()[0] == pytest.approx(_difference(models, "w0", "w1"), rel=1e-6)
    assert found.tolist()[2:] == [2 * BLOCK + 10, 4, 6]
    assert all(torch.equal(merged.summaries.of(name), found) for name in ("w1", "w2"))
    assert len(merged.summaries.keys_of_models()) == 1


@pytest.mark.parametrize("per", ["model", "tensor"])
def test_the_order_of_work_changes_no_bit(models, per):
    found = [
        _merged(models, parameters={"per": per}, workers=workers).summaries.of("w1")
        for workers in (Alone(), Backwards())
    ]
    assert torch.equal(*found)


def drawn(total, *, weights, power: float = 1.0) -> Tensor:
    """What a sample of about 1000 sees, and a sum that is formed in place."""
    sample = total.sample(lambda tensors, base: torch.stack([tensors[0], base]), 1000)
    assert sample.dtype == torch.float32

    def into_one(tensors, *, into=None):
        into = torch.zeros(2, dtype=torch.int64) if into is None else into
        into += torch.tensor([tensors[0].numel(), 1])
        return into

    numbers = torch.tensor([total.size, *total(into_one)])
    return torch.cat([numbers.double(), sample.reshape(-1).double()])


@pytest.mark.parametrize("workers", [Alone(), Backwards()])
@pytest.mark.parametrize("per", ["model", "tensor"])
def test_a_sample_lies_evenly_and_meets_every_tensor(models, per, workers):
    method = replace(METHOD, summarize=drawn)
    settings = Settings((1.0,), {"per": per})
    tasks = make_tasks(models[:1], method, base=models[1], kept={}, settings=lambda name: settings)
    merged = Merged(tasks)
    merged.summaries.workers = workers
    for name, names in {"w0": ["w0"], "w1": ["w1"]}.items():
        names = names if per == "tensor" else ["w0", "w1"]
        size, seen, blocks = merged.summaries.of(name)[:3].int().tolist()
        sample = merged.summaries.of(name)[3:].float()
        assert size == seen == sum(models[0].specs[each].numel for each in names)
        assert blocks == {"w0": 1, "w1": 3}[name] if per == "tensor" else blocks == 4
        step = 1 if size < 1000 else -(-size // 1000) | 1
        for row, model in zip(sample.chunk(2), models, strict=True):
            expected = torch.cat([model[each].reshape(-1)[::step] for each in names])
            assert torch.equal(row, expected)


def test_each_is_made_once_by_however_many_threads(models):
    merged = _merged(models, parameters={"per": "model"})
    calls.clear()
    names = ["w0", "w1"] * 8
    threads = [threading.Thread(target=merged.summaries.of, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["look"]


def test_an_error_is_not_remembered_as_a_summary():
    broken = MemoryCheckpoint({"w0": torch.tensor([float("nan")])})
    merged = _merged([broken, _model(1)])
    for _ in range(2):  # the second time as well, and nobody waits for ever
        with pytest.raises(NonFiniteError, match="'w0' of model 0"):
            merged.summaries.of("w0")


def test_what_was_made_before_is_taken(models):
    first = _merged(models, parameters={"per": "model"})
    first.summaries.make_models(Alone())
    known = first.summaries.of_models()
    assert list(known) == list(first.summaries.keys_of_models())
    calls.clear()
    second = _merged(models, parameters={"per": "model"})
    assert second.summaries.of_models() == {}
    second.summaries.know(known)
    assert second.summaries.of("w1") is known[second.summaries.key("w1")]
    second.summaries.make_models(Alone())
    assert calls == []


def test_settings_that_differ_over_a_whole_model_are_refused(models):
    tasks = make_tasks(
        models[:1],
        METHOD,
        base=models[1],
        kept={},
        settings=lambda name: Settings((1.0,), {"per": "model", "power": float(name[1:])}),
    )
    merged = Merged(tasks)
    with pytest.raises(MethodError, match="about with per='model'.*'power', 0.0.*per='tensor'"):
        merged.summaries.of("w0")
    with pytest.raises(MethodError, match="have to be the same for all tensors"):
        merged.summaries.make_models(Alone())


def test_the_seed_reaches_what_looks_first(models):
    def noise(seed):
        return _merged(models, seed=seed).summaries.of("w0").tolist()[1]

    assert noise(0) == noise(0)
    assert noise(0) != noise(1)


def test_double_precision_stays_double():
    models = [_model(5, seed=seed, dtype=torch.float64) for seed in range(2)]
    found = _merged(models).summaries.of("w0").tolist()[0]
    assert found == pytest.approx(_difference(models, "w0"), rel=1e-14)


def test_a_tied_tensor_is_counted_once():
    tensor = torch.ones(4)
    models = [MemoryCheckpoint({"a": tensor, "b": tensor}), MemoryCheckpoint({"a": tensor * 3})]
    merged = _merged(models, parameters={"per": "model"})
    assert merged.summaries.of("a").tolist()[0] == -8
    assert merged.summaries.of("a").tolist()[2:4] == [4, 1]


def test_one_worker_keeps_the_order_and_changes_no_result():
    pieces = [Piece("w", i, i + 1) for i in range(4)]
    given = [torch.tensor([i]) for i in range(4)]
    assert Alone().each(lambda piece: given[piece.start], pieces) == given
    assert Alone().summed(lambda piece: given[piece.start], pieces).tolist() == [6]
    assert given[0].tolist() == [0]


def _sampled(total, *, weights, power: float = 1.0):
    return total.sample(lambda tensors: tensors[0][None], 10).sum(1).double()


def _none(total, *, weights, power: float = 1.0):
    return torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize("summarize", [look, _sampled, _none])
def test_what_a_summary_has_not_seen_is_still_checked(models, summarize):
    broken = {name: tensor.clone() for name, tensor in models[0].items()}
    broken["w1"][BLOCK + 5] = float("inf")  # which no sample of ten meets
    method = replace(METHOD, summarize=summarize)
    tasks = make_tasks(
        [MemoryCheckpoint(broken)],
        method,
        base=models[1],
        kept={},
        settings=lambda name: Settings((1.0,), {}),
    )
    merged = Merged(tasks)
    assert merged["w0"].isfinite().all()
    assert merged.summaries.has_checked("w0") == (summarize is look)
    with pytest.raises(NonFiniteError, match="'w1' of model 0"):
        merged["w1"]
    assert not merged.summaries.has_checked("w1")
