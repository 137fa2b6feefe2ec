"""What `conjoin symmetries` runs a model on."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from conjoin.cli.example_inputs import describe_inputs, draw_inputs, load_inputs, parse_shape
from conjoin.errors import DataError, InputError, UserCodeError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10", (None, (10,), None)),
        ("3,32,32", (None, (3, 32, 32), None)),
        ("3, 32, 32", (None, (3, 32, 32), None)),
        ("128:5000", (None, (128,), 5000)),
        ("scalar", (None, (), None)),
        ("scalar:1000", (None, (), 1000)),
        ("attention_mask=128:2", ("attention_mask", (128,), 2)),
    ],
)
def test_shapes(text, expected):
    assert parse_shape(text) == expected


@pytest.mark.parametrize(
    "text", ["", "3,", "3x32", "-1", "3,0", "4:0", "=3", "a b=3", "128:", "3.5", "x=", "³"]
)
def test_no_shapes(text):
    with pytest.raises(InputError, match="--inputs"):
        parse_shape(text)


def drawn(*texts, batch=4, seed=0):
    return draw_inputs([parse_shape(text) for text in texts], batch, seed)


def test_one_is_a_tensor_and_several_are_as_they_are_named():
    one = drawn("3,5")
    assert one.shape == (4, 3, 5)
    assert one.dtype == torch.float32
    assert [tuple(tensor.shape) for tensor in drawn("3", "scalar")] == [(4, 3), (4,)]
    assert {name: tuple(t.shape) for name, t in drawn("x=3", "y=2,2").items()} == {
        "x": (4, 3),
        "y": (4, 2, 2),
    }


def test_whole_numbers_are_below_what_is_said():
    tokens = drawn("500:3")
    assert tokens.dtype == torch.int64
    assert tokens.unique().tolist() == [0, 1, 2]


def test_the_seed_decides():
    assert torch.equal(drawn("3"), drawn("3"))
    assert not torch.equal(drawn("3"), drawn("3", seed=1))


@pytest.mark.parametrize("texts", [("x=3", "2"), ("x=3", "x=2")])
def test_names_are_for_all_and_differ(texts):
    with pytest.raises(InputError, match="a name for each"):
        drawn(*texts)


X = torch.arange(30.0).reshape(10, 3)
PAIR = (X, torch.zeros(10))
LOADER = DataLoader(TensorDataset(*PAIR), batch_size=4)
OTHER = (X + 100, torch.zeros(10))

FORMS = {
    "pair": PAIR,
    "loader": LOADER,
    "batches": [PAIR],
    "bare batches": [X],
    "training part only": {"train": LOADER},
    "parts": {"train": OTHER, "validation": OTHER, "test": LOADER},
    "no test part": {"train": OTHER, "validation": LOADER},
    "tasks": {"first": {"train": OTHER, "test": PAIR}, "second": {"test": OTHER}},
}


@pytest.fixture
def spec(tmp_path, monkeypatch, request):
    """Give the spec of a function that returns what is asked for."""
    module = f"data_of_{abs(hash(tmp_path))}"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{module}.py").write_text(
        "import torch\nresult = None\n"
        "def get():\n    return result\n"
        "def drawn():\n    return torch.rand(5, 3), torch.zeros(5)\n"
        "def raising():\n    raise RuntimeError('my own mistake')\n"
    )

    def give(result=None, name="get"):
        import importlib

        importlib.import_module(module).result = result
        return f"{module}:{name}"

    yield give
    import sys

    sys.modules.pop(module, None)


@pytest.mark.parametrize("form", FORMS)
def test_the_first_examples_of_a_part_that_is_not_augmented(spec, form):
    found = load_inputs(spec(FORMS[form]), 6, 0)
    assert torch.equal(found, X[:6])  # of the loader, one batch and a half


def test_there_may_be_fewer(spec):
    assert len(load_inputs(spec(PAIR), 50, 0)) == 10


def test_several_inputs(spec):
    data = ((X, X + 1), torch.zeros(10))
    assert [t[0, 0].item() for t in load_inputs(spec(data), 2, 0)] == [0, 1]
    data = [({"a": X, "b": X + 1}, torch.zeros(10))]
    assert {n: tuple(t.shape) for n, t in load_inputs(spec(data), 2, 0).items()} == {
        "a": (2, 3),
        "b": (2, 3),
    }


def test_what_is_drawn_depends_on_the_seed_alone(spec):
    before = torch.get_rng_state()
    first = load_inputs(spec(name="drawn"), 5, 3)
    torch.rand(7)
    assert torch.equal(first, load_inputs(spec(name="drawn"), 5, 3))
    assert not torch.equal(first, load_inputs(spec(name="drawn"), 5, 4))
    torch.set_rng_state(before)


@pytest.mark.parametrize("result", [None, {}, {"train": None}, [], [{"image": X}], 3])
def test_no_examples(spec, result):
    with pytest.raises((DataError, UserCodeError)):
        load_inputs(spec(result), 2, 0)


def test_an_error_of_the_users_has_its_own_traceback(spec):
    with pytest.raises(UserCodeError, match="my own mistake") as caught:
        load_inputs(spec(name="raising"), 2, 0)
    assert "in raising" in str(caught.value)
    assert "conjoin/cli" not in str(caught.value)


def test_described():
    assert describe_inputs(drawn("x=3", "y=2:5")) == [
        {"name": "x", "shape": [4, 3], "dtype": "float32"},
        {"name": "y", "shape": [4, 2], "dtype": "int64"},
    ]
    assert describe_inputs(X) == [{"name": None, "shape": [10, 3], "dtype": "float32"}]
