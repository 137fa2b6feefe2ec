import json
import math
from pathlib import Path
from typing import Any

import pytest

from conjoin.checkpoints.adapter_config import AdapterConfig, read_adapter_config
from conjoin.errors import CheckpointError


def read(folder: Path, **settings: Any) -> AdapterConfig:
    config = {"peft_type": "LORA", **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return read_adapter_config(folder)


def test_defaults_are_pefts(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert (config.r, config.alpha, config.scale("x")) == (8, 8, 1)


def test_patterns_match_the_end_of_a_name_after_a_dot(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        r=4,
        lora_alpha=2,
        rank_pattern={"q_proj": 2, r"layers\.[01]\.k_proj": 8},
        alpha_pattern={"proj": 100, "layers.1.k_proj": 16},
    )
    assert config.rank("model.layers.0.q_proj") == 2
    assert config.rank("model.layers.0.xq_proj") == 4
    assert config.rank("layers.1.k_proj") == 8
    assert config.rank("layers.2.k_proj") == 4
    assert config.scale("model.layers.1.k_proj") == 2
    assert config.scale("model.layers.0.q_proj") == 1
    assert read(tmp_path, r=4, use_rslora=True).scale("x") == 8 / math.sqrt(4)


def test_names_of_modules_trained_whole(tmp_path: Path) -> None:
    config = read(tmp_path, modules_to_save=["head", "a.b"])
    saved = ["head.weight", "model.head.out.bias", "model.a.b.weight"]
    others = ["ahead.weight", "head", "a_b.weight", "model.header.weight"]
    assert [name for name in saved + others if config.saves(name)] == saved


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'; only 'LORA'.*merge_and_unload"),
        ({"peft_type": None}, "peft_type None"),
        ({"use_dora": "yes"}, "use_dora 'yes', not true or false"),
        ({"use_qalora": True}, "use_qalora: QALoRA"),
        ({"target_parameters": ["experts.w1"]}, "target_parameters"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base too"),
        ({"r": 0}, "r 0, not a whole number above 0"),
        ({"r": 2.5}, "r 2.5, not a whole number"),
        ({"r": "8"}, "r '8', not a number"),
        ({"r": True}, "r True, not a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha nan"),
        ({"rank_pattern": [3]}, r"rank_pattern \[3\], not an object"),
        ({"rank_pattern": {"(": 3}}, "no regular expression"),
        ({"alpha_pattern": {"x": None}}, r"alpha_pattern\['x'\] None"),
        ({"fan_in_fan_out": "yes"}, "fan_in_fan_out 'yes'"),
        ({"modules_to_save": "head"}, "modules_to_save 'head'"),
    ],
)
def test_what_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, **settings)


@pytest.mark.parametrize("settings", [{"use_dora": False}, {"layer_replication": None}])
def test_what_is_off_is_not_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    read(tmp_path, init_lora_weights=True, **settings)
    read(tmp_path, init_lora_weights="gaussian", **settings)


@pytest.mark.parametrize(
    ("content", "message"), [("{", "not valid JSON"), ("[]", "holds a list"), ("\udcff", "JSON")]
)
def test_damaged(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "adapter_config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=message):
        read_adapter_config(tmp_path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no adapter: it has no adapter_config.json"):
        read_adapter_config(tmp_path)
