"""The stacks of repeated layers of a model, found from the names of its tensors.

No description of an architecture is needed. ``model.layers.12.mlp.up_proj.weight`` has a number,
after which the same names repeat for other numbers: that is a stack, and 12 is the layer.

- The outermost number wins: experts in a layer belong to the layer. Where a model has stages of
  blocks (``layer1.0`` of a ResNet), the stages are the layers, so that a gradient runs once through
  the whole depth.
- The number is a part of the name of its own, or the end of a part that says ``layer``, ``block``
  or ``stage``: ``layer1``, ``encoder_layer_0``.
- A layer has modules inside. The single modules of an ``nn.Sequential`` (``features.3.weight``)
  are no stack by themselves; a pattern makes them one (``features.*``).
- The layers need not be equal: half of them must share a name. So a dense first layer before
  layers with experts, and a first block with a projection, are found.
"""

import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from conjoin.checkpoints import closest_name
from conjoin.errors import InputError

__all__ = ["OUTSIDE", "InLayer", "Layers", "Outside", "Stack", "find_layers", "senses_of"]


class Outside(StrEnum):
    """Where a tensor stands that belongs to no layer."""

    BEFORE = "before"
    """Before the layers: embeddings, a stem."""
    AFTER = "after"
    """After the layers: the final norm, a head."""
    UNKNOWN = "unknown"
    """The names do not tell."""


_BEFORE, _AFTER = Outside.BEFORE, Outside.AFTER

OUTSIDE: tuple[tuple[str, Outside], ...] = (
    # Exceptions to the general rows below, which the first match would otherwise decide.
    ("embed_out", _AFTER),  # the head of GPT-NeoX
    ("norm_pre", _BEFORE),
    ("ln_pre", _BEFORE),
    ("pre_lay*norm", _BEFORE),
    ("cls_token", _BEFORE),
    ("classifier", _AFTER),
    # before the layers
    ("*embed*", _BEFORE),
    ("wte", _BEFORE),
    ("wpe", _BEFORE),
    ("emb", _BEFORE),
    ("shared", _BEFORE),
    ("stem", _BEFORE),
    ("stem_*", _BEFORE),
    ("conv_stem", _BEFORE),
    ("conv_in", _BEFORE),
    ("conv1", _BEFORE),
    ("bn1", _BEFORE),
    ("patch*", _BEFORE),
    ("conv_proj", _BEFORE),  # torchvision's ViT
    ("pos_*", _BEFORE),
    ("position*", _BEFORE),
    ("*_token", _BEFORE),  # ViT: class_token, dist_token, mask_token
    ("*_tokens", _BEFORE),
    # after the layers
    ("*norm*", _AFTER),
    ("ln", _AFTER),
    ("ln_f", _AFTER),
    ("ln_post", _AFTER),
    ("*head*", _AFTER),
    ("classifier*", _AFTER),
    ("*pooler*", _AFTER),
    ("fc", _AFTER),
    ("cls", _AFTER),
    ("score", _AFTER),
    ("output", _AFTER),
    ("qa_outputs", _AFTER),
    ("conv_out", _AFTER),
    ("proj_out", _AFTER),
    ("*_projection", _AFTER),  # CLIP
)
"""Shell patterns over the lower-case parts of a tensor's name, for tensors outside of the layers.

The first part from the left that a row matches decides, and of the rows the first: the norm in
``bert.embeddings.LayerNorm.weight`` stands before the layers.
"""

# What the part before a lone number is called where it counts layers. With two or more layers the
# repetition itself is the sign.
_USUAL = re.compile(r".*(layer|block|stage|resblock)s?_?|h|resblocks", re.IGNORECASE)
_TRAILING = re.compile(r"(.*\D)?(\d+)")
_SAMPLES = 3
_PROJECTORS = ("*projector*", "connector", "mm_*")
_SENSES = {
    "vision": "images",
    "visual": "images",
    "image": "images",
    "vit": "images",
    "audio": "sound",
    "speech": "sound",
}


@dataclass(frozen=True)
class Stack:
    """Repeated layers.

    Args:
        prefix: what stands before the number in a name: ``"model.layers."``, ``"layer"``.
        numbers: of the layers, ascending. They may have holes.

    >>> stack = Stack("model.layers.", (0, 1, 2))
    >>> stack.pattern, len(stack)
    ('model.layers.*', 3)
    """

    prefix: str
    numbers: tuple[int, ...]

    @property
    def pattern(self) -> str:
        """What selects the stack in a recipe: ``layers: "model.layers.*"``."""
        return f"{self.prefix}*"

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class InLayer:
    """The place of a tensor in a stack.

    Args:
        stack: the stack.
        index: which layer, counted from 0 over those that exist; equal to the number in the name
            unless numbers are missing.
        count: how many layers the stack has.
    """

    stack: Stack
    index: int
    count: int

    @property
    def number(self) -> int:
        """The number in the name."""
        return self.stack.numbers[self.index]


