"""Where the jetbatch binary is."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import List, Union

from .errors import BinaryMissing


def find() -> str:
    """The path of the binary: ``JETBATCH_BINARY``, the wheel's own, a clone's ``bin``, or the first on ``PATH``."""
    named = os.environ.get("JETBATCH_BINARY")
    if named:
        if not _runs(named):
            raise BinaryMissing(f"JETBATCH_BINARY is {named}, which cannot be run")
        return named
    here = Path(__file__).resolve().parent
    for path in (here / "bin" / "jetbatch", here.parent.parent / "bin" / "jetbatch"):
        if _runs(path):
            return str(path)
    for found in _on_path():
        if not _is_script(found):
            return found
    raise BinaryMissing(
        "the jetbatch binary is not here: install the package with `pip install ./python` and Go, which builds it in; "
        "or build it with `make build` in a clone; or name one with JETBATCH_BINARY"
    )


def _runs(path: Union[str, Path]) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _on_path() -> List[str]:
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return [found for folder in folders if (found := shutil.which("jetbatch", path=folder))]


def _is_script(path: str) -> bool:
    """The command that this package installs runs the binary and is not it."""
    with open(path, "rb") as f:
        return f.read(2) == b"#!"


def main() -> None:
    """The ``jetbatch`` command of the wheel: the binary, with this Python for data sets."""
    try:
        binary = find()
    except BinaryMissing as err:
        sys.exit(f"jetbatch: {err}")
    if not os.environ.get("JETBATCH_PYTHON_INTERPRETER"):  # the binary, too, takes an empty one for none
        os.environ["JETBATCH_PYTHON_INTERPRETER"] = sys.executable
    os.execv(binary, ["jetbatch", *sys.argv[1:]])
