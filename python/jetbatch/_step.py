"""One batch and its place in the sequence."""

from __future__ import annotations

from typing import Any, Dict, Iterator, Mapping, NamedTuple, Optional, Tuple

import msgpack
import numpy as np
import numpy.typing as npt

from . import errors
from ._state import State
from ._world import Rows

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

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
    wait_ranks: float
    wait_other: float


class Tensor(NamedTuple):
    """Where a tensor lies in a payload."""

    dtype: "np.dtype[Any]"
    shape: Tuple[int, ...]
    offset: int


class Layout:
    """What the header of a payload says. Batches of one run mostly have the same."""

    def __init__(self, payload: Any) -> None:
        unpacker = msgpack.Unpacker(raw=False, max_buffer_size=1 << 20)
        unpacker.feed(bytes(payload[: 1 << 20]))
        self.tensors: Dict[str, Tensor] = {}
        for name, dtype, shape, offset, _ in unpacker.unpack():
            kind = DTYPES[dtype]
            assert kind is not None
            self.tensors[name] = Tensor(kind, tuple(shape), offset)
        self.header = bytes(payload[: unpacker.tell()])
        self.size = len(self.header)


class Step(Mapping[str, Array]):
    """One batch and its place in the sequence: a mapping from names of tensors to read-only arrays.

    The arrays are views of memory shared with the bridge. They stay valid, and that memory in use, as long as the step,
    or any array of it, or made of one without a copy, is referred to.
    """

    __slots__ = ("seq", "prev", "next", "_number", "_offset", "_size", "_about", "_root", "_layout")

    def __init__(
        self, prev: State, following: State, number: int, offset: int, size: int, seq: int, about: bytes
    ) -> None:
        self.prev = prev
        self.next = following
        self.seq = seq
        self._number = number
        self._offset = offset
        self._size = size
        self._about = about
        self._root: Optional[Bytes] = None  # until it is given out
        self._layout: Optional[Layout] = None

    @property
    def timing(self) -> Timing:
        """Where the time went."""
        return Timing(*(ns / 1e9 for ns in self._told(0)))

    @property
    def worker(self) -> str:
        """The worker that made it."""
        return self._told(1)  # type: ignore[no-any-return]

    @property
    def attempt(self) -> str:
        """The attempt that made it."""
        return self._told(2)  # type: ignore[no-any-return]

    @property
    def deliveries(self) -> int:
        """How often its job was handed out; more than 1 where a worker was lost or slow."""
        return self._told(3)  # type: ignore[no-any-return]

    @property
    def rows(self) -> Rows:
        """Which rows of the batch these are: all of them, but for a rank of a :class:`World`."""
        return rows_of(self._about)

    @property
    def trace(self) -> str:
        """The W3C traceparent of the take that let its job out, empty for none."""
        return self._told(4)  # type: ignore[no-any-return]

    def _told(self, place: int) -> Any:
        return msgpack.unpackb(self._about)[place]

    def __getitem__(self, name: str) -> Array:
        root, layout = self._root, self._layout
        if root is None or layout is None:
            raise errors.Released(f"batch {self.seq} was released")
        t = layout.tensors[name]
        return np.ndarray(t.shape, t.dtype, root, t.offset)

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout.tensors if self._layout is not None else ())

    def __len__(self) -> int:
        return len(self._layout.tensors) if self._layout is not None else 0

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        tensors = self._layout.tensors.items() if self._layout is not None else ()
        shapes = ", ".join(f"{n}: {t.dtype.name}{list(t.shape)}" for n, t in tensors)
        return f"Step(seq={self.seq}, {shapes}{'' if self._root is not None else ', released'})"

    @property
    def nbytes(self) -> int:
        """The size of the batch's payload."""
        return 0 if self._root is None else self._size

    def release(self) -> None:
        """Gives the memory back, as soon as no array of it is referred to any more.

        Asking the step for a tensor is an error then. Twice is fine.
        """
        self._root = None


def rows_of(about: bytes) -> Rows:
    """Which rows of a batch came, by what the bridge says about it."""
    return Rows(*msgpack.unpackb(about)[5])
