"""The trainer's side."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import weakref
from types import TracebackType
from typing import Any, Dict, Iterator, List, Mapping, Optional, Type, Union

from . import errors
from ._ahead import Ahead
from ._args import AT_ONCE, number, parameters, patience, span, text
from ._bridge import Bridge
from ._progress import Progress
from ._state import State, to_wire
from ._step import Step
from ._world import World, as_wire

StateLike = Union[State, str, None]


class Batcher:
    """A handle on one named sequence of batches.

    One thread takes; others may ask for ``status``, ``stop`` and ``close``.
    """

    def __init__(
        self,
        bridge: Bridge,
        ahead: Ahead,
        name: str,
        progress: Optional[Progress] = None,
        world: Optional[World] = None,
    ) -> None:
        self._bridge = bridge
        self._ahead = ahead
        self._progress = progress
        self._closed = False
        self.name = name
        self.world = world

    def start(self, state: StateLike = None, timeout: Optional[float] = None) -> None:
        """Begins at ``state``; on a running batcher it warns and changes nothing. ``take`` starts by itself."""
        self._call("start", timeout, to_wire(_state(state)), withdraws=self._ahead.handle)

    def take(self, state: StateLike = None, timeout: Optional[float] = None) -> Step:
        """Returns the batch that follows ``state``, and the state after it. In order:

        - A failed run is its error, a :class:`JobError` where a job or the iterator is at fault, until ``start``.
        - If ``state`` is not the one that the batch before left, it warns and moves there.
        - At the end of the data it raises :class:`EndOfData`, for this state again and again.

        After ``timeout`` seconds it raises :class:`Unavailable`, which says what was waited for: None waits without
        end, as for every call, and 0 takes what is here. Nothing is lost then, nor by Ctrl-C.
        """
        position, timeout = _state(state), patience(timeout)
        if self._closed:
            raise errors.Closed(f"batcher {self.name}: the handle is closed")
        if self._progress is None:
            return self._bridge.take(self._ahead, position, timeout)
        began = self._progress.begin(self.name)
        step = self._bridge.take(self._ahead, position, timeout)
        self._progress.took(step.seq, began)
        return step

    def steps(self, state: StateLike = None, timeout: Optional[float] = None) -> Iterator[Step]:
        """Takes from ``state`` on, following ``next`` by itself, until the data ends. ``timeout`` is of each take.

        It refers to no step that it has handed out, so memory goes back when the loop's own names are bound anew.
        """
        position = _state(state)
        while True:
            try:
                held = [self.take(position, timeout)]
            except errors.EndOfData:
                return
            position = held[0].next
            yield held.pop()

    def status(self, timeout: Optional[float] = None) -> Dict[str, Any]:
        """How the batcher stands: what ``jetbatch status --json`` says of it."""
        status: Dict[str, Any] = json.loads(self._call("status", timeout)[2])
        return status

    def stop(self, timeout: Optional[float] = None) -> None:
        """Ends the run; ``take`` raises :class:`Stopped` until ``start``. Raises the error that the run had."""
        self._call("stop", timeout, withdraws=self._ahead.handle)

    def close(self) -> None:
        """Gives the batcher up, so that another process may hold it. The run is not stopped. Twice is fine.

        The other ranks of a world go on without this one. A rank that ends without it is lost for them.
        """
        if self._closed:
            return
        self._closed = True
        if self._progress is not None:
            self._progress.end()
        self._bridge.shut(self._ahead)

    def _call(self, op: str, timeout: Optional[float], *args: Any, withdraws: int = 0) -> List[Any]:
        if self._closed:
            raise errors.Closed(f"batcher {self.name}: the handle is closed")
        timeout = patience(timeout)
        return self._bridge.call(op, self._ahead.handle, timeout or 0.0, *args, timeout=timeout, withdraws=withdraws)

    def __enter__(self) -> "Batcher":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], err: Optional[BaseException], tb: Optional[TracebackType]
    ) -> None:
        try:
            self.close()
        except errors.Error:
            if kind is None:
                raise


class Service:
    """A connection to a service, by way of a bridge process that ends with it."""

    def __init__(
        self, bridge: Bridge, defaults: Optional[Mapping[str, Any]] = None, progress: Optional[Progress] = None
    ) -> None:
        self._bridge = bridge
        self._defaults = dict(defaults or {})
        self._progress = progress
        self._ranks: "weakref.WeakSet[Batcher]" = weakref.WeakSet()

    def open(
        self,
        name: str,
        *,
        dataset: str,
        params: Optional[Mapping[str, Any]] = None,
        window: int = 0,
        window_bytes: int = 0,
        retain: int = 0,
        idle_timeout: float = 0.0,
        take_over: bool = False,
        accept_change: bool = False,
        in_order: bool = False,
        world: Optional[World] = None,
        timeout: Optional[float] = None,
    ) -> Batcher:
        """Takes hold of the batcher ``name`` without starting it: another process can no longer.

        ``params`` are the data set's parameters. Zero is the default for the others: a window of 2 x worker slots + 1
        batches and at most 1 GiB; half of it retained, -1 for none; 600 s of idleness until the service forgets the
        batcher. ``accept_change`` lets a state of other parameters or data go on. ``in_order`` delivers the good
        batches before a bad one first, instead of failing at once. ``world`` says that this process is one of several
        ranks that take each batch together. Waits ``timeout`` seconds for a coordinator, without end by default. Raises
        :class:`BadConfig` for arguments that cannot work, :class:`BadParams` for parameters.
        """
        timeout = patience(timeout)
        request = {
            "name": text("name", name),
            "dataset": text("dataset", dataset),
            "params": parameters(self._defaults, params),
            "window": number("window", window),
            "window_bytes": number("window_bytes", window_bytes),
            "retain": number("retain", retain),
            "idle_timeout": span("idle_timeout", idle_timeout),
            "take_over": bool(take_over),
            "accept_change": bool(accept_change),
            "in_order": bool(in_order),
            "timeout": timeout or 0.0,
            "world": as_wire(world),
        }
        if self._progress is not None:
            self._progress.say(f"jetbatch {name}: {dataset} is opened")
        ahead = self._bridge.open(request, timeout)
        try:
            batcher = Batcher(self._bridge, ahead, name, self._progress, world)
            if world is not None:
                self._ranks.add(batcher)
            return batcher
        except BaseException:
            self._bridge.leave(ahead.handle)
            raise

    @property
    def pid(self) -> int:
        """The bridge's process id."""
        return self._bridge.pid

    def close(self) -> None:
        """Leaves every batcher and ends the bridge. Twice is fine."""
        for batcher in list(self._ranks):  # or the other ranks would take this one for killed
            with contextlib.suppress(errors.Error):
                batcher.close()
        if self._progress is not None:
            self._progress.end()
        self._bridge.close()

    def __enter__(self) -> "Service":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], err: Optional[BaseException], tb: Optional[TracebackType]
    ) -> None:
        self.close()


