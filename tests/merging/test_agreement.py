"""Whether models fit together: names, shapes, dtypes and ties."""

from pathlib import Path

import pytest
import torch
from torch import nn

import conjoin
from conjoin.errors import InputError, MismatchError
from conjoin.merging import merge


def _state(**shapes):
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def test_different_names_show_the_first_few_of_each_side_and_the_closest():
    a = {f"layer{i}.weight": torch.zeros(1) for i in range(8)}
    b = {f"layer{i}.wieght": torch.zeros(1) for i in range(8)}
    with pytest.raises(MismatchError) as error:
        merge([a, a, b])
    message = str(error.value)
    assert "8 only in model 0 (memory): 'layer0.weight' (closest: 'layer0.wieght')" in message
    assert "8 only in model 2 (memory): 'layer0.wieght' (closest: 'layer0.weight')" in message
    assert message.count("closest") == 10  # five of each side
    assert "keep={pattern: number}" in message


def test_a_prefix_is_recognized():
    a = _state(**{"conv.weight": 2, "fc.bias": 1})
    b = {f"module.{name}": tensor for name, tensor in a.items()}
    with pytest.raises(MismatchError, match=r"equal but for the prefix 'module\.' in model 1"):
        merge([a, b])


def test_shapes_show_both_and_only_the_first_few():
    a = {f"w{i}": torch.zeros(2, 3) for i in range(7)}
    b = {f"w{i}": torch.zeros(3, 2) for i in range(7)}
    with pytest.raises(MismatchError) as error:
        merge([a, b])
    message = str(error.value)
    assert "7 tensors of model 0 (memory) and model 1 (memory) have different shapes" in message
    assert "'w0': [2, 3] and [3, 2]" in message
    assert "'w4'" in message
    assert "'w5'" not in message


def test_vocabularies_that_differ_are_to_be_matched():
    names = ("model.embed_tokens.weight", "lm_head.weight")
    a, b = ({name: torch.zeros(rows, 3) for name in names} for rows in (7, 8))
    with pytest.raises(MismatchError, match="--vocabulary union"):
        merge([a, b])
    with pytest.raises(MismatchError, match="Merge models of one structure"):
        merge([a | {"fc.weight": torch.zeros(2)}, b | {"fc.weight": torch.zeros(3)}])
    with pytest.raises(MismatchError, match="Merge models of one structure"):
        merge([a, {name: torch.zeros(7, 4) for name in names}])


def test_a_scalar_is_not_a_vector_of_one():
    with pytest.raises(MismatchError, match=r"'w': \[\] and \[1\]"):
        merge([{"w": torch.zeros(())}, {"w": torch.zeros(1)}])


def test_dtypes_are_not_mixed_silently():
    a, b = {"w": torch.zeros(1)}, {"w": torch.zeros(1, dtype=torch.float16)}
    with pytest.raises(MismatchError, match=r"'w': torch.float32 and torch.float16.*dtype="):
        merge([a, b])
    with pytest.raises(MismatchError, match="convert one of them first"):
        merge([nn.Linear(1, 1), nn.Linear(1, 1).half()])


def test_the_order_of_names_is_that_of_the_first():
    a = _state(x=1, y=1, z=1)
    assert list(merge([a, dict(reversed(a.items()))])) == ["x", "y", "z"]


def test_errors_name_the_file(tmp_path):
    path = conjoin.save(_state(w=2), tmp_path / "one.safetensors")
    other = conjoin.save(_state(w=3), tmp_path / "two.safetensors")
    with pytest.raises(MismatchError, match=r"model 0 \(.*one.safetensors.*two.safetensors"):
        merge([path, other])


# Ties --------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self, value: float, *, tied: bool = True, head: float | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 2)
        self.head = nn.Linear(2, 3, bias=False)
        nn.init.constant_(self.embedding.weight, value)
        nn.init.constant_(self.head.weight, value if head is None else head)
        if tied:
            self.head.weight = self.embedding.weight


