"""The whole service beside the trainer, for a laptop or a notebook."""

from __future__ import annotations

import os
import sys
from typing import Any, Dict, Mapping, Optional, Type, Union

from ._args import number
from ._bridge import Bridge
from ._client import Service, _args
from ._progress import Progress, watched
from .dataset import Dataset
from .errors import BadConfig

Where = Union[str, Type[Dataset]]


def embedded(
    data: Optional[str] = None,
    *,
    python: Optional[Mapping[str, Where]] = None,
    slots: int = 0,
    memory: int = 0,
    quiet: bool = False,
) -> Service:
    """Runs server, coordinator and a worker in a process that ends with this one; nothing listens on a port.

    ``data`` is the folder of the recordings, the parameter ``dir`` of every batcher that is opened without one.
    ``python`` has data sets in Python, by name: classes of importable modules, or ``"module:Class"``. ``slots`` batches
    are materialized at a time, one per CPU by default; ``memory`` is as for :func:`jetbatch.connect`. Where standard
    error is a terminal or a notebook, a line there says how fast batches come and for how much of the time the trainer
    waits for them, unless ``quiet``.
    """
    args = ["--beside", "--slots", str(number("slots", slots)), *_args(memory)]
    args += [f"--python={name}={_where(kind)}" for name, kind in (python or {}).items()]
    path = os.pathsep.join([p or os.getcwd() for p in sys.path if os.path.exists(p or ".")])
    env = {"JETBATCH_PYTHON_INTERPRETER": sys.executable, "PYTHONPATH": path}
    defaults: Dict[str, Any] = {} if data is None else {"dir": os.path.abspath(data)}
    out = None if quiet else watched()
    progress = Progress(out) if out is not None else None
    if progress is not None:
        progress.say("jetbatch: the service starts")
    try:
        return Service(Bridge(args, env), defaults, progress)
    except BaseException:
        if progress is not None:
            progress.end()
        raise


def _where(kind: Where) -> str:
    if isinstance(kind, str):
        return kind
    if not isinstance(kind, type):
        raise BadConfig(f'a data set is a class, or named "module:Class", not {kind!r}')
    if kind.__module__ == "__main__":
        raise BadConfig(
            f"{kind.__qualname__} is defined in the program itself, or a notebook: move it to a module, "
            "so that other processes can import it"
        )
    return f"{kind.__module__}:{kind.__qualname__}"
