"""Commands that compute with torch, which takes most of the time of a short one to import."""

import gc
from typing import Any

from typer.core import TyperCommand

from conjoin.deferred import has_torch, import_torch

__all__ = ["ComputingCommand", "put_aside"]


class ComputingCommand(TyperCommand):
    """A command that imports torch once its arguments are read, so that help is quick."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        if not has_torch():
            import_torch()
            put_aside()
        return super().invoke(ctx)


def put_aside() -> None:
    """Never look for garbage among what is there now, all of which stays.

    Python would look through the objects of torch again and again, and in each copy of the process,
    which would have its own of their memory then.
    """
    gc.freeze()
