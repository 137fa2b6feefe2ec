"""Commands that compute with torch, which takes most of the time of a short one to import."""

import gc
from typing import Any

from typer.core import TyperCommand

from conjoin.deferred import has_torch, import_torch

__all__ = ["ComputingCommand"]


class ComputingCommand(TyperCommand):
    """A command that imports torch once its arguments are read, so that help is quick."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        if not has_torch():
            import_torch()
            # Python would look for garbage among the objects of torch again and again.
            gc.freeze()
        return super().invoke(ctx)
