"""Combine the weights of trained neural networks, and see whether the combination works.

    import conjoin

    merged = conjoin.merge([a, b])                              # one network, same class
    merged = conjoin.reestimate_batchnorm(merged, loader_a, loader_b)
    conjoin.evaluate({"a": a, "b": b, "merged": merged}, {"mnist": test_a, "svhn": test_b})

Names are imported when they are used, so that ``import conjoin`` does not wait for torch. No
module is called as a public function is: importing it would put the module in the function's place.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conjoin.alignment import align
    from conjoin.checkpoints import Checkpoint, Kind, Spec, open_checkpoint, save
    from conjoin.comparison import compare
    from conjoin.coupling import Coupling
    from conjoin.errors import ConjoinError
    from conjoin.evaluation import evaluate
    from conjoin.fitting import merge_with_data, route
    from conjoin.merging import merge
    from conjoin.records import Record
    from conjoin.repairing import needs_reestimation, reestimate_batchnorm, repair
    from conjoin.report import write_report
    from conjoin.sweeping import continuum
    from conjoin.symmetry import find_symmetries

__all__ = [
    "Checkpoint",
    "ConjoinError",
    "Coupling",
    "Kind",
    "Record",
    "Spec",
    "__version__",
    "align",
    "compare",
    "continuum",
    "evaluate",
    "find_symmetries",
    "merge",
    "merge_with_data",
    "needs_reestimation",
    "open_checkpoint",
    "reestimate_batchnorm",
    "repair",
    "route",
    "save",
    "write_report",
]

__version__ = "0.1.0"

_HOMES = {
    "Checkpoint": "conjoin.checkpoints",
    "ConjoinError": "conjoin.errors",
    "Coupling": "conjoin.coupling",
    "Kind": "conjoin.checkpoints",
    "Record": "conjoin.records",
    "Spec": "conjoin.checkpoints",
    "align": "conjoin.alignment",
    "compare": "conjoin.comparison",
    "continuum": "conjoin.sweeping",
    "evaluate": "conjoin.evaluation",
    "find_symmetries": "conjoin.symmetry",
    "merge": "conjoin.merging",
    "merge_with_data": "conjoin.fitting",
    "needs_reestimation": "conjoin.repairing",
    "open_checkpoint": "conjoin.checkpoints",
    "reestimate_batchnorm": "conjoin.repairing",
    "repair": "conjoin.repairing",
    "route": "conjoin.fitting",
    "save": "conjoin.checkpoints",
    "write_report": "conjoin.report",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    if not name.startswith("_"):
        try:
            return import_module(f"conjoin.{name}")  # as `conjoin.measure`, without an import of it
        except ModuleNotFoundError as error:
            if error.name != f"conjoin.{name}":
                raise
    raise AttributeError(f"module 'conjoin' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
