"""Files and modules as named tensors: `Mapping[str, Tensor]`, lazy and read-only.

    a module ─────────────┐
    a dict of tensors ────┤
    .safetensors, .pt ────┼──► Checkpoint ──► save ──► a file
    a folder of files ────┤     specs, [name], read
    base + LoRA adapter ──┘

`as_checkpoint` takes any of these but the last; `open_checkpoint` a file or folder, and
`open_reference` what a recipe names: `path@revision+adapter@revision`, on disk or on the Hub. They
never run code from a file. What a tensor is for - weight, statistic, counter, constant - and which
tensors are tied is known before any data are read, from `specs`.
"""

from conjoin.checkpoints.adapter import open_adapter
from conjoin.checkpoints.carried import carried_files, is_of_tokenizer
from conjoin.checkpoints.checkpoint import Checkpoint, cut_at_multiples
from conjoin.checkpoints.descriptors import FileRange, files_kept_open
from conjoin.checkpoints.memory import MemoryCheckpoint
from conjoin.checkpoints.module import from_module
from conjoin.checkpoints.names import closest_name, describe_name_difference, match_names
from conjoin.checkpoints.open import as_checkpoint, open_checkpoint
from conjoin.checkpoints.reference import (
    HeadersOnly,
    Reference,
    locate,
    open_headers,
    open_reference,
    parse_reference,
)
from conjoin.checkpoints.spec import Kind, Spec, kind_by_name, override_kinds
from conjoin.checkpoints.wrapped import Wrapped, innermost
from conjoin.checkpoints.writer import save

__all__ = [
    "Checkpoint",
    "FileRange",
    "HeadersOnly",
    "Kind",
    "MemoryCheckpoint",
    "Reference",
    "Spec",
    "Wrapped",
    "as_checkpoint",
    "carried_files",
    "closest_name",
    "cut_at_multiples",
    "describe_name_difference",
    "files_kept_open",
    "from_module",
    "innermost",
    "is_of_tokenizer",
    "kind_by_name",
    "locate",
    "match_names",
    "open_adapter",
    "open_checkpoint",
    "open_headers",
    "open_reference",
    "override_kinds",
    "parse_reference",
    "save",
]
