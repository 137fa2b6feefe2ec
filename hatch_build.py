"""Compile the C of src/conjoin/compiled where there is a compiler; else conjoin uses torch alone.

A plain shared library, without Python's own interface, so that one file serves every version of
Python. Of x86-64 there is one for each set of instructions that torch has vectors of.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import zlib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("src/conjoin/compiled")
# No operation may be fused or reordered that torch does not fuse or reorder. That errno is not set
# and nobody looks at exceptions changes no number, and is what lets comparisons become vectors.
FLAGS = [
    *("-O3", "-std=c11", "-shared", "-fPIC", "-funroll-loops"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
]
X86 = {
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "avx2": ["-march=x86-64-v3"],
}


class CustomBuildHook(BuildHookInterface[Any]):
    """Adds what could be compiled to a wheel, or to the folder of an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say which files are there; an editable installation finds them in place."""
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        made = [path for kind, flags in kinds().items() if (path := compiled(root, kind, flags))]
        if made and version != "editable":
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().translate(_UNDERSCORES)}"
            build_data["force_include"].update(
                {str(path): f"conjoin/compiled/{path.name}" for path in made}
            )


_UNDERSCORES = str.maketrans("-.", "__")


def kinds() -> dict[str, list[str]]:
    """Give the libraries for this machine, as `conjoin.compiled.library` looks for them."""
    if sys.platform not in ("linux", "darwin"):
        return {}
    return X86 if platform.machine().lower() in ("x86_64", "amd64") else {"generic": []}


def compiled(root: Path, kind: str, flags: list[str]) -> Path | None:
    """Compile a library; None if that cannot be done, which is no error."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    sources, target = (
        sorted((root / FOLDER).glob("[!.]*.[ch]")),
        root / FOLDER / f"native-{kind}.bin",
    )
    target.unlink(missing_ok=True)
    if compiler is None:
        print(f"conjoin: no C compiler; {target.name} is left out, and torch does its work")
        return None
    # Whoever loads it compares this with the sources that lie beside it.
    own = f"-DSOURCE={zlib.crc32(b''.join(path.read_bytes() for path in sources))}u"
    files = [str(path) for path in sources if path.suffix == ".c"]
    command = [compiler, *FLAGS, *flags, own, "-o", str(target), *files, "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"conjoin: {target.name} is left out, and torch does its work: {done.stderr}")
        target.unlink(missing_ok=True)
        return None
    return target
