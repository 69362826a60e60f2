"""A data set's process: ``python -m jetbatch.serve MODULE:CLASS``, started by a coordinator or worker.

It speaks the local protocol on descriptor 3 and writes batches to the memory of descriptor 4: docs/BRIDGE.md.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import time
import traceback
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Type

from . import dataset, errors
from ._codec import pack, unpack
from ._payload import Region
from ._state import MAX_STATE
from ._version import __version__
from ._wire import PROTOCOL, Ended, Frames

SOCKET = 3
MEMORY = 4

# Bounds on what is iterated ahead in one answer.
_AHEAD_TIME = 0.002
_AHEAD_BYTES = 1 << 16

_MAX_TEXT = 8 << 10
_MAX_STACK = 32 << 10


def load(where: str) -> Type[dataset.Dataset]:
    """The class of ``MODULE:CLASS``, which is looked for in the working folder, too."""
    module, _, name = where.partition(":")
    if not module or not name:
        raise errors.BadConfig(f"a data set is named MODULE:CLASS, not {where!r}")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    kind: Any = importlib.import_module(module)
    for part in name.split("."):
        kind = getattr(kind, part)
    for method in ("next", "materialize"):
        if not callable(getattr(kind, method, None)):
            raise errors.BadConfig(f"{where} has no {method}: see jetbatch.Dataset")
    if not 0 <= int(getattr(kind, "version", 1)) < 1 << 32:
        raise errors.BadConfig(f"{where} is of version {kind.version}: versions have 32 bits")
    found: Type[dataset.Dataset] = kind
    return found


class Opened:
    """A data set on bytes."""

    def __init__(self, kind: Callable[[Mapping[str, Any]], Any], params: str) -> None:
        self.data = kind(json.loads(params) if params else {})

    def start(self) -> bytes:
        """The first state."""
        start = getattr(self.data, "start", None)
        if start is None or getattr(start, "__func__", None) is dataset.Dataset.start:
            raise _NoStart("the data set has no start, so a state must be given")
        return _state(start())

    def fingerprint(self) -> Optional[Dict[str, Any]]:
        """What the data set says of its data."""
        said = getattr(self.data, "fingerprint", lambda: None)()
        if said is None:
            return None
        return {
            "digest": str(said.digest),
            "parts": [[str(name), str(value)] for name, value in said.parts.items()],
            "ignore": [str(name) for name in said.ignore],
            "summary": str(said.summary),
        }

    def step(self, state: bytes) -> Tuple[bytes, bytes]:
        """The job after a state, and the state after it."""
        try:
            value = unpack(state)
        except errors.StateNotCanonical as err:
            raise errors.WrongState(str(err)) from None
        job, following = self.data.next(value)
        return pack(job), _state(following)

    def steps(self, state: bytes, most: int) -> List[Tuple[bytes, bytes]]:
        """Some steps. What goes wrong after the first is found out again when it is asked for."""
        until = time.monotonic() + _AHEAD_TIME
        steps = [self.step(state)]
        size = 0
        while len(steps) < most and size < _AHEAD_BYTES and time.monotonic() < until:
            size += sum(map(len, steps[-1]))
            try:
                steps.append(self.step(steps[-1][1]))
            except Exception:
                break
        return steps

    def progress(self, state: bytes) -> Optional[Tuple[int, int, int, int]]:
        """How far a state is: epoch, epochs, batch, batches."""
        said = getattr(self.data, "progress", lambda _: None)(unpack(state))
        if said is None:
            return None
        place = int(said.epoch), int(said.epochs), int(said.batch), int(said.batches)
        if min(place) < 0:
            raise ValueError(f"progress says {said}: numbers of batches and epochs are not negative")
        return place

    def materialize(self, job: bytes) -> Mapping[str, Any]:
        """The batch of a job."""
        batch: Mapping[str, Any] = self.data.materialize(unpack(job))
        return batch

    def close(self) -> None:
        """Closes the data set."""
        close = getattr(self.data, "close", None)
        if close is not None:
            close()


class _NoStart(errors.Error):
    code = "no_start"


def _state(value: Any) -> bytes:
    data = pack(value)
    if len(data) > MAX_STATE:
        raise errors.StateTooLarge(
            f"{len(data)} bytes encoded, at most {MAX_STATE}: keep a seed and an index, not the data"
        )
    return data


class Server:
    """Answers one request after another."""

    def __init__(self, kind: Type[dataset.Dataset], frames: Frames, region: Region) -> None:
        self._kind = kind
        self._frames = frames
        self._region = region
        self._opened: Dict[int, Opened] = {}

    def run(self) -> None:
        """Answers until the other side ends."""
        self._frames.write((0, "hello", PROTOCOL, __version__, int(getattr(self._kind, "version", 1))))
        while True:
            request: List[Any] = []
            self._frames.read(request.extend)
            try:
                answer: Tuple[Any, ...] = ("ok", *self._answer(request[1], request[2], *request[3:]))
            except StopIteration:
                answer = ("end",)
            except BaseException as err:  # SystemExit, too: it is the data set's, not this process's
                answer = ("error", _fault(err))
            self._frames.write((request[0], *answer))

    def _answer(self, op: str, handle: int, *args: Any) -> Tuple[Any, ...]:
        if op == "open":
            self._opened[handle] = Opened(self._kind, args[0])
            return ()
        opened = self._opened[handle]
        if op == "fingerprint":
            return (_no_end(opened.fingerprint),)
        if op == "start":
            return (_no_end(opened.start),)
        if op == "next":
            return (opened.steps(args[0], args[1]),)
        if op == "progress":
            return (_no_end(lambda: opened.progress(args[0])),)
        if op == "materialize":
            dataset._traceparent = args[1]
            return (_no_end(lambda: self._region.write(opened.materialize(args[0]))),)
        if op == "close":
            self._opened.pop(handle).close()
            return ()
        raise errors.BadRequest(f"unknown request {op!r}")


def _no_end(call: Callable[[], Any]) -> Any:
    """The result of a call that cannot end the data: an exhausted iterator there is a mistake."""
    try:
        return call()
    except StopIteration as err:
        raise RuntimeError("StopIteration, which only next may raise") from err


def _fault(err: BaseException) -> Dict[str, Any]:
    code = err.code if isinstance(err, errors.Error) else "error"
    if isinstance(err, errors.StateNotCanonical):
        code = "permanent"
    text = (
        str(err) if isinstance(err, dataset.Skip) else "".join(traceback.format_exception_only(type(err), err)).strip()
    )
    stack = "".join(traceback.format_exception(type(err), err, err.__traceback__))
    fault: Dict[str, Any] = {"code": code, "message": _clip(text, _MAX_TEXT), "stack": _clip(stack, _MAX_STACK)}
    if isinstance(err, OSError) and err.errno:
        fault["errno"] = err.errno
        if isinstance(err.filename, (str, bytes)):
            fault["path"] = os.path.abspath(os.fsdecode(err.filename)).encode(errors="replace").decode()
    return fault


def _clip(text: str, most: int) -> str:
    return text.encode(errors="replace")[:most].decode(errors="ignore")


def main() -> None:
    """Serves the class that the command line names."""
    if len(sys.argv) != 2 or os.environ.get("JETBATCH_PROTOCOL") != str(PROTOCOL):
        sys.exit("usage: started by jetbatch worker --python NAME=MODULE:CLASS, of the same version")
    os.set_inheritable(SOCKET, False)
    os.set_inheritable(MEMORY, False)
    sock = socket.socket(fileno=SOCKET)
    server = Server(load(sys.argv[1]), Frames(sock), Region(MEMORY))
    try:
        server.run()
    except (Ended, ConnectionError):
        pass  # the worker needs it no longer, or is no more


if __name__ == "__main__":
    main()