def _counting_mean(calls):
    def mean(tensors):
        calls.append(len(tensors))
        return sum(tensors) / len(tensors)

    return mean


def test_a_tied_weight_of_a_module_is_merged_once_and_stays_tied():
    calls = []
    merged = merge([Tied(1.0), Tied(3.0)], _counting_mean(calls))
    assert calls == [2]
    assert merged.head.weight is merged.embedding.weight
    assert merged.head.weight.unique().tolist() == [2]


def test_a_tied_weight_of_a_mapping_is_shared():
    calls = []
    merged = merge([Tied(1.0).state_dict(), Tied(3.0).state_dict()], _counting_mean(calls))
    assert calls == [2]
    assert merged["head.weight"].data_ptr() == merged["embedding.weight"].data_ptr()
    assert merged["head.weight"].unique().tolist() == [2]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_tied_weight_of_files_stays_tied_on_disk(tmp_path: Path, suffix):
    paths = [conjoin.save(Tied(value), tmp_path / f"{value}{suffix}") for value in (1.0, 3.0)]
    merged = merge(paths)
    assert merged.specs["head.weight"].alias_of == "embedding.weight"
    written = conjoin.open_checkpoint(conjoin.save(merged, tmp_path / f"out{suffix}"))
    assert written.specs["head.weight"].alias_of == "embedding.weight"
    assert written["head.weight"].unique().tolist() == [2]


def test_a_file_may_leave_out_the_second_name():
    full = Tied(1.0).state_dict()
    short = {"embedding.weight": torch.full((3, 2), 3.0)}
    merged = merge([full, short])
    assert merged["head.weight"].data_ptr() == merged["embedding.weight"].data_ptr()
    assert merged["head.weight"].unique().tolist() == [2]
    assert list(merge([short, full])) == ["embedding.weight"]
    untied = Tied(1.0, tied=False).state_dict()
    with pytest.raises(MismatchError, match=r"only in model 0 .*'head.weight'"):
        merge([untied, short])


def test_tied_in_the_first_only():
    with pytest.raises(MismatchError, match="'head.weight' and 'embedding.weight' are one tensor"):
        merge([Tied(1.0), Tied(1.0, tied=False, head=2.0)])
    merged = merge([Tied(1.0), Tied(3.0, tied=False)])  # equal values: as good as tied
    assert merged.head.weight is merged.embedding.weight
    assert merged.head.weight.unique().tolist() == [2]


def test_tied_in_the_second_only_stays_untied():
    merged = merge([Tied(1.0, tied=False, head=5.0), Tied(3.0)])
    assert merged.embedding.weight.unique().tolist() == [2]
    assert merged.head.weight.unique().tolist() == [4]


def test_a_tie_is_kept_whole():
    a, b = Tied(1.0), Tied(3.0)
    with pytest.raises(InputError, match="'head.weight' is tied to 'embedding.weight'"):
        merge([a, b], keep={"head.weight": 1})
    merged = merge([a, b], keep={"*.weight": 1})
    assert merged.head.weight is merged.embedding.weight
    assert merged.head.weight.unique().tolist() == [3]
    with pytest.raises(InputError, match="keep both"):
        merge([a, b], keep={"head.weight": 1, "embedding.weight": 0})


def test_a_tie_cannot_be_split_by_keeping_the_first_name():
    with pytest.raises(InputError, match="tied"):
        merge([Tied(1.0), Tied(3.0)], keep={"embedding.weight": 1})


def test_parameters_that_are_tied_by_memory_alone_stay_tied():
    def tied(value):
        module = Tied(value, tied=False)
        module.head.weight = nn.Parameter(module.embedding.weight.data)
        return module

    merged = merge([tied(1.0), tied(3.0)])
    assert merged.head.weight.data_ptr() == merged.embedding.weight.data_ptr()
