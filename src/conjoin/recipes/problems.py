"""Where something stands in a recipe, and what is wrong there: all problems at once."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NoReturn

from conjoin.checkpoints import closest_name
from conjoin.errors import ConjoinError, RecipeError

__all__ = ["Place", "Problems", "unknown"]


@dataclass(frozen=True, order=True)
class Place:
    """A place in a recipe, for messages.

    Args:
        path: of the file, as it was given; empty for a recipe that was not read from a file.
        line: of the file, counted from 1; 0 for a recipe that was not read from a file.
        column: of the line, counted from 1.
        key: the keys that lead there: ``models[1].density``.

    >>> str(Place("recipe.yml", 12, 3, "models[1].density"))
    'recipe.yml:12'
    >>> str(Place(key="models[1].density"))
    'models[1].density'
    """

    path: str = ""
    line: int = 0
    column: int = 0
    key: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"{self.path}:{self.line}" if self.line else self.path
        return self.key or "the recipe"


@dataclass
class Problems:
    """What is wrong with a recipe, collected while it is read.

    >>> problems = Problems("recipe.yml")
    >>> problems.add(Place("recipe.yml", 3), "unknown key 'bsae'")
    >>> problems.raise_if_any()
    Traceback (most recent call last):
    conjoin.errors.RecipeError: recipe.yml:3: unknown key 'bsae'
    """

    source: str
    _found: list[tuple[Place, str]] = field(default_factory=list)
    _told: list[tuple[Place, str]] = field(default_factory=list)

    def add(self, place: Place, text: str) -> None:
        """Note a problem. The same one at the same place counts once (aliases lead there twice)."""
        if (place, text) not in self._found:
            self._found.append((place, text))

    def take(self, place: Place, error: ConjoinError) -> None:
        """Note an error that was raised; one of a recipe says itself where it is."""
        if isinstance(error, RecipeError):
            self._told.append((place, str(error)))
        else:
            self.add(place, str(error))

    def __len__(self) -> int:
        return len(self._found) + len(self._told)

    def raise_if_any(self) -> None:
        """Raise one error that has every problem, in the order of the lines.

        Raises:
            RecipeError: something was noted.
        """
        if not len(self):
            return
        # Without lines the order in which they were found is the order of the recipe.
        told = [(place, f"{place}: {text}") for place, text in self._found] + self._told
        lines = [text for _, text in sorted(told, key=_line)]
        if len(lines) == 1:
            raise RecipeError(lines[0])
        what = self.source or "the recipe"
        raise RecipeError("\n".join([f"{what} has {len(lines)} problems:", *lines]))

    def stop(self, place: Place, text: str) -> NoReturn:
        """Note a problem beyond which nothing can be read, and raise."""
        self.add(place, text)
        self.raise_if_any()
        raise AssertionError("a problem was noted")


def _line(found: tuple[Place, str]) -> tuple[int, int]:
    return found[0].line, found[0].column


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Say that a name is unknown, which is the closest, and which are allowed.

    >>> unknown("key", "densty", ["density", "weight"])
    "unknown key 'densty'; did you mean 'density'? Allowed here: density, weight"
    """
    names = list(known)
    close = closest_name(name, names)
    hint = "." if close is None else f"; did you mean {close!r}?"
    return f"unknown {what} {name!r}{hint} Allowed here: {', '.join(names) or 'none'}"