@dataclass(frozen=True)
class Layers:
    """Which tensors are in which layer.

    Several stacks (encoder and decoder, text and vision) are counted each by itself: a gradient
    runs from its first to its last value in every one of them.

    Args:
        stacks: in the order of the first tensor of each.
        members: name of a tensor -> (position in `stacks`, number of the layer), for the tensors
            in layers.
        beside: how the names of towers begin that have stacks of their own: for images or sound,
            beside the layers of a language model that a pattern has selected. All of a tower
            stands before the layers, and so does what leads on from it to them.
    """

    stacks: tuple[Stack, ...]
    members: Mapping[str, tuple[int, int]]
    beside: tuple[str, ...] = ()

    @cached_property
    def _ranks(self) -> tuple[Mapping[int, int], ...]:
        return tuple({n: i for i, n in enumerate(stack.numbers)} for stack in self.stacks)

    def of(self, name: str) -> InLayer | None:
        """Give the layer of a tensor, or None if it is in none.

        >>> layers = find_layers(["h.0.mlp.weight", "h.1.mlp.weight", "wte"])
        >>> place = layers.of("h.1.mlp.weight")
        >>> place.stack.prefix, place.index, place.count
        ('h.', 1, 2)
        >>> layers.of("wte") is None
        True
        """
        if name not in self.members:
            return None
        stack, number = self.members[name]
        return InLayer(self.stacks[stack], self._ranks[stack][number], len(self.stacks[stack]))

    def place(self, name: str) -> InLayer | Outside:
        """Give the layer of a tensor, or where outside of the layers its name says it is.

        >>> layers = find_layers(["h.0.mlp.weight", "h.1.mlp.weight", "wte"])
        >>> layers.place("wte"), layers.place("logit_scale")
        (<Outside.BEFORE: 'before'>, <Outside.UNKNOWN: 'unknown'>)
        """
        found = self.of(name)
        if found is not None:
            return found
        if name.startswith(self.beside):
            return Outside.BEFORE
        if self.beside and any(map(_leads_on, name.lower().split("."))):
            return Outside.BEFORE
        for part in name.lower().split("."):
            for pattern, where in OUTSIDE:
                if fnmatch.fnmatchcase(part, pattern):
                    return where
        return Outside.UNKNOWN

    def rename(self, name: str, new: int) -> str:
        """Give the name that a tensor of a layer has in layer `new`.

        Raises:
            InputError: the tensor is in no layer.

        >>> layers = find_layers(["h.0.mlp.weight", "h.1.mlp.weight"])
        >>> layers.rename("h.1.mlp.weight", 12)
        'h.12.mlp.weight'
        """
        if name not in self.members:
            raise InputError(f"{name!r} is in no layer, so it has no number to change")
        stack, number = self.members[name]
        prefix = self.stacks[stack].prefix
        rest = name[len(prefix) :]
        digits = len(rest) - len(rest.lstrip("0123456789"))
        assert int(rest[:digits]) == number
        return f"{prefix}{new}{rest[digits:]}"


def find_layers(names: Iterable[str], pattern: str | None = None) -> Layers:
    """Find the stacks of repeated layers.

    Args:
        names: of the tensors: a checkpoint's `specs`, say.
        pattern: what to take instead of what is found: parts of names with ``*`` in the place of
            the number: ``model.layers.*``. An earlier ``*`` stands for one part of any name:
            ``stages.*.blocks.*`` makes the blocks of each stage a stack.

    Raises:
        InputError: the pattern has no ``*`` at its end, or fits no name.

    >>> names = ["embed.weight", "layers.0.a.weight", "layers.1.a.weight", "norm.weight"]
    >>> [stack.pattern for stack in find_layers(names).stacks]
    ['layers.*']
    """
    order = {name: i for i, name in enumerate(names)}
    found = _found(order) if pattern is None else _selected(list(order), pattern)
    groups = sorted(found.items(), key=lambda item: min(order[n] for n in item[1]))
    stacks = tuple(Stack(prefix, tuple(sorted(set(of.values())))) for prefix, of in groups)
    members = {name: (i, number) for i, (_, of) in enumerate(groups) for name, number in of.items()}
    beside = () if pattern is None else _beside(found, _found(order))
    return Layers(stacks, members, beside)


