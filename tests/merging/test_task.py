"""What is to be done for each tensor, known from headers alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conjoin.checkpoints import Checkpoint, Kind, MemoryCheckpoint, Spec
from conjoin.dtypes import FLOAT32, FLOAT64
from conjoin.errors import MismatchError
from conjoin.merging import Rule, Settings, make_tasks
from conjoin.merging.task import working_dtype
from conjoin.methods import METHODS

dtypes = st.sampled_from(
    [
        *(torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float8_e5m2),
        *(torch.complex64, torch.complex128, torch.int64, torch.bool),
    ]
)


class Header(Checkpoint):
    """A checkpoint of which nothing but the header may be read."""

    def __init__(self, **specs):
        self._specs = specs

    @property
    def specs(self):
        return self._specs

    def __getitem__(self, name):
        raise AssertionError(f"{name!r} was read")


def _spec(kind=Kind.WEIGHT, dtype=torch.float32, alias=None):
    return Spec((3,), dtype, kind, alias)


def _tasks(models, method="mean", base=None, kept=None, **given):
    return make_tasks(
        models,
        METHODS[method],
        base=base,
        kept=kept or {},
        settings=lambda name: Settings(parameters={"of": name}),
        **given,
    )


def test_the_rule_of_each_kind():
    header = Header(**{kind.value: _spec(kind) for kind in Kind})
    tasks = _tasks([header] * 2)
    assert {name: task.rule for name, task in tasks.items()} == {
        "weight": Rule.METHOD,
        "statistic": Rule.POOL,
        "counter": Rule.MAXIMUM,
        "constant": Rule.AGREE,
    }
    assert [task.method is None for task in tasks.values()] == [False, True, True, True]
    assert all([one.model for one in task.sources] == [0, 1] for task in tasks.values())


def test_only_weights_see_the_base():
    header = Header(w=_spec(), mean=_spec(Kind.STATISTIC))
    base = Header(w=_spec(), mean=_spec(Kind.STATISTIC))
    tasks = _tasks([header] * 2, "task_arithmetic", base=base)
    assert tasks["w"].base.checkpoint is base
    assert tasks["w"].base.model == 2
    assert [one.model for one in tasks["w"].inputs] == [0, 1, 2]
    assert tasks["mean"].base is None
    assert len(tasks["mean"].inputs) == 2


def test_what_is_kept_is_copied_from_its_model_or_the_base():
    header, base = Header(w=_spec(), v=_spec()), Header(w=_spec(), v=_spec())
    tasks = _tasks([header, header], "task_arithmetic", base=base, kept={"w": 1, "v": 2})
    assert [task.rule for task in tasks.values()] == [Rule.COPY] * 2
    assert [task.sources[0].model for task in tasks.values()] == [1, 2]
    assert tasks["v"].sources[0].checkpoint is base


def test_a_tied_tensor_is_that_tensor_with_its_settings():
    tied = Header(a=_spec(), b=_spec(alias="a"))
    apart = Header(a=_spec(), b=_spec())
    tasks = _tasks([tied, apart, Header(a=_spec())])
    assert tasks["b"].spec.alias_of == "a"
    assert {one.name for one in tasks["b"].sources} == {"a"}
    assert tasks["b"].settings == tasks["a"].settings == Settings(parameters={"of": "a"})
    # Only the second model might hold something else under the second name.
    assert [(one.model, one.name) for one in tasks["a"].twins] == [(1, "b")]
    assert tasks["b"].twins == ()


def test_dtypes_of_results_and_of_the_arithmetic():
    header = Header(
        w=_spec(dtype=torch.bfloat16),
        d=_spec(dtype=torch.float64),
        n=_spec(Kind.CONSTANT, torch.int64),
    )
    tasks = _tasks([header] * 2, dtype=torch.float16)
    assert [task.spec.dtype for task in tasks.values()] == [
        torch.float16,
        torch.float16,
        torch.int64,
    ]
    assert [tasks[name].working for name in "wd"] == [FLOAT32, FLOAT64]
    wide = _tasks([header] * 2, working=torch.float64)
    assert wide["w"].working == FLOAT64
    assert wide["w"].spec.dtype == torch.bfloat16


def test_a_wider_base_widens_the_arithmetic():
    base = Header(w=_spec(dtype=torch.float64))
    tasks = _tasks([Header(w=_spec())] * 2, "task_arithmetic", base=base, dtype=torch.float32)
    assert tasks["w"].working == FLOAT64


def test_whether_parts_can_be_made():
    header = Header(w=_spec(), mean=_spec(Kind.STATISTIC))
    tasks = _tasks([header] * 2, "slerp")
    assert [task.in_blocks for task in tasks.values()] == [True, True]
    assert [task.summarized for task in tasks.values()] == [True, False]


def test_models_that_do_not_fit_are_an_error_before_anything_is_read():
    with pytest.raises(MismatchError, match="different tensors"):
        _tasks([Header(w=_spec()), Header(v=_spec())])
    with pytest.raises(MismatchError, match="different dtypes"):
        _tasks([Header(w=_spec()), Header(w=_spec(dtype=torch.float16))])
    with pytest.raises(MismatchError, match="different tensors"):
        _tasks([Header(w=_spec())] * 2, "task_arithmetic", base=Header(v=_spec()))


def test_a_source_says_what_it_is():
    (source, _) = _tasks([MemoryCheckpoint({"w": torch.ones(3)})] * 2)["w"].sources
    assert source.spec.shape == (3,)
    assert str(source) == "model 0 (memory)"


@given(st.lists(dtypes, min_size=1, max_size=4), st.sampled_from([None, torch.float64]))
def test_the_arithmetic_is_wide_enough_and_its_order_says_nothing(given_dtypes, least):
    found = working_dtype(given_dtypes, least)
    assert found == working_dtype(given_dtypes[::-1], least)
    assert working_dtype([found], least) == found
    assert found.torch in (torch.float32, torch.float64, torch.complex64, torch.complex128)
    assert found.is_complex == any(dtype.is_complex for dtype in given_dtypes)
    exact = {torch.float64, torch.complex128} & set(given_dtypes) or least is not None
    assert (found.torch in (torch.float64, torch.complex128)) == bool(exact)
