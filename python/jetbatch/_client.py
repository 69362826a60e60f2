"""The trainer's side."""

from __future__ import annotations

import json
import logging
import os
from types import TracebackType
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Type, Union

import msgpack
import numpy as np
import numpy.typing as npt

from . import errors
from ._bridge import Bridge, Bytes
from ._state import State

Array = npt.NDArray[Any]
StateLike = Union[State, str, None]

DTYPES: Tuple[Optional["np.dtype[Any]"], ...] = (
    None,
    *(np.dtype(name) for name in ("?", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8", "<f4", "<f8")),
)
"""The element types of tensors, by their numbers in a payload."""


class Timing(NamedTuple):
    """Where the time of a batch went, in seconds. Each field is described in the Go package ``schema``."""

    iterate: float
    queue: float
    materialize: float
    transfer: float
    wait: float
    trainer: float
    wait_iterate: float
    wait_queue: float
    wait_materialize: float
    wait_transfer: float
    wait_other: float


class _Tensor(NamedTuple):
    dtype: "np.dtype[Any]"
    shape: Tuple[int, ...]
    offset: int


class _Layout:
    """What the header of a payload says. Batches of one run mostly have the same."""

    def __init__(self, payload: Bytes) -> None:
        unpacker = msgpack.Unpacker(raw=False, max_buffer_size=1 << 20)
        unpacker.feed(payload[: 1 << 20].tobytes())
        self.tensors: Dict[str, _Tensor] = {}
        for name, dtype, shape, offset, _ in unpacker.unpack():
            kind = DTYPES[dtype]
            assert kind is not None
            self.tensors[name] = _Tensor(kind, tuple(shape), offset)
        self.header = payload[: unpacker.tell()].tobytes()

    def fits(self, payload: Bytes) -> bool:
        return payload[: len(self.header)].tobytes() == self.header


class Step(Mapping[str, Array]):
    """One batch and its place in the sequence: a mapping from names of tensors to read-only arrays.

    The arrays are views of memory shared with the bridge. They stay valid, and that memory in use, as long as the step,
    or any array of it, or made of one without a copy, is referred to.
    """

    __slots__ = ("seq", "prev", "next", "worker", "attempt", "deliveries", "trace", "_times", "_root", "_layout")

    def __init__(self, reply: List[Any], prev: State, root: Bytes, layout: _Layout) -> None:
        (_, _, _, _, _, _, self.seq, following, self._times, self.worker, self.attempt, self.deliveries, self.trace) = reply
        self.prev = prev
        self.next = _state_of_wire(following)
        self._root: Optional[Bytes] = root
        self._layout = layout

    @property
    def timing(self) -> Timing:
        """Where the time went."""
        return Timing(*(ns / 1e9 for ns in self._times))

    def __getitem__(self, name: str) -> Array:
        root = self._root
        if root is None:
            raise errors.Released(f"batch {self.seq} was released")
        t = self._layout.tensors[name]
        return np.ndarray(t.shape, t.dtype, root, t.offset)

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout.tensors)

    def __len__(self) -> int:
        return len(self._layout.tensors)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        tensors = ", ".join(f"{n}: {t.dtype.name}{list(t.shape)}" for n, t in self._layout.tensors.items())
        return f"Step(seq={self.seq}, {tensors}{'' if self._root is not None else ', released'})"

    @property
    def nbytes(self) -> int:
        """The size of the batch's payload."""
        return 0 if self._root is None else self._root.nbytes

    def release(self) -> None:
        """Gives the memory back, as soon as no array of it is referred to any more.

        Asking the step for a tensor is an error then. Twice is fine.
        """
        self._root = None


class Batcher:
    """A handle on one named sequence of batches.

    One thread takes; others may ask for ``status``, ``stop`` and ``close``.
    """

    def __init__(self, bridge: Bridge, handle: int, name: str) -> None:
        self._bridge = bridge
        self._handle = handle
        self._layout: Optional[_Layout] = None
        self._closed = False
        self.name = name

    def start(self, state: StateLike = None, timeout: Optional[float] = None) -> None:
        """Begins at ``state``; on a running batcher it warns and changes nothing. ``take`` starts by itself."""
        self._call("start", timeout, _wire_state(_state(state)), withdraws=self._handle)

    def take(self, state: StateLike = None, timeout: Optional[float] = None) -> Step:
        """Returns the batch that follows ``state``, and the state after it. In order:

        - A failed run is its error, a :class:`JobError` where a job or the iterator is at fault, until ``start``.
        - If ``state`` is not the one that the batch before left, it warns and moves there.
        - At the end of the data it raises :class:`EndOfData`, for this state again and again.

        After ``timeout`` seconds it raises :class:`Unavailable`, which says what was waited for. Nothing is lost then,
        nor by Ctrl-C.
        """
        prev = _state(state)
        if self._closed:
            raise errors.Closed(f"batcher {self.name}: the handle is closed")
        reply, root = self._bridge.take(self._handle, _wire_state(prev), timeout)
        layout = self._layout
        if layout is None or not layout.fits(root):
            self._layout = layout = _Layout(root)
        return Step(reply, prev, root, layout)

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
        self._call("stop", timeout, withdraws=self._handle)

    def close(self) -> None:
        """Gives the batcher up, so that another process may hold it. The run is not stopped. Twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._bridge.call("close", self._handle, 0.0, withdraws=self._handle)

    def _call(self, op: str, timeout: Optional[float], *args: Any, withdraws: int = 0) -> List[Any]:
        if self._closed:
            raise errors.Closed(f"batcher {self.name}: the handle is closed")
        return self._bridge.call(op, self._handle, timeout or 0.0, *args, timeout=timeout, withdraws=withdraws)

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

    def __init__(self, bridge: Bridge, defaults: Optional[Mapping[str, Any]] = None) -> None:
        self._bridge = bridge
        self._defaults = dict(defaults or {})

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
        timeout: Optional[float] = None,
    ) -> Batcher:
        """Takes hold of the batcher ``name`` without starting it: another process can no longer.

        ``params`` are the data set's parameters. Zero is the default for the others: a window of 2 x worker slots + 1
        batches and at most 1 GiB; half of it retained, -1 for none; 600 s of idleness until the service forgets the
        batcher. ``accept_change`` lets a state of other parameters or data go on. ``in_order`` delivers the good
        batches before a bad one first, instead of failing at once. Waits ``timeout`` seconds for a coordinator, without
        end by default.
        """
        merged = {**self._defaults, **(params or {})}
        request = {
            "name": name,
            "dataset": dataset,
            "params": json.dumps(merged) if merged or params is not None else "",
            "window": window,
            "window_bytes": window_bytes,
            "retain": retain,
            "idle_timeout": float(idle_timeout),
            "take_over": take_over,
            "accept_change": accept_change,
            "in_order": in_order,
            "timeout": float(timeout or 0.0),
        }
        reply = self._bridge.call("open", request, timeout=timeout)
        return Batcher(self._bridge, reply[2], name)

    @property
    def pid(self) -> int:
        """The bridge's process id."""
        return self._bridge.pid

    def close(self) -> None:
        """Leaves every batcher and ends the bridge. Twice is fine."""
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
    Raises :class:`Error` if the server does not answer within ``connect_timeout`` seconds.
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
        "JETBATCH_CONNECT_TIMEOUT": f"{connect_timeout}s",
    }
    return Service(Bridge(_args(memory), {k: os.fspath(v) for k, v in env.items() if v is not None}))


def _args(memory: int) -> List[str]:
    level = "warn"
    if logging.getLogger("jetbatch").isEnabledFor(logging.INFO):
        level = "info"
    return ["--log-level", level, "--memory", str(memory)]


def _state(state: StateLike) -> State:
    if state is None:
        return State()
    if isinstance(state, str):
        return State.parse(state)
    if isinstance(state, State):
        return state
    raise TypeError(f"a state is a jetbatch.State, its text, or None for the first, not {type(state).__name__}")


def _wire_state(state: State) -> Tuple[Any, ...]:
    """The fields of a state as Go has them: the origin is the fourth, where it is known."""
    fields = (state.dataset, state.version, state.data or None)
    return fields + (state.origin,) if state.origin else fields


def _state_of_wire(fields: Sequence[Any]) -> State:
    return State(fields[0], fields[1], fields[2] or b"", fields[3] if len(fields) == 4 else "")
