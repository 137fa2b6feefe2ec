"""Commands that compute with torch, which takes most of the time of a short one to import."""

import gc
import sys
from typing import Any

from typer.core import TyperCommand

__all__ = ["ComputingCommand", "import_torch"]


class ComputingCommand(TyperCommand):
    """A command that imports torch once its arguments are read, so that help is quick."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        import_torch()
        return super().invoke(ctx)


def import_torch() -> None:
    """Import torch, and do not look for garbage meanwhile.

    The import makes some 300,000 objects, all of which stay. Python would look through them again
    and again, for a tenth of the time (measured); and later too, were they not put aside. Copies of
    the process then share them.
    """
    if "torch" in sys.modules:
        return
    looks = gc.isenabled()
    gc.disable()
    try:
        import torch  # noqa: F401 - for its effect
    finally:
        if looks:
            gc.enable()
    gc.freeze()