def _beside(selected: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """Give the beginning of names of each tower that has another stack than those selected.

    >>> _beside(["model.text.layers."], ["model.text.layers.", "model.vision.tower.blocks."])
    ('model.vision.',)
    >>> _beside(["encoder.block."], ["encoder.block.", "decoder.block."])    # it may stand anywhere
    ()
    """
    found = set()
    for other in others:
        parts = other.split(".")
        common = max(_common(parts, one.split(".")) for one in selected)
        if common < len(parts) - 1:  # else the stack itself is all that is apart
            start = "".join(f"{part}." for part in parts[: common + 1])
            if senses_of(start) - senses_of(" ".join(selected)):
                found.add(start)
    return tuple(sorted(found))


def _leads_on(part: str) -> bool:
    """Say whether a part of a name is of what leads from a tower to a language model."""
    return any(fnmatch.fnmatchcase(part, row) for row in _PROJECTORS) or bool(senses_of(part))


def senses_of(name: str) -> frozenset[str]:
    """Say what a part of a model is for, by its name or that of its config, if not for text.

    >>> senses_of("model.visual.blocks."), senses_of("audio_config"), senses_of("model.layers.")
    (frozenset({'images'}), frozenset({'sound'}), frozenset())
    """
    return frozenset(sense for word, sense in _SENSES.items() if word in name.lower())


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (x, y) in enumerate(pairs) if x != y), min(len(one), len(other)))


def _found(names: Iterable[str]) -> dict[str, dict[str, int]]:
    """``{prefix: {name: number}}``, the outermost stacks first."""
    waiting = {name: name.split(".") for name in names}
    found: dict[str, dict[str, int]] = {}
    depth = 0
    while waiting:
        groups: dict[str, dict[str, tuple[int, str]]] = {}  # prefix -> name -> (number, rest)
        for name, parts in waiting.items():
            numbered = _TRAILING.fullmatch(parts[depth])
            if numbered and len(parts) > depth + 1:
                prefix = "".join(f"{part}." for part in parts[:depth]) + (numbered[1] or "")
                rest = ".".join(parts[depth + 1 :])
                groups.setdefault(prefix, {})[name] = (int(numbered[2]), rest)
        for prefix, of in groups.items():
            if _is_stack(prefix, list(of.values())):
                found[prefix] = {name: number for name, (number, _) in of.items()}
        inside = {name for of in found.values() for name in of}
        depth += 1
        waiting = {
            name: parts
            for name, parts in waiting.items()
            if name not in inside and len(parts) > depth + 1
        }
    return found


def _is_stack(prefix: str, numbered: Sequence[tuple[int, str]]) -> bool:
    """Whether layers start with this prefix; `numbered` is (number, rest of the name) of each."""
    last = prefix.rstrip(".").rpartition(".")[2]
    plain = prefix.endswith(".") or not prefix  # the number is a part of its own
    usual = _USUAL.fullmatch(last) is not None
    if not usual and any(fnmatch.fnmatchcase(last.lower(), row) for row, _ in OUTSIDE):
        return False  # several heads, or several embeddings: these do not follow each other
    if not plain and not usual:
        return False  # fc1 and fc2, encoder1 and encoder2
    count = len({number for number, _ in numbered})
    shared = Counter(rest for _, rest in numbered if "." in rest)
    most = max(shared.values(), default=0)
    if count == 1:
        return plain and usual and most == 1
    return most >= max(2, (count + 1) // 2)


def _selected(names: Sequence[str], pattern: str) -> dict[str, dict[str, int]]:
    parts = pattern.split(".")
    if not parts[-1].endswith("*") or parts[-1].count("*") > 1:
        raise InputError(
            f"the pattern {pattern!r} for the layers has to end where the number stands, with a "
            "'*' there: \"model.layers.*\""
        )
    leading = "".join(re.escape(part).replace(r"\*", r"[^.]*") + r"\." for part in parts[:-1])
    matches = re.compile(rf"({leading}{re.escape(parts[-1][:-1])})(\d+)(?:\.|$)").match
    found: dict[str, dict[str, int]] = {}
    for name in names:
        if match := matches(name):
            found.setdefault(match[1], {})[name] = int(match[2])
    if not found:
        raise InputError(
            f"the pattern {pattern!r} for the layers fits none of the {len(names)} tensor names"
            + _closest(pattern, names)
        )
    return found


def _closest(pattern: str, names: Iterable[str]) -> str:
    known = {re.sub(r"\d+$", "*", start) for name in names for start in _starts(name)}
    numbered = sorted(start for start in known if start.endswith("*"))
    close = closest_name(pattern, numbered)
    if close is not None:
        return f"; did you mean {close!r}?"
    return f"; numbers stand in {', '.join(map(repr, numbered[:_SAMPLES])) or 'none of them'}"


def _starts(name: str) -> Iterable[str]:
    parts = name.split(".")
    return (".".join(parts[:k]) for k in range(1, len(parts)))
