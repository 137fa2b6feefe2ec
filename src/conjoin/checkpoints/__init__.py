"""Files and modules as named tensors: `Mapping[str, Tensor]`, lazy and read-only.

    a module ─────────────┐
    a dict of tensors ────┼──► Checkpoint ──► save ──► a file
    .safetensors, .pt ────┘     specs, [name], read

`as_checkpoint` takes any of these; `open_checkpoint` a file, and never runs code from it. What a
tensor is for - weight, statistic, counter, constant - and which tensors are tied is known before
any data are read, from `specs`.
"""

from conjoin.checkpoints.checkpoint import Checkpoint
from conjoin.checkpoints.memory import MemoryCheckpoint
from conjoin.checkpoints.module import from_module
from conjoin.checkpoints.names import closest_name, describe_name_difference, match_names
from conjoin.checkpoints.open import as_checkpoint, open_checkpoint
from conjoin.checkpoints.spec import Kind, Spec, kind_by_name, override_kinds
from conjoin.checkpoints.writer import save

__all__ = [
    "Checkpoint",
    "Kind",
    "MemoryCheckpoint",
    "Spec",
    "as_checkpoint",
    "closest_name",
    "describe_name_difference",
    "from_module",
    "kind_by_name",
    "match_names",
    "open_checkpoint",
    "override_kinds",
    "save",
]
