"""Every error that conjoin raises on purpose.

    ConjoinError
    ├── InputError (ValueError)       an argument, option or pattern cannot be used as given
    │   ├── MethodError               ... a method of merging, its weights or its parameters
    │   └── RecipeError               ... a recipe, with every problem in it and its line
    ├── MismatchError (ValueError)    models that do not fit together: names, shapes, dtypes, ties
    ├── NonFiniteError (ValueError)   NaN or infinity where finite numbers are needed
    ├── CheckpointError (ValueError)  a file or mapping that cannot be read as named tensors
    ├── OutputExistsError (FileExistsError)   a result would replace something; nothing was written
    ├── DataError (ValueError)        a data set that is missing, malformed, or does not fit
    ├── TrainingError (RuntimeError)  a network that did not learn
    ├── TraceError (ValueError)       a model whose operations cannot be recorded
    ├── StageError (RuntimeError)     a cached stage that cannot be used, or is in use
    └── UserCodeError (RuntimeError)  code that the user named has raised

and two warnings (UserWarning): `StabilityWarning`, a training that will diverge as it was set up,
and `StructureWarning`, models whose tensors fit together and whose code does not.

A message says what was expected, what was found (which tensor, in which file), and what to do.
Each class also derives from the built-in exception that a reader would expect to catch.
"""

__all__ = [
    "CheckpointError",
    "ConjoinError",
    "DataError",
    "InputError",
    "MethodError",
    "MismatchError",
    "NonFiniteError",
    "OutputExistsError",
    "RecipeError",
    "StabilityWarning",
    "StageError",
    "StructureWarning",
    "TraceError",
    "TrainingError",
    "UserCodeError",
]


class ConjoinError(Exception):
    """Base of all errors that conjoin raises on purpose."""


class InputError(ConjoinError, ValueError):
    """An argument, option or pattern cannot be used as given."""


class MethodError(InputError):
    """A method of merging, its weights or its parameters cannot be used as given."""


class RecipeError(InputError):
    """A recipe cannot be used as written; the message has every problem with its line."""


class MismatchError(ConjoinError, ValueError):
    """Models that do not fit together: names, shapes, dtypes or ties differ."""


class NonFiniteError(ConjoinError, ValueError):
    """NaN or infinity where finite numbers are needed."""


class CheckpointError(ConjoinError, ValueError):
    """A file or mapping that cannot be read as named tensors."""


class OutputExistsError(ConjoinError, FileExistsError):
    """A result would replace something that exists; nothing was written."""


class DataError(ConjoinError, ValueError):
    """A data set that is missing, malformed, or does not fit the model."""


class TrainingError(ConjoinError, RuntimeError):
    """A network that did not learn, so that a table of it would say nothing."""


class TraceError(ConjoinError, ValueError):
    """A model whose operations cannot be recorded, since they depend on values."""


class StageError(ConjoinError, RuntimeError):
    """A cached stage that cannot be used, or that another run is writing."""


class UserCodeError(ConjoinError, RuntimeError):
    """Code that the user named has raised; the message has its own traceback."""


class StabilityWarning(UserWarning):
    """A training that will diverge as it was set up."""


class StructureWarning(UserWarning):
    """Models whose tensors fit together, but whose layers do not compute the same with them."""
