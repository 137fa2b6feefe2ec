"""The user's data: what is refused, what is counted, what a hash depends on."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

from conjoin.comparison.data import read_tasks
from conjoin.errors import DataError, UserCodeError

silent = lambda title: lambda done, total: None  # noqa: E731


def read(data, model=None, statistics=30, pool=10):
    model = nn.Linear(4, 3) if model is None else model
    return read_tasks(data, model, statistics=statistics, pool=pool, progress=silent)


def loader(pair, **options):
    return DataLoader(TensorDataset(*pair), **{"batch_size": 7, **options})


def key(task, part="test"):
    return task.stages[part].key


def test_counts(tiny):
    data = tiny.parts(train=40)
    sampler = SubsetRandomSampler(range(35))
    for train, counted in (
        (data["train"], 40),
        (loader(data["train"]), 40),
        (loader(data["train"], sampler=sampler), 35),
        ([data["train"]], None),
        ([tiny.examples(12, 0)], 12),
    ):
        task = read({**data, "train": train})["task"]
        expected = {"validation": 21, "test": 24}
        assert task.counts == expected | ({} if counted is None else {"train": counted})
        kept = task.parts["train"]()
        assert sum(len(labels) for _, labels in kept) == min(30, counted or 30)


def test_an_unseen_task_is_drawn_from_its_own_pool(tiny):
    tasks = read({"seen": tiny.parts(), "new": {**tiny.parts(), "trained_on": False}})
    drawn = [sum(len(y) for _, y in task.parts["train"]()) for task in tasks.values()]
    assert drawn == [30, 10]
    assert [task.trained_on for task in tasks.values()] == [True, False]


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_the_hash_is_of_the_examples_alone(tiny, part):
    data = tiny.parts()
    first = key(read(data)["task"], part)
    for size in (1, 5, 100):
        again = {**data, part: loader(data[part], batch_size=size)}
        assert key(read(again)["task"], part) == first
    for index in (0, 1):
        pair = [tensor.clone() for tensor in data[part]]
        pair[index][-1] = 0 if index else 0.5
        if torch.equal(pair[index], data[part][index]):
            pair[index][-1] = 1
        assert key(read({**data, part: tuple(pair)})["task"], part) != first
    fewer = data[part][0][:-2], data[part][1][:-2]
    assert key(read({**data, part: fewer})["task"], part) != first


def test_the_hash_knows_which_input_is_which(tiny):
    class Named(nn.Module):
        def forward(self, x, z):
            return x[:, :3] - 2 * z[:, :3]

    x, y = tiny.examples(20, 0)
    keys = set()
    for first, second in (("x", "z"), ("z", "x")):
        pair = {first: x, second: -x}, y
        keys.add(key(read({"validation": pair, "test": pair}, Named())["task"]))
    assert len(keys) == 2


def test_a_single_example_left_over_goes_along_with_the_others(tiny):
    """BatchNorm could not use it alone."""
    task = read({**tiny.parts(), "train": loader(tiny.examples(251, 0))}, statistics=251)["task"]
    assert [len(labels) for _, labels in task.parts["train"]()] == [251]
    assert task.counts["train"] == 251


def test_batches_of_one(tiny):
    """A loader of single examples gives statistics of larger batches."""
    task = read({**tiny.parts(), "train": loader(tiny.examples(20, 0), batch_size=1)})["task"]
    assert [len(labels) for _, labels in task.parts["train"]()] == [20]


def test_shapes_that_differ_between_batches_stay_apart():
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(1, keepdim=True).expand(-1, 3)

    texts = [(torch.randn(2, length), torch.tensor([0, 1])) for length in (3, 5, 4)]
    task = read({"train": texts, "validation": texts, "test": texts}, Mean())["task"]
    assert [x.shape[1] for x, _ in task.parts["train"]()] == [3, 5, 4]


def test_the_same_examples_whoever_draws(tiny):
    data = {**tiny.parts(), "test": loader(tiny.examples(30, 0), shuffle=True)}
    part = read(data)["task"].parts["test"]
    first = [labels for _, labels in part()]
    torch.manual_seed(5)
    again = []
    for _, labels in part():
        torch.rand(3)
        again.append(labels)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(torch.cat(first), data["test"].dataset.tensors[1])


def bad(tiny, **changes):
    data = {**tiny.parts(), **changes}
    return {part: given for part, given in data.items() if given is not None}


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": None}, "no validation part.*random_split"),
        ({"test": None}, "no test part"),
        ({"validation": None, "val": 1}, "part 'val'.*did you mean 'validation'"),
        ({"tets": 1}, "did you mean 'test'"),
        ({"test": iter([])}, "list_iterator can be gone through only once.*a loader, or a list"),
        ({"test": (x for x in [])}, "generator can be gone through only once"),
        ({"test": []}, "test part: it gave no batch"),
        ({"test": None, "trained_on": "no"}, "'trained_on' of 'task' is True or False, not 'no'"),
        ({"test": 3}, "expected a loader of .* not int"),
        ({"test": {"x": 1}, "train": None, "validation": None}, "no validation part"),
        ({"test": TensorDataset(torch.zeros(3, 4))}, "single examples.*DataLoader"),
        ({"test": DataLoader(Stream())}, "test part: it gave no batch"),
        ({"test": [torch.zeros(3, 4)]}, "test part.*pairs"),
        ({"test": [{"x": torch.zeros(3, 4)}]}, "test part.*pairs.*dict"),
        ({"test": [(torch.zeros(3, 4), torch.zeros(2).long())]}, "3 inputs but 2 labels"),
        ({"test": (torch.zeros(3, 5), torch.zeros(3).long())}, "Linear does not take its inputs"),
        ({"train": (torch.zeros(3, 5), torch.zeros(3).long())}, r"training part.*float32 \[3, 5\]"),
        ({"test": (torch.zeros(3, 4), torch.zeros(3))}, "int64 labels.*found.*float32"),
        ({"test": (torch.zeros(3, 4), torch.zeros(3).int())}, "int64 labels.*found.*int32"),
        ({"test": (torch.zeros(3, 4), torch.tensor([0, 1, 3]))}, "from 0 to 3.*3 outputs"),
        ({"validation": (torch.zeros(3, 4), torch.tensor([0, -1, 1]))}, "from -1 to"),
        ({"classes": ["a", "b"]}, "reach to 2, but 'classes' has 2 names"),
        ({"classes": "abc"}, "'classes' of 'task' is a list"),
        ({"trained_on": False}, "at least one must be trained on"),
    ],
)  # fmt: skip
def test_what_is_refused(tiny, changes, message):
    with pytest.raises(DataError, match=f"(?s){message}"):
        read({"task": bad(tiny, **changes)})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1], "not list"),
        ({}, "not empty"),
        ({"a": {}, "b": 3}, "no validation part"),
        ({"": {"test": 1}}, "empty"),
        ({1: {"test": 1, "trained_on": False}, "x": 3}, "expected a loader"),
    ],
)
def test_data_of_another_kind(data, message):
    with pytest.raises(DataError, match=message):
        read(data)


def test_labels_of_an_unseen_task(tiny):
    far = {**tiny.parts(), "trained_on": False}
    far["train"] = far["train"][0], far["train"][1] + 5
    with pytest.raises(DataError, match="new, training part.*reach from 5 to"):
        read({"seen": tiny.parts(), "new": far})
    # The labels of a task that networks were trained on are not used.
    assert read({"task": {**far, "trained_on": True}})


def test_targets_that_change(tiny):
    x, y = tiny.examples(6, 0)
    with pytest.raises(DataError, match="targets differ: torch.int64.*torch.int32"):
        read(bad(tiny, test=[(x, y), (x, y.int())]))
    regression = {part: (x, x[:, :1]) for part, (x, _) in tiny.parts().items()}
    with pytest.raises(DataError, match="labels, of another floating-point"):
        read({**regression, "test": (x, torch.zeros(6).long())}, nn.Linear(4, 1))


class Raises:
    def __init__(self, at):
        self.at = at

    def __iter__(self):
        for number in range(3):
            if number == self.at:
                raise KeyError("the image is gone")
            yield torch.zeros(2, 4), torch.zeros(2).long()


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("at", [0, 2])
def test_a_data_set_that_raises(tiny, part, at):
    with pytest.raises(UserCodeError) as caught:
        read(bad(tiny, **{part: Raises(at)}))
    text = str(caught.value)
    assert "the image is gone" in text
    assert 'test_data.py", line' in text
    assert "conjoin/comparison" not in text.replace("tests/comparison", "")


def test_a_loader_that_gives_none(tiny):
    """It is no end of the data."""
    with pytest.raises(DataError, match="pairs.*NoneType"):
        read(bad(tiny, test=[tiny.examples(3, 0), None]))


def test_an_error_within_the_model_is_shown_where_it_is(tiny):
    class Broken(nn.Module):
        def forward(self, x):
            return x.nonsense

    with pytest.raises(DataError, match=r"(?s)Broken does not take.*x\.nonsense.*nonsense") as e:
        read(tiny.parts(), Broken())
    assert "conjoin/comparison" not in str(e.value).replace("tests/comparison", "")
