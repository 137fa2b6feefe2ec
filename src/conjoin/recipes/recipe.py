"""What to merge, and how: a recipe as frozen dataclasses, before any model is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from conjoin.checkpoints import Kind
from conjoin.dtypes import DType
from conjoin.errors import RecipeError
from conjoin.merging.task import Settings
from conjoin.methods import Method
from conjoin.recipes.layers import InLayer, Outside
from conjoin.recipes.parameters import per_model_parameters
from conjoin.recipes.problems import Place
from conjoin.recipes.values import Scalar, Value

__all__ = [
    "BASE",
    "UNION",
    "ZERO",
    "Keep",
    "KindRule",
    "OnlySome",
    "Output",
    "Part",
    "Recipe",
    "Source",
    "TokenRow",
    "Use",
    "Vocabulary",
]

BASE: Literal["base"] = "base"
"""What the base is called where a model is chosen by name."""

UNION: Literal["union"] = "union"
"""What the vocabulary of all models together is called."""

ZERO: Literal["zero"] = "zero"
"""What is said for the model of a token whose row is zero."""

OnlySome = Literal["refuse", "keep", "drop"]

_NOWHERE = Place()


@dataclass(frozen=True)
class Source:
    """A model to open.

    Args:
        reference: as written: ``path@revision+lora@revision``, a path or an id of the Hub.
        name: what it is called in `keep` and `files_from`; None if it has no name of its own.
        align: file of permutations through which it is seen, as an absolute path.
        entry: which entry of a torch file is meant.
        place: in the recipe.
    """

    reference: str
    name: str | None = None
    align: Path | None = None
    entry: str | None = None
    place: Place = field(default=_NOWHERE, compare=False)

    def canonical(self) -> dict[str, Any]:
        """Plain data that is equal for sources that mean the same."""
        align = None if self.align is None else str(self.align)
        return {"model": self.reference, "align": align, "entry": self.entry}


@dataclass(frozen=True)
class Use:
    """A model, or a range of its layers, that is merged with others.

    Args:
        source: number in `Recipe.sources`.
        layers: first and end (not included); None for the whole model.
        values: of ``weight`` and of parameters that differ between models.
        place: in the recipe.
    """

    source: int
    layers: tuple[int, int] | None = None
    values: Mapping[str, Value] = field(default_factory=dict)
    place: Place = field(default=_NOWHERE, compare=False)


@dataclass(frozen=True)
class Part:
    """Models that are merged with each other: all there are, or a slice of the stacked result.

    Args:
        uses: the models.
        values: of ``weight`` and parameters in this part; before those of the recipe.
        base_layers: which layers of the base belong to this slice.
        place: in the recipe.
    """

    uses: tuple[Use, ...]
    values: Mapping[str, Value] = field(default_factory=dict)
    base_layers: tuple[int, int] | None = None
    place: Place = field(default=_NOWHERE, compare=False)


@dataclass(frozen=True)
class Keep:
    """Tensors that are taken unchanged from one model: its number, or BASE."""

    pattern: str
    source: int | Literal["base"]
    place: Place = field(default=_NOWHERE, compare=False)


@dataclass(frozen=True)
class KindRule:
    """What some tensors are to be taken for."""

    pattern: str
    kind: Kind
    place: Place = field(default=_NOWHERE, compare=False)


@dataclass(frozen=True)
class Output:
    """How the result is written.

    Args:
        shard_size: most bytes of one file; None for the writer's default.
        format: of the files.
        files_from: whose config and tokenizer go along: number of a model, or BASE; None if the
            recipe leaves it open.
        metadata: free text to write beside the tensors.
        chat_template: of the tokenizer: a name or text, see `CHAT_TEMPLATES`; None to leave it.
        place: in the recipe.
    """

    shard_size: int | None = None
    format: Literal["safetensors", "torch"] = "safetensors"
    files_from: int | Literal["base"] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    chat_template: str | None = None
    place: Place = field(default=_NOWHERE, compare=False)


@dataclass(frozen=True)
class TokenRow:
    """Which row a token has in models that lack it.

    Args:
        source: number of a model, or BASE; None: zeros.
        token: the token there whose row it is, or the number of that row; None for the same token.
        everywhere: whether the models that have the token get that row too.
        place: in the recipe.
    """

    source: int | Literal["base"] | None
    token: str | int | None = None
    everywhere: bool = False
    place: Place = field(default=_NOWHERE, compare=False)


@dataclass(frozen=True)
class Vocabulary:
    """Rows of embeddings and heads are matched by the tokens that they are of.

    Args:
        of: whose tokens the result has: number of a model, BASE, or UNION, the tokens of all; or
            a model that is not merged, of which only the tokenizer is looked at.
        tokens: what is said of some tokens; None: that the result has it. Those that the
            vocabulary lacks are added.
        multiple: the number of rows is brought to a multiple of this.
        tensors: patterns of what has a row for each token; () to find these by their names.
        preferred: number of the model whose row a token gets if several have it; None: the base.
        place: in the recipe.
    """

    of: int | Literal["base", "union"] | Source
    tokens: Mapping[str, TokenRow | None] = field(default_factory=dict)
    multiple: int = 1
    tensors: tuple[str, ...] = ()
    preferred: int | None = None
    place: Place = field(default=_NOWHERE, compare=False)

    def canonical(self) -> dict[str, Any]:
        """Plain data that is equal for what means the same."""
        tokens = {
            token: None if row is None else [row.source, row.token, row.everywhere]
            for token, row in self.tokens.items()
        }
        return {
            "of": self.of.canonical() if isinstance(self.of, Source) else self.of,
            "tokens": tokens,
            "multiple": self.multiple,
            "tensors": list(self.tensors),
            "preferred": self.preferred,
        }


@dataclass(frozen=True)
class Recipe:
    """What to merge and how. `read_recipe` and `recipe_from` make one.

    Args:
        method: how.
        sources: every model to open, without the base; `models:` in its order, or of `slices:`
            each once.
        parts: one for `models:`, one per slice for `slices:`.
        stacked: whether it has slices, whose layers follow each other in the result.
        base: the common ancestor.
        values: of ``weight`` and parameters, for all models.
        keep, kinds: first match wins.
        only_some: what to do with names that only some models have.
        layers: pattern of the stack of layers; None to find it.
        arithmetic: torch.float32 or torch.float64; None for float32, and float64 where the inputs
            are.
        dtype: of weights and statistics in the result; None for that of the models.
        nonfinite: whether NaN and infinity are refused.
        seed: of random methods.
        output: see `Output`.
        vocabulary: see `Vocabulary`; None if rows of embeddings are merged by their number.
        path: of the file, or None.
        folder: what relative paths start from.
        places: of the keys of the top level.
        notes: what the reader has understood otherwise than another tool would; to be shown.
        text: the recipe as it was written, as YAML.
        dialect: whose format it was written in. In mergekit's a filter may match no tensor.
    """

    method: Method
    sources: tuple[Source, ...]
    parts: tuple[Part, ...]
    stacked: bool = False
    base: Source | None = None
    values: Mapping[str, Value] = field(default_factory=dict)
    keep: tuple[Keep, ...] = ()
    kinds: tuple[KindRule, ...] = ()
    only_some: OnlySome = "refuse"
    layers: str | None = None
    arithmetic: DType | None = None
    dtype: DType | None = None
    nonfinite: Literal["refuse", "allow"] = "refuse"
    seed: int = 0
    output: Output = field(default_factory=Output)
    vocabulary: Vocabulary | None = None
    path: Path | None = field(default=None, compare=False)
    folder: Path = field(default_factory=Path, compare=False)
    places: Mapping[str, Place] = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    text: str = field(default="", compare=False)
    dialect: Literal["conjoin", "mergekit"] = field(default="conjoin", compare=False)

    def settings(
        self,
        part: Part,
        name: str,
        where: InLayer | Outside,
        names: Sequence[str] | None = None,
    ) -> Settings:
        """Give the weights and parameters for one tensor.

        A value of the model comes before one of the slice, that before one of the recipe, and that
        before the method's default; a table in which no pattern matches says nothing.

        Args:
            part: which of `parts` the tensor belongs to.
            name: of the tensor in the result.
            where: its place among the layers: `Layers.place`, or a place in a slice.
            names: of the tensor in every model of the part, where they differ (stacked layers);
                values of a model are looked up by these.

        Returns:
            Settings with the parameters that the recipe sets; one that differs between the models
            is a tuple, one number per model.

        Raises:
            RecipeError: a gradient without a value for this tensor, or a weight for some models
                only.
        """
        own = names or [name] * len(part.uses)
        levels = (part.values, self.values)
        shared = {key: _first(levels, key, name, where) for key in self._keys(part)}
        rows = per_model_parameters(self.method) | {"weight"}
        if len(part.uses) == 1:  # what is said of the only model is said of the method
            rows |= shared.keys()
        per_model: dict[str, list[Scalar | None]] = {}
        for key in [key for key in shared if key in rows]:
            per_model[key] = [
                found
                if (found := _first((use.values,), key, n, where)) is not None
                else shared[key]
                for use, n in zip(part.uses, own, strict=True)
            ]
        weights = _weights(per_model.pop("weight", None), part, name)
        parameters: dict[str, Any] = {}
        for key in (key for key in self.method.defaults if key in shared):
            given = per_model.get(key, [shared[key]])
            filled = [self.method.defaults[key] if v is None else v for v in given]
            if all(value is None for value in given):
                continue
            same = all(value == filled[0] for value in filled)
            parameters[key] = filled[0] if same else tuple(filled)
        return Settings(weights, parameters)

    def _keys(self, part: Part) -> list[str]:
        tables = [self.values, part.values, *(use.values for use in part.uses)]
        return list(dict.fromkeys(key for table in tables for key in table))

    def canonical(self) -> dict[str, Any]:
        """Plain data, ready for JSON, that is equal for recipes that mean the same.

        Names of models, order of keys, places and notes are not in it; numbers are floats; what is
        left out stands as its default. References stay as they are written: which bytes they mean
        is a matter of the files.
        """
        return {
            "method": self.method.name,
            "base": None if self.base is None else self._source(self.base),
            "parts": [self._part(part) for part in self.parts],
            "stacked": self.stacked,
            "values": self._table(self.values),
            "keep": [[rule.pattern, rule.source] for rule in self.keep],
            "kinds": [[rule.pattern, rule.kind.value] for rule in self.kinds],
            "only_some": self.only_some,
            "layers": self.layers,
            "arithmetic": None if self.arithmetic is None else str(self.arithmetic),
            "dtype": None if self.dtype is None else str(self.dtype),
            "nonfinite": self.nonfinite,
            "seed": self.seed,
            "vocabulary": None if self.vocabulary is None else self.vocabulary.canonical(),
            "output": {
                "shard_size": self.output.shard_size,
                "format": self.output.format,
                "files_from": self.output.files_from,
                "metadata": dict(sorted(self.output.metadata.items())),
                "chat_template": self.output.chat_template,
            },
        }

    def _source(self, source: Source) -> dict[str, Any]:
        """Plain data of a source; the recipe's folder may be called by any of its names."""
        if source.align is None:
            return source.canonical()
        return {**source.canonical(), "align": os.path.relpath(source.align, self.folder)}

    def _part(self, part: Part) -> Any:
        models = [
            {
                **self._source(self.sources[use.source]),
                "layers": None if use.layers is None else list(use.layers),
                "values": _canonical(use.values),
            }
            for use in part.uses
        ]
        base_layers = None if part.base_layers is None else list(part.base_layers)
        return {"models": models, "values": _canonical(part.values), "base_layers": base_layers}

    def _table(self, values: Mapping[str, Value]) -> Any:
        """The values of the top level, with the method's defaults filled in."""
        defaults = {
            key: Value.of(default)
            for key, default in self.method.defaults.items()
            if isinstance(default, bool | int | float | str)
        }
        return _canonical({**defaults, **values})


def _canonical(values: Mapping[str, Value]) -> dict[str, Any]:
    return {key: values[key].canonical() for key in sorted(values)}


def _first(
    levels: Sequence[Mapping[str, Value]], key: str, name: str, where: InLayer | Outside
) -> Scalar | None:
    for level in levels:
        if key in level:
            found = level[key].at_place(name, where)
            if found is not None:
                return found
    return None


def _weights(
    given: Sequence[Scalar | None] | None, part: Part, name: str
) -> tuple[float, ...] | None:
    if given is None or all(weight is None for weight in given):
        return None
    numbers = []
    for use, weight in zip(part.uses, given, strict=True):
        if weight is None:
            raise RecipeError(
                f"{use.place}: this model has no weight for {name!r}, but others have; give it "
                'one, with the pattern "*" for the rest of its tensors, say'
            )
        numbers.append(float(weight))
    return tuple(numbers)
