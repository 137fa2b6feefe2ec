"""Whose tokens the result of a recipe of mergekit's has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from conjoin.recipes.choosing import checked_vocabulary
from conjoin.recipes.forms import Found
from conjoin.recipes.problems import Place, Problems
from conjoin.recipes.recipe import BASE, UNION, Source, TokenRow, Vocabulary

__all__ = ["Chooser", "reference_of", "vocabulary_of"]

Read = Mapping[str, Found[Any]]


@dataclass(frozen=True)
class Chooser:
    """The models that one may be chosen from.

    Args:
        sources: that are merged.
        base: the base.
        problems: where to note what cannot be chosen.
    """

    sources: Sequence[Source]
    base: Source | None
    problems: Problems

    def has(self, wanted: str) -> bool:
        """Whether a reference, or BASE, can be chosen."""
        references = [source.reference for source in self.sources]
        return wanted in (BASE, *references, self.base and self.base.reference)

    def choose(self, wanted: str, place: Place) -> int | Literal["base"]:
        """Give the number of a model by its reference; BASE for the base, which may be one."""
        if wanted == BASE and self.base is None:
            self.problems.add(place, "'base' is chosen, but there is no `base_model:`")
            return BASE
        if wanted == BASE and self.base is not None:
            wanted = self.base.reference
        references = [source.reference for source in self.sources]
        if wanted in references:
            return references.index(wanted)
        if self.base is None or wanted != self.base.reference:
            self.problems.add(place, f"{wanted!r} is none of the models that are merged")
        return BASE


def vocabulary_of(read: Read, chooser: Chooser) -> Vocabulary | None:
    """Say how rows are matched by token; mergekit does that where a recipe says a tokenizer."""
    found = read.get("tokenizer_source")
    table = read.get("tokenizer", Found({}, Place()))
    if "tokenizer" in read:
        if found is not None:
            chooser.problems.add(
                found.place, "`tokenizer_source` and `tokenizer` say the same; leave out one"
            )
        found = table.value.get("source", Found(UNION, table.place))
    if found is None:
        return None
    # As older versions wrote it.
    whose = reference_of(found.value).removeprefix("model:")
    of: int | Literal["base", "union"] | Source = UNION
    if whose != UNION:
        known = chooser.has(whose)
        of = chooser.choose(whose, found.place) if known else Source(whose, place=found.place)
    base = None if chooser.base is None else chooser.base.reference
    listed = [source.reference for source in chooser.sources]
    tokens = table.value.get("tokens", Found({}, table.place)).value
    multiple = table.value.get("pad_to_multiple_of", Found(1, table.place)).value
    vocabulary = Vocabulary(
        of=of,
        tokens={token: _row_of(said, chooser) for token, said in tokens.items()},
        multiple=multiple,
        preferred=listed.index(base) if base in listed else None,
        place=found.place,
    )
    return checked_vocabulary(vocabulary, chooser.problems)


def _row_of(said: Found[Any], chooser: Chooser) -> TokenRow | None:
    source = said.value.get("source")
    if source is None:
        return None
    everywhere = said.value.get("force", Found(False, said.place)).value
    table: Read = source.value if isinstance(source.value, Mapping) else {}
    kind = table["kind"].value if "kind" in table else None
    if kind == "zero":
        return TokenRow(None, None, everywhere, said.place)
    token = table.get("token", table.get("token_id"))
    if (kind == "model_token") != (token is not None) or ("token" in table and "token_id" in table):
        chooser.problems.add(
            said.place, "`kind: model_token` needs one of `token` and `token_id`, and they need it"
        )
    reference = source.value
    if kind == "model_token":
        reference = table["model"].value if "model" in table else ""
    number = chooser.choose(reference_of(reference), said.place)
    return TokenRow(number, None if token is None else token.value, everywhere, said.place)


def reference_of(value: Any) -> str:
    """A model as text, ``path@revision+lora@revision``, from text or the long form."""
    if isinstance(value, str):
        return value
    if "path" in value:
        revision = f"@{value['revision'].value}" if "revision" in value else ""
        return f"{value['path'].value}{revision}"
    lora = f"+{reference_of(value['lora'].value)}" if "lora" in value else ""
    return reference_of(value["model"].value) + lora if "model" in value else ""
