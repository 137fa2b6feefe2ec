"""`adapter_config.json` of LoRA and DoRA: what of it decides the weights, what is refused."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from conjoin.checkpoints.folder import check_within
from conjoin.errors import CheckpointError

__all__ = ["AdapterConfig", "read_adapter_config"]

_Number = TypeVar("_Number", int, float)
_NAME = "adapter_config.json"
_BY_PEFT = "merge it into its base by PEFT's merge_and_unload() and pass the result"
# What changes the weights in other ways than LoRA and DoRA. Each is off if absent, null or false.
_REFUSED = {
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "target_parameters": "LoRA on parameters that are not of a known module",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "activated LoRA, which depends on the input",
    "arrow_config": "Arrow routing, which depends on the input",
    "trainable_token_indices": "single trained tokens",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}
# These replace the base's weights by a residual when PEFT attaches the adapter.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What `adapter_config.json` says about the weights.

    Args:
        path: of the file.
        r, alpha: rank and scale where no pattern matches.
        rank_pattern, alpha_pattern: regular expression over names of modules -> rank, scale; an
            expression matches a whole name or what follows one of its dots.
        rank_stabilized: whether the scale is alpha / sqrt(r), not alpha / r.
        fan_in_fan_out: whether weights of the base are stored as [in, out].
        dora: whether each output's weights are brought to a trained magnitude.
        modules_to_save: last names of modules that were trained whole.
    """

    path: Path
    r: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rank_stabilized: bool
    fan_in_fan_out: bool
    dora: bool
    modules_to_save: tuple[str, ...]

    def rank(self, module: str) -> int:
        """Return the rank that a module should have."""
        return self._matching(self.rank_pattern, module, self.r)

    def scale(self, module: str) -> float:
        """Return the factor of B A for a module."""
        alpha = self._matching(self.alpha_pattern, module, self.alpha)
        rank = self.rank(module)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)

    def saves(self, name: str) -> bool:
        """Say whether a tensor is of a module that was trained whole."""
        return any(
            re.fullmatch(rf"(.*\.)?{re.escape(module)}\..*", name)
            for module in self.modules_to_save
        )

    def _matching(self, pattern: Mapping[str, _Number], module: str, default: _Number) -> _Number:
        # The first that matches wins, as in PEFT.
        for key, value in pattern.items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return default


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read `adapter_config.json` of a folder.

    Raises:
        CheckpointError: it is missing or damaged, or of another kind than LoRA or DoRA.
    """
    path = folder / _NAME
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is no adapter: it has no {_NAME}; expected the folder that PEFT's "
            "save_pretrained() writes"
        )
    try:
        parsed = json.loads(check_within(folder, _NAME).read_text("utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{path} holds a {type(parsed).__name__}, not an object")
    _refuse_other_kinds(path, parsed)
    saved = parsed.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(module, str) for module in saved):
        raise CheckpointError(f"{path} has modules_to_save {saved!r}, not a list of names")
    rank = _number(path, "r", parsed.get("r", 8))
    return AdapterConfig(
        path=path,
        r=_whole(path, "r", rank),
        alpha=_number(path, "lora_alpha", parsed.get("lora_alpha", 8)),
        rank_pattern={
            key: _whole(path, f"rank_pattern[{key!r}]", value)
            for key, value in _pattern(path, parsed, "rank_pattern").items()
        },
        alpha_pattern=_pattern(path, parsed, "alpha_pattern"),
        rank_stabilized=_flag(path, parsed, "use_rslora"),
        fan_in_fan_out=_flag(path, parsed, "fan_in_fan_out"),
        dora=_flag(path, parsed, "use_dora"),
        modules_to_save=tuple(saved),
    )


def _refuse_other_kinds(path: Path, parsed: Mapping[str, Any]) -> None:
    kind = parsed.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{path} is of peft_type {kind!r}; only 'LORA' is read: {_BY_PEFT}")
    for key, words in _REFUSED.items():
        if parsed.get(key):
            raise CheckpointError(f"{path} has {key}: {words} is not read here; {_BY_PEFT}")
    init = parsed.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_CHANGES_BASE):
        raise CheckpointError(
            f"{path} has init_lora_weights {init!r}, which changes the base too; save it in PEFT "
            "by save_pretrained(..., path_initial_model_for_weight_conversion=...), or " + _BY_PEFT
        )


def _pattern(path: Path, parsed: Mapping[str, Any], field: str) -> dict[str, float]:
    value = parsed.get(field) or {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} has {field} {value!r}, not an object of numbers")
    for key in value:
        try:
            re.compile(key)
        except re.error as error:
            raise CheckpointError(
                f"{path} has {key!r} in {field}, which is no regular expression: {error}"
            ) from None
    return {key: _number(path, f"{field}[{key!r}]", number) for key, number in value.items()}


def _number(path: Path, field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError(f"{path} has {field} {value!r}, not a number")
    return value


def _whole(path: Path, field: str, value: float) -> int:
    if value < 1 or value != int(value):
        raise CheckpointError(f"{path} has {field} {value!r}, not a whole number above 0")
    return int(value)


def _flag(path: Path, parsed: Mapping[str, Any], field: str) -> bool:
    value = parsed.get(field)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"{path} has {field} {value!r}, not true or false")
    return bool(value)