def connect(
    server: Optional[str] = None,
    *,
    memory: int = 0,
    creds: Optional[str] = None,
    nkey: Optional[str] = None,
    user: Optional[str] = None,
    password: Optional[str] = None,
    password_file: Optional[str] = None,
    tls_ca: Optional[str] = None,
    tls_cert: Optional[str] = None,
    tls_key: Optional[str] = None,
    inbox_prefix: Optional[str] = None,
    connect_timeout: float = 10.0,
) -> Service:
    """Connects to the service at ``server``, a NATS URL or several with commas between them.

    ``memory`` bounds the bytes of batches that the trainer keeps arrays of, beyond two of the largest: 1 GiB by
    default. What is not given is taken from the environment, as for the command line: ``JETBATCH_SERVER`` and so on.
    Raises :class:`Error` if the server does not answer within ``connect_timeout`` seconds, and :class:`BadConfig` for
    arguments that cannot work.
    """
    env = {
        "JETBATCH_SERVER": server,
        "JETBATCH_CREDS": creds,
        "JETBATCH_NKEY": nkey,
        "JETBATCH_USER": user,
        "JETBATCH_PASSWORD": password,
        "JETBATCH_PASSWORD_FILE": password_file,
        "JETBATCH_TLS_CA": tls_ca,
        "JETBATCH_TLS_CERT": tls_cert,
        "JETBATCH_TLS_KEY": tls_key,
        "JETBATCH_INBOX_PREFIX": inbox_prefix,
        "JETBATCH_CONNECT_TIMEOUT": f"{max(span('connect_timeout', connect_timeout), AT_ONCE):f}s",
    }
    return Service(Bridge(_args(memory), {k: os.fspath(v) for k, v in env.items() if v is not None}))


def _args(memory: int) -> List[str]:
    level = "warn"
    if logging.getLogger("jetbatch").isEnabledFor(logging.INFO):
        level = "info"
    return ["--log-level", level, "--memory", str(number("memory", memory))]


def _state(state: StateLike) -> State:
    if state is None:
        return State()
    if isinstance(state, str):
        return State.parse(state)
    if isinstance(state, State):
        return state
    raise TypeError(f"a state is a jetbatch.State, its text, or None for the first, not {type(state).__name__}")

