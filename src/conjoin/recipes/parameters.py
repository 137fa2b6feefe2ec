"""Which parameters a method has, and what may stand for each in a recipe.

Read off the method's function: the annotation of a keyword says what it takes.
"""

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from conjoin.methods import METHODS, Method, Need, Within
from conjoin.recipes.forms import Form
from conjoin.recipes.scalar_forms import Choice, Flag, Number, Text, Whole
from conjoin.recipes.value_form import ValueForm

__all__ = ["parameter_forms", "per_model_parameters"]


def parameter_forms(method: Method | None) -> dict[str, ValueForm]:
    """Give the form of ``weight`` and of every parameter of a method.

    Args:
        method: whose; None for the parameters of all methods, where it is not known which is meant.

    >>> from conjoin.methods import find_method
    >>> list(parameter_forms(find_method("linear")))[0]
    'weight'
    """
    if method is None:
        found: dict[str, ValueForm] = {}
        for row in METHODS.values():
            for name, form in _forms(row).items():
                found[name] = _either(found.get(name, form), form)
        return found
    return _forms(method)


def _either(one: ValueForm, other: ValueForm) -> ValueForm:
    """What one of two methods takes as a parameter of one name."""
    first, second = one.scalar, other.scalar
    if isinstance(first, Choice) and isinstance(second, Choice):
        return ValueForm(Choice(tuple(dict.fromkeys(first.options + second.options)), first.what))
    if isinstance(first, Number) and isinstance(second, Number):
        return ValueForm(Number(min(first.low, second.low), max(first.high, second.high)))
    return one  # no two methods differ otherwise


def _forms(method: Method) -> dict[str, ValueForm]:
    forms = {"weight": ValueForm(Number())} if Need.WEIGHTS in method.needs else {}
    for name, default in method.defaults.items():
        forms[name] = ValueForm(_form(method.annotations.get(name, type(default)), name))
    return forms


def per_model_parameters(method: Method | None) -> frozenset[str]:
    """Give the names of what may differ between the models: ``weight``, and some parameters.

    >>> from conjoin.methods import find_method
    >>> sorted(per_model_parameters(find_method("ties")))
    ['density', 'weight']
    """
    if method is None:
        return frozenset().union(*(per_model_parameters(row) for row in METHODS.values()))
    return method.per_model | ({"weight"} if Need.WEIGHTS in method.needs else set())


def _form(annotation: Any, name: str) -> Form:
    """What one value of a parameter may be, in a recipe."""
    members, within = [annotation], None
    if get_origin(annotation) is Annotated:
        members = [get_args(annotation)[0]]
        within = next((part for part in get_args(annotation) if isinstance(part, Within)), None)
    if get_origin(members[0]) in (Union, UnionType):
        members = list(get_args(members[0]))
    for member in members:
        if get_origin(member) is Literal:
            return Choice(get_args(member), f"value of {name}")
    if bool in members:
        return Flag()
    if int in members and float not in members:
        return Whole()
    if str in members:
        return Text()
    return Number() if within is None else Number(within.low, within.high)
