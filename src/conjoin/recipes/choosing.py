"""Models that a recipe chooses by name or number, and the vocabulary of the result."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from conjoin.recipes.forms import Found
from conjoin.recipes.problems import Place, Problems, unknown
from conjoin.recipes.recipe import BASE, UNION, ZERO, Recipe, Source, TokenRow, Vocabulary
from conjoin.recipes.tokens import is_text

__all__ = ["checked_vocabulary", "choose", "default_name", "label_of", "read_vocabulary"]

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_NOTHING: Found[Any] = Found(None, Place())
_MOST = 1 << 16
"""Of what the number of rows may be a multiple."""

Read = Mapping[str, Found[Any]]


def default_name(reference: str) -> str:
    """Give the last component of a reference, without revision, adapter and suffix.

    >>> default_name("org/tuned@main+org/lora"), default_name("../runs/a.safetensors")
    ('tuned', 'a')
    """
    path = reference.split("+")[0].split("@")[0].rstrip("/")
    last = path.rpartition("/")[2]
    suffix = next((suffix for suffix in _SUFFIXES if last.endswith(suffix)), "")
    return last.removesuffix(suffix) or last


def label_of(recipe: Recipe, which: int | str) -> str:
    """Give what a model is called in messages: by its reference, as it is written.

    Args:
        recipe: of which.
        which: its number, or BASE.
    """
    source = recipe.base if which == BASE else recipe.sources[int(which)]
    name = "the base" if which == BASE else f"model {which}"
    return f"{name} ({source.reference})" if source is not None else name


def choose(
    chosen: str | int,
    sources: Sequence[Source],
    base: Source | None,
    place: Place,
    problems: Problems,
) -> int | Literal["base"]:
    """Give the number of a model by its name or number; BASE for the base."""
    if chosen == BASE:
        if base is None:
            problems.add(place, "'base' is chosen, but the recipe has no base")
        return BASE
    if isinstance(chosen, int):
        if not 0 <= chosen < len(sources):
            problems.add(place, f"there is no model {chosen}; they are 0 to {len(sources) - 1}")
        return chosen
    exact = [i for i, s in enumerate(sources) if chosen in (s.name, s.reference)]
    if len(exact) == 1:
        return exact[0]
    if len(exact) > 1 or chosen in [default_name(s.reference) for s in sources]:
        problems.add(place, f"{chosen!r} could be more than one model; give them names (name: ...)")
        return 0
    known = [s.name for s in sources if s.name is not None]
    problems.add(place, unknown("model", chosen, [*known, *([BASE] if base else [])]))
    return 0


def read_vocabulary(
    found: Found[Any] | None,
    sources: Sequence[Source],
    base: Source | None,
    problems: Problems,
) -> Vocabulary | None:
    """Give what a recipe says of its vocabulary.

    Args:
        found: what stands there; None for nothing.
        sources: the models.
        base: the base.
        problems: where to note what does not fit.
    """
    if found is None:
        return None
    table: Read = found.value if isinstance(found.value, Mapping) else {"of": found}
    of = table.get("of")
    if of is None:
        return None  # which was noted

    def chosen_by(chosen: Found[Any]) -> int | Literal["base"]:
        return choose(chosen.value, sources, base, chosen.place, problems)

    def row_of(said: Found[Any]) -> TokenRow:
        own: Read = said.value if isinstance(said.value, Mapping) else {"from": said}
        source = own.get("from", Found(0, said.place))
        taken = own.get("token", own.get("row", _NOTHING)).value
        if "token" in own and "row" in own:
            problems.add(said.place, "`token` and `row` both say which row is meant; leave out one")
        if source.value == ZERO and taken is not None:
            problems.add(said.place, "a row of zeros is of no token; leave out `token` and `row`")
        everywhere = own.get("everywhere", Found(False, said.place)).value
        named = {one.name for one in sources}
        number = None if source.value == ZERO not in named else chosen_by(source)
        return TokenRow(number, taken, everywhere, said.place)

    tokens: Read = table.get("tokens", _NOTHING).value or {}
    whose = UNION if of.value == UNION else chosen_by(of)
    multiple = table.get("multiple", Found(1, found.place))
    vocabulary = Vocabulary(
        of=whose,
        tokens={token: row_of(said) for token, said in tokens.items()},
        multiple=multiple.value,
        tensors=tuple(one.value for one in table.get("tensors", _NOTHING).value or ()),
        place=found.place,
    )
    return checked_vocabulary(vocabulary, problems)


def checked_vocabulary(vocabulary: Vocabulary, problems: Problems) -> Vocabulary:
    """Note a number of rows that is out of range, and tokens that no file can hold."""
    if not 1 <= vocabulary.multiple <= _MOST:
        problems.add(
            vocabulary.place, f"rows to a multiple of: expected a whole number from 1 to {_MOST}"
        )
    for token in vocabulary.tokens:
        if not is_text(token):
            problems.add(vocabulary.place, f"{token!r} is no text that a file can hold")
    return vocabulary
