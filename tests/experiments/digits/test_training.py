import pytest
import torch

from conjoin.errors import InputError
from conjoin.experiments.digits.network import new_network
from conjoin.experiments.digits.sources import Images
from conjoin.experiments.digits.training import Schedule, _batches, to_input, train
from conjoin.experiments.digits.trainings import Trunk, TwoHeaded

CPU = torch.device("cpu")
SCHEDULE = Schedule(epochs=3, batch_size=8)


def _images(count: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 32, 32), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.randint(0, 10, (count,), generator=generator))


def _same(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def net():
    return new_network(0, width=1 / 32)


@pytest.mark.parametrize("stop_after", [1, 3, 6, 11])
def test_a_training_that_was_stopped_ends_with_the_same_bits(net, tmp_path, stop_after):
    tasks = {"a": _images(32, 1)}
    whole = train(net, tasks, SCHEDULE, seed=7, device=CPU, work=_folder(tmp_path / "whole"))

    class StoppedError(Exception):
        pass

    calls = 0

    def stop(done, total):
        nonlocal calls
        calls += 1
        if calls == stop_after:
            raise StoppedError

    work = _folder(tmp_path / "parts")
    with pytest.raises(StoppedError):
        train(net, tasks, SCHEDULE, seed=7, device=CPU, work=work, on_batch=stop)
    torch.manual_seed(99)  # dropout must not depend on the global generator
    again = []
    resumed = train(
        net, tasks, SCHEDULE, seed=7, device=CPU, work=work, on_batch=lambda d, n: again.append(d)
    )
    assert _same(whole, resumed)
    steps_per_epoch = 4
    finished_epochs = (stop_after - 1) // steps_per_epoch
    assert len(again) == (3 - finished_epochs) * steps_per_epoch


def test_the_seed_decides_and_the_input_is_not_changed(net, tmp_path):
    tasks = {"a": _images(16, 1)}
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    results = [
        train(net, tasks, SCHEDULE, seed=s, device=CPU, work=_folder(tmp_path / f"{i}"))
        for i, s in enumerate((1, 1, 2))
    ]
    assert _same(results[0], results[1])
    assert not _same(results[0], results[2])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not results[0].training


def test_one_epoch_of_batches_shows_every_image_once_and_the_shorter_task_again():
    tasks = {"long": _images(32, 1), "short": _images(12, 2)}
    batches = list(_batches(tasks, 8, 4, seed=0, epoch=0))
    assert len(batches) == 4
    seen = torch.cat([batch["long"][0] for batch in batches]).flatten(1)
    assert sorted(map(tuple, seen.tolist())) == sorted(
        map(tuple, tasks["long"].images.flatten(1).tolist())
    )
    short = torch.cat([batch["short"][0] for batch in batches]).flatten(1).tolist()
    counts = [short.count(image) for image in tasks["short"].images.flatten(1).tolist()]
    assert sum(counts) == 32
    assert set(counts) == {2, 3}
    other = next(iter(_batches(tasks, 8, 4, seed=0, epoch=1)))
    assert not torch.equal(other["long"][0], batches[0]["long"][0])


def test_a_head_learns_from_its_own_task_only(tmp_path):
    net, other = new_network(0, width=1 / 32), new_network(1, width=1 / 32)
    heads = {"a": net.classifier, "b": other.classifier}
    tasks = {"a": _images(16, 1), "b": _images(16, 2)}
    trained = train(
        TwoHeaded(Trunk(net), heads), tasks, SCHEDULE, seed=0, device=CPU, work=_folder(tmp_path)
    )
    changed = Images(tasks["b"].images, (tasks["b"].labels + 1) % 10)
    relabelled = train(
        TwoHeaded(Trunk(net), heads),
        {"a": tasks["a"], "b": changed},
        Schedule(epochs=1, batch_size=16, clip=1e9),
        seed=0,
        device=CPU,
        work=_folder(tmp_path / "x"),
    )
    same_labels = train(
        TwoHeaded(Trunk(net), heads),
        tasks,
        Schedule(epochs=1, batch_size=16, clip=1e9),
        seed=0,
        device=CPU,
        work=_folder(tmp_path / "y"),
    )
    # After one step, the other labels of task b have changed its head and the trunk, not head a.
    assert _same(relabelled.heads["a"], same_labels.heads["a"])
    assert not _same(relabelled.heads["b"], same_labels.heads["b"])
    assert not _same(relabelled.trunk, same_labels.trunk)
    assert set(trained.heads) == {"a", "b"}


def test_inputs_lie_between_minus_one_and_one():
    values = to_input(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
    assert values == [-1.0, 1.0]


def test_what_cannot_be_trained(net, tmp_path):
    with pytest.raises(InputError, match="at least one task"):
        train(net, {}, SCHEDULE, seed=0, device=CPU, work=tmp_path)
    with pytest.raises(InputError, match="do not fill one batch"):
        train(net, {"a": _images(4, 0)}, SCHEDULE, seed=0, device=CPU, work=tmp_path)


def _folder(path):
    path.mkdir(exist_ok=True)
    return path
