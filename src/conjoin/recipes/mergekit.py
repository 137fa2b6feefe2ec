"""mergekit's YAML as a recipe, with all that is peculiar to it.

A file with ``merge_method:`` is one of mergekit's. It is read as mergekit means it; where mergekit
gives a wrong result without a word, the recipe does what is right or is refused, and what differs
is said in `Recipe.notes`:

- An unknown or mistyped key is an error. mergekit ignores it and takes the default.
- A gradient gives its last value to the tensors after the layers; mergekit gives them its first.
- A model that is listed twice counts twice; mergekit refuses that.
- ``dtype`` is the result's; the arithmetic is float32. mergekit computes in it.
- A parameter of the whole method (``t``, ``normalize``) under one model is an error; mergekit
  ignores it there.
- Rows of embeddings are matched by token if the recipe says a tokenizer, as in mergekit; rows
  without a token are kept.
- A method that merges changes from a base gives the base where nothing else is listed, as in
  mergekit: a way to write down a base with its adapter.
- Relative paths start at the file's folder, not at the folder of the caller.

Differences between the methods themselves stand in `conjoin.methods.mergekit_defaults`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from conjoin.dtypes import DTYPES, DType
from conjoin.methods import MERGEKIT_IGNORED, METHODS, Method, Need
from conjoin.recipes.building import check_method, name_sources, of_both
from conjoin.recipes.forms import Found
from conjoin.recipes.mergekit_form import MERGEKIT_FORM
from conjoin.recipes.mergekit_parameters import (
    OF_THE_METHOD,
    by_names_of_models,
    chained,
    translate,
    with_defaults,
)
from conjoin.recipes.mergekit_tokens import Chooser, reference_of, vocabulary_of
from conjoin.recipes.nodes import ListNode, Node, ScalarNode, TableNode
from conjoin.recipes.problems import Place, Problems, unknown
from conjoin.recipes.recipe import BASE, Part, Recipe, Source, Use
from conjoin.recipes.values import Gradient, Value

__all__ = ["build_mergekit"]

Read = Mapping[str, Found[Any]]


@dataclass
class _Reader:
    """What has been gathered while one file is read."""

    method: Method
    folder: Path
    problems: Problems
    base: Source | None
    sources: list[Source] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)  # in order, each once

    def note(self, text: str) -> None:
        self.notes[text] = None

    def parameters(self, read: Read, *, of_a_model: bool = False) -> dict[str, Value]:
        table: Mapping[str, Found[Value]] = read["parameters"].value if "parameters" in read else {}
        return translate(table, self.method, self.problems, self.note, of_a_model=of_a_model)


def build_mergekit(root: TableNode, folder: Path, path: Path | None, problems: Problems) -> Recipe:
    """Make a recipe of mergekit's YAML.

    Args:
        root: the document.
        folder: what relative paths start from.
        path: of the file.
        problems: what was found in the YAML itself.

    Raises:
        RecipeError: something in it cannot be used, or would not do what it says.
    """
    table = _without_nothing(root)
    read: Read = {}
    if isinstance(found := MERGEKIT_FORM.read(table, problems), Mapping):
        read = found
    method = _method(read, problems)
    if method is None:
        problems.raise_if_any()
        raise AssertionError("a problem was noted")
    base = read.get("base_model")
    reader = _Reader(
        method=method,
        folder=folder,
        problems=problems,
        base=None if base is None else Source(reference_of(base.value), place=base.place),
    )
    kind, inputs, module = _inputs(read, table, reader)
    parts = _slices(inputs, reader) if kind == "slices" else _models(inputs, reader)
    values = with_defaults(chained(reader.parameters(module), reader.parameters(read)), method)
    parts = tuple(part if part.uses else _base_alone(part, reader) for part in parts)
    _required(parts, values, reader)
    if kind == "slices":
        parts = tuple(by_names_of_models(part, values, method) for part in parts)
    chooser = Chooser(reader.sources, reader.base, problems)
    vocabulary = vocabulary_of(read, chooser)
    # Also if the tokenizer is another model's.
    files_from: int | Literal["base"] | None = None if vocabulary is None else 0
    if reader.base is not None:
        files_from = chooser.choose(reader.base.reference, reader.base.place)
    if vocabulary is not None:
        reader.note(
            "rows of embeddings without a token are kept; mergekit leaves them out, so that its "
            "result may have fewer rows than the models"
        )
    sources = name_sources(reader.sources, reader.base, problems)
    both = of_both(read, sources, reader.base, problems)
    output = both["output"]
    if output.files_from is None:
        output = replace(output, files_from=files_from)
    if "chat_template" in read:
        if output.chat_template is not None:
            problems.add(read["chat_template"].place, "`output:` says a chat template too")
        output = replace(output, chat_template=read["chat_template"].value)
    chosen: list[Any] = [output.files_from, *(rule.source for rule in both["keep"])]
    if vocabulary is not None:
        rows = filter(None, vocabulary.tokens.values())
        chosen += [vocabulary.of, *(row.source for row in rows)]
    of_use = method.takes_base or BASE in chosen
    recipe = Recipe(
        method=method,
        sources=sources,
        parts=parts,
        stacked=kind == "slices",
        base=reader.base if of_use else None,
        values=values,
        dtype=_dtype(read, reader),
        vocabulary=vocabulary,
        path=path,
        folder=folder,
        places={key: found.place for key, found in read.items()},
        dialect="mergekit",
        **both | {"output": output},
    )
    problems.raise_if_any()
    check_method(recipe, root.place, problems)
    problems.raise_if_any()
    _note_gradients(recipe, reader)
    return replace(recipe, notes=tuple(reader.notes))


def _without_nothing(node: Node) -> Node:
    """Leave out keys without a value, which mergekit takes as not written."""
    if isinstance(node, ListNode):
        return ListNode(tuple(_without_nothing(item) for item in node.items), node.place)
    if isinstance(node, ScalarNode):
        return node
    kept = {
        key: _without_nothing(inner)
        for key, inner in node.entries.items()
        if not (isinstance(inner, ScalarNode) and inner.value is None)
    }
    return TableNode(kept, node.place, node.keys)


def _method(read: Read, problems: Problems) -> Method | None:
    if "merge_method" not in read:
        return None
    name, place = read["merge_method"].value, read["merge_method"].place
    if name in OF_THE_METHOD and name in METHODS:
        return METHODS[name]
    problems.add(place, unknown("method", name, OF_THE_METHOD))
    return None


def _inputs(
    read: Read, root: Node, reader: _Reader
) -> tuple[Literal["models", "slices"], Found[Any], Read]:
    """What is merged, with the parameters of the only module if there is one."""
    assert isinstance(root, TableNode)
    given = [key for key in ("models", "slices", "modules") if key in root.entries]
    nothing: Found[Any] = Found([], root.place)
    if len(given) != 1:
        found = " and ".join(given) or "none"
        reader.problems.add(
            root.place, f"expected one of models, slices and modules, found {found}"
        )
        return "models", nothing, {}
    if given == ["modules"]:
        modules: Read = read.get("modules", Found({}, root.place)).value
        if len(modules) > 1:
            reader.problems.add(
                root.keys["modules"],
                "several modules in one recipe are not supported: merge all with `models:`, and "
                "give each module its parameters by a filter on the names of its tensors",
            )
            return "models", nothing, {}
        module: Read = next((found.value for found in modules.values()), {})
        inner = [key for key in ("models", "slices") if key in module]
        if len(inner) != 1:
            reader.problems.add(root.keys["modules"], "a module has models, or slices")
            return "models", nothing, {}
        kind: Literal["models", "slices"] = "slices" if inner == ["slices"] else "models"
        return kind, module[kind], module
    kind = "slices" if given == ["slices"] else "models"
    return kind, read.get(kind, nothing), {}


def _models(inputs: Found[Any], reader: _Reader) -> tuple[Part, ...]:
    """All models, whole. mergekit adds the base to them if it is not listed."""
    uses = _uses(inputs.value, inputs.place, reader)[0]
    listed = [
        reference_of(item.value["model"].value) for item in inputs.value if "model" in item.value
    ]
    base = reader.base
    if base is None or reader.method.takes_base or base.reference in listed:
        return (Part(_base_first(uses, reader, base), place=inputs.place),)
    if reader.method.name == "slerp":
        reader.sources.append(base)
        uses = [*uses, Use(len(reader.sources) - 1, place=base.place)]
    else:
        reader.problems.add(
            base.place,
            f"{reader.method.name} has no base; mergekit would merge this model too. List it under "
            "`models:` (with a weight, if it takes some), or leave it out",
        )
    return (Part(_base_first(uses, reader, base), place=inputs.place),)


def _slices(inputs: Found[Any], reader: _Reader) -> tuple[Part, ...]:
    slices: list[tuple[Read, Place]] = [(found.value, found.place) for found in inputs.value]
    own_bases = [_base_of_slice(own) for own, _ in slices]
    if reader.base is None and reader.method.takes_base and own_bases:
        reader.base = own_bases[0]
    parts = []
    for (own, place), base in zip(slices, own_bases, strict=True):
        if reader.method.takes_base and base not in (None, reader.base):
            assert base is not None
            reader.problems.add(
                base.place,
                f"a slice of {reader.method.name} cannot have a base of its own; write "
                "`base_model:` once",
            )
        uses, base_layers, values = _uses_of_slice(own, place, reader)
        ordered = _base_first(uses, reader, base or reader.base)
        parts.append(Part(ordered, values, base_layers, place))
    return tuple(parts)


def _base_of_slice(own: Read) -> Source | None:
    found = own.get("base_model")
    return None if found is None else Source(reference_of(found.value), place=found.place)


def _base_alone(part: Part, reader: _Reader) -> Part:
    """A part of the base alone, in which the base stands as a model that has changed nothing."""
    if reader.base is None or len(reader.problems):
        return part
    name, method = reader.base.reference, reader.method
    if method.least > 1 or method.models is not None or Need.BASE not in method.needs:
        reader.problems.add(part.place, f"{method.name} needs other models than the base {name!r}")
        return part
    reader.note(f"{part.place}: nothing but the base {name!r} is listed, which is what comes out")
    number = _number(reader.base, part.base_layers is not None, reader)
    weight = {"weight": Value.of(1.0)} if Need.WEIGHTS in method.needs else {}
    use = Use(number, part.base_layers, weight, part.place)
    return replace(part, uses=(use,))


def _uses_of_slice(
    own: Read, place: Place, reader: _Reader
) -> tuple[list[Use], tuple[int, int] | None, dict[str, Value]]:
    sources = own.get("sources", Found([], place)).value
    uses, base_layers = _uses(sources, place, reader)
    if reader.method.takes_base and base_layers is None and reader.base is not None:
        reader.problems.add(
            place, f"the base {reader.base.reference!r} has to be one of the sources of the slice"
        )
    return uses, base_layers, reader.parameters(own)


def _uses(
    items: Sequence[Found[Any]], place: Place, reader: _Reader
) -> tuple[list[Use], tuple[int, int] | None]:
    """The models of a part, and which layers of the base it uses."""
    uses: list[Use] = []
    base_layers: tuple[int, int] | None = None
    for item in items:
        own: Read = item.value
        if "model" not in own:
            continue
        reference = reference_of(own["model"].value)
        layers = own["layer_range"].value if "layer_range" in own else None
        if _has_table_key(own["model"].value, "override_architecture"):
            reader.note("override_architecture is not needed: layers are found by names")
        values = reader.parameters(own, of_a_model=True)
        is_base = reader.base is not None and reference == reader.base.reference
        if is_base and reader.method.takes_base:
            base_layers = layers
            if values:
                reader.note(f"the parameters of the base {reference!r} have no effect")
            continue
        number = _number(Source(reference, place=item.place), "layer_range" in own, reader)
        if reference in [reader.sources[use.source].reference for use in uses]:
            reader.note(
                f"{place}: {reference!r} is listed more than once and counts as often; mergekit "
                "refuses that"
            )
        uses.append(Use(number, layers, values, item.place))
    return uses, base_layers


def _number(source: Source, shared: bool, reader: _Reader) -> int:
    references = [other.reference for other in reader.sources]
    if shared and source.reference in references:
        return references.index(source.reference)
    reader.sources.append(source)
    return len(reader.sources) - 1


def _base_first(uses: Sequence[Use], reader: _Reader, base: Source | None) -> tuple[Use, ...]:
    """The base is the model at t = 0 of slerp, wherever it is listed."""
    if reader.method.name != "slerp":
        return tuple(uses)
    if base is None:
        place = uses[0].place if uses else Place()
        reader.problems.add(place, "slerp needs `base_model:`, the model at t = 0")
        return tuple(uses)
    name = base.reference
    is_base = [reader.sources[use.source].reference == name for use in uses]
    if uses and not any(is_base):
        reader.problems.add(uses[0].place, f"the base {name!r} has to be one of the two models")
    return tuple(sorted(uses, key=lambda use: reader.sources[use.source].reference != name))


def _has_table_key(value: Any, key: str) -> bool:
    return isinstance(value, Mapping) and key in value


def _required(parts: Sequence[Part], values: Mapping[str, Value], reader: _Reader) -> None:
    """A tensor without a weight, or a t, stops mergekit; here that is seen before."""
    required = {"slerp": ["t"], "nearswap": ["t"]}.get(reader.method.name, [])
    ignored = MERGEKIT_IGNORED.get(reader.method.name, ())
    if Need.WEIGHTS in reader.method.needs and "weight" not in ignored:
        required = [*required, "weight"]
    for part in parts:
        for use in part.uses:
            tables = (use.values, part.values, values)
            for key in required:
                found = [table[key] for table in tables if key in table]
                if not any(rule.pattern == "*" for value in found for rule in value.rules):
                    what = "has no" if not found else "has, for tensors that no filter matches, no"
                    reader.problems.add(
                        use.place,
                        f"{reader.sources[use.source].reference!r} {what} {key!r}, which "
                        f"{reader.method.name} needs",
                    )


def _dtype(read: Read, reader: _Reader) -> DType | None:
    found = read.get("out_dtype", read.get("dtype"))
    if "dtype" in read:
        reader.note(
            f"dtype: {read['dtype'].value} rounds the result only, once; the arithmetic is in "
            "float32 (float64 for float64), and the inputs are taken as they are"
        )
    return None if found is None else DTYPES[found.value.removeprefix("torch.")]


def _note_gradients(recipe: Recipe, reader: _Reader) -> None:
    tables = [recipe.values]
    for part in recipe.parts:
        tables += [part.values, *(use.values for use in part.uses)]
    rules = [rule for table in tables for value in table.values() for rule in value.rules]
    if any(isinstance(rule.value, Gradient) for rule in rules):
        reader.note(
            "a gradient gives its last value to the tensors after the layers (final norm, head); "
            "mergekit gives them its first"
        )
