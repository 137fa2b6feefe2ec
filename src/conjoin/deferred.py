"""Torch, which is imported when something of it is first asked for.

Importing it takes nearly a second, and much can be said and done without it: what is in a file,
what a recipe means, and all of a merge whose tensors go from files to a file.
"""

from __future__ import annotations

import gc
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

__all__ = ["has_torch", "import_torch", "torch", "torch_version"]

if TYPE_CHECKING:
    import torch
else:

    class _Torch:
        def __getattr__(self, name: str) -> Any:
            if not has_torch():
                import_torch()
            import torch  # another thread may be at it, for which this waits

            return getattr(torch, name)

    torch = _Torch()


def has_torch() -> bool:
    """Say whether torch is there already."""
    return "torch" in sys.modules


def import_torch() -> None:
    """Import torch, and do not look for garbage meanwhile.

    The import makes some 300,000 objects, all of which stay. Python would look through them again
    and again, for a tenth of the time (measured).
    """
    looks = gc.isenabled()
    gc.disable()
    try:
        import torch  # noqa: F401 - for its effect
    finally:
        if looks:
            gc.enable()


def torch_version() -> str:
    """Give the version of torch.

    >>> torch_version() == torch.__version__
    True
    """
    found = None if has_torch() else find_spec("torch")
    if found is not None and found.origin is not None:
        try:
            text = Path(found.origin).with_name("version.py").read_text("utf-8")
        except OSError:
            text = ""
        if said := re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE):
            return said[1]
    return str(torch.__version__)
