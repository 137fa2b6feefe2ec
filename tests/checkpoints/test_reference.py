import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from conjoin.checkpoints import Reference, locate, open_reference, parse_reference
from conjoin.checkpoints.reference import expand_path
from conjoin.errors import CheckpointError, InputError

# Without @, +, $ and ~, which mean something; the folder that they count from is empty.
parts = st.text(st.sampled_from("abcXYZ019._-/ :é"), min_size=1, max_size=12)
optional = st.none() | parts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", Reference("a")),
        ("org/name@main", Reference("org/name", "main")),
        ("../a b/c", Reference("../a b/c")),
        ("a+b", Reference("a", None, "b")),
        ("a@1+b@2", Reference("a", "1", "b", "2")),
        ("hf://org/name@refs/pr/1+./lora", Reference("hf://org/name", "refs/pr/1", "./lora")),
        ("a@x@y", Reference("a", "x@y")),
    ],
)
def test_taken_apart(tmp_path: Path, text: str, expected: Reference) -> None:
    assert parse_reference(text, relative_to=tmp_path) == expected


@given(parts, optional, st.none() | st.tuples(parts, optional))
def test_what_is_put_together_is_taken_apart(
    model: str, revision: str | None, adapter: tuple[str, str | None] | None
) -> None:
    assume(not any(part.startswith("/") for part in (model, *(adapter or ())[:1])))  # may exist
    text = model + ("" if revision is None else f"@{revision}")
    if adapter is not None:
        text += f"+{adapter[0]}" + ("" if adapter[1] is None else f"@{adapter[1]}")
    expected = Reference(model, revision, *(adapter or (None, None)))
    assert parse_reference(text, relative_to="/nowhere at all") == expected


def test_paths_that_exist_are_themselves(tmp_path: Path) -> None:
    for name in ("a@b", "c+d", "c+d@e", "x@y+z"):
        (tmp_path / name).mkdir()

    def parsed(text: str) -> Reference:
        return parse_reference(text, relative_to=tmp_path)

    assert parsed("a@b") == Reference("a@b")
    assert parsed("a@b+lora") == Reference("a@b", None, "lora")
    assert parsed("c+d+lora@1") == Reference("c+d", None, "lora", "1")
    assert parsed("c+d@e") == Reference("c+d@e")
    assert parsed("c+d@f") == Reference("c+d", "f")
    assert parsed("x@y+z") == Reference("x@y+z")
    assert parsed("a@b+c+d") == Reference("a@b", None, "c+d")
    assert parsed("new+c+d@e") == Reference("new", None, "c+d@e")


@pytest.mark.parametrize("text", ["", "@main", "a@", "a+", "+b", "a+b@", "a@+b"])
def test_empty_parts(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="has an empty part"):
        parse_reference(text, relative_to=tmp_path)


def test_two_adapters(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"more than one '\+'"):
        parse_reference("a+b+c", relative_to=tmp_path)


def test_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELS", "/data")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("UNSET", raising=False)
    assert expand_path("$MODELS/a/${MODELS}b") == "/data/a//datab"
    assert expand_path("~/a") == str(tmp_path / "a")
    assert expand_path("a~/$ 5") == "a~/$ 5"
    assert parse_reference("$MODELS/a+$MODELS/b").adapter == "/data/b"
    for text in ("$UNSET/a", "${UNSET}", "${}"):
        with pytest.raises(InputError, match="is not set; set it"):
            parse_reference(text)
    with pytest.raises(InputError, match="cannot be expanded"):
        expand_path("~no such user/a")


def test_opened_from_the_recipes_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, lora = tmp_path / "my model@2", tmp_path / "lora"
    folder.mkdir()
    lora.mkdir()
    safetensors.torch.save_file({"x.weight": torch.ones(2, 2)}, folder / "model.safetensors")
    (lora / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1}))
    pair = {"A": torch.ones(1, 2), "B": torch.ones(2, 1)}
    tensors = {f"base_model.model.x.lora_{key}.weight": value for key, value in pair.items()}
    safetensors.torch.save_file(tensors, lora / "adapter_model.safetensors")
    plain = open_reference("my model@2", relative_to=tmp_path)
    assert plain["x.weight"].tolist() == [[1, 1], [1, 1]]
    adapted = open_reference("my model@2+lora", relative_to=tmp_path)
    assert adapted["x.weight"].tolist() == [[9, 9], [9, 9]]  # alpha / r is 8
    assert adapted.files == (*plain.files, lora / "adapter_config.json", *adapted.files[2:])
    monkeypatch.chdir(tmp_path)
    assert list(open_reference("./my model@2/model.safetensors")) == ["x.weight"]


def test_entry(tmp_path: Path) -> None:
    saved = {"model": {"w": torch.ones(1)}, "ema": {"w": torch.zeros(1)}}
    torch.save(saved, tmp_path / "x.pt")
    assert open_reference("x.pt", relative_to=tmp_path, entry="ema")["w"] == 0


def test_a_path_has_no_revision(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="is a local path, which has no revision 'main'"):
        locate("a", "main", relative_to=tmp_path)


def test_a_local_path_wins_over_the_hub(tmp_path: Path) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert locate("org/name", relative_to=tmp_path) == tmp_path / "org" / "name"


@pytest.mark.parametrize("model", ["./x", "../nowhere-x", "/nowhere/x", "x", "a/b/c"])
def test_paths_that_are_missing(tmp_path: Path, model: str) -> None:
    with pytest.raises(CheckpointError, match=r"there is no file .*x?.*has not the form"):
        locate(model, relative_to=tmp_path)
    with pytest.raises(InputError, match="expected hf://organization/name"):
        locate(f"hf://{model}", relative_to=tmp_path)


def test_a_path_that_counts_from_elsewhere_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "a").mkdir(parents=True)
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no file .*recipes/models/a.*models/a exists, but"):
        open_reference("models/a", relative_to=tmp_path / "recipes")
