"""The bytes of a batch: a msgpack header, and each tensor at a multiple of 64."""

from __future__ import annotations

import mmap
import os
import struct
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import msgpack
import numpy as np
import numpy.typing as npt

from ._step import DTYPES, Array
from .errors import Error

ALIGNMENT = 64
MAX_TENSORS = 256
MAX_NAME = 255
MAX_RANK = 16

_NUMBERS: Dict[Tuple[str, int], int] = {(d.kind, d.itemsize): n for n, d in enumerate(DTYPES) if d is not None}
_PLACE = struct.Struct(">BQBQ")


class BadBatch(Error):
    """The batch cannot be encoded: a name or an element type that it cannot have, or too many tensors."""

    code = "permanent"


class Plan:
    """Where the tensors of a batch go. Batches of one data set mostly have the same plan."""

    def __init__(self, key: Tuple[Tuple[str, str, Tuple[int, ...]], ...]) -> None:
        if len(key) > MAX_TENSORS:
            raise BadBatch(f"{len(key)} tensors, at most {MAX_TENSORS}")
        self.dtypes = [_dtype(name, text) for name, text, _ in key]
        heads = []
        for (name, _, shape), dtype in zip(key, self.dtypes):
            if len(shape) > MAX_RANK:
                raise BadBatch(f"tensor {name!r}: {len(shape)} dimensions, at most {MAX_RANK}")
            number = _NUMBERS[dtype.kind, dtype.itemsize]
            heads.append(b"\x95" + _name(name) + bytes([number]) + msgpack.packb(shape))
        size = len(_array(len(key))) + sum(map(len, heads)) + _PLACE.size * len(key)
        self.places: List[int] = []
        self.gaps: List[Tuple[int, int]] = []
        header = _array(len(key))
        for head, (_, _, shape), dtype in zip(heads, key, self.dtypes):
            place = -(-size // ALIGNMENT) * ALIGNMENT
            self.gaps.append((size, place))
            nbytes = dtype.itemsize * int(np.prod(shape, dtype=object))
            header += head + _PLACE.pack(0xCF, place, 0xCF, nbytes)
            self.places.append(place)
            size = place + nbytes
        self.header = header
        self.size = size


def _array(n: int) -> bytes:
    return bytes([0x90 | n]) if n < 16 else struct.pack(">BH", 0xDC, n)


def _name(name: str) -> bytes:
    if type(name) is not str:
        raise BadBatch(f"a tensor's name is {type(name).__name__}, not str: {name!r}")
    data = name.encode(errors="replace")
    if not 1 <= len(data) <= MAX_NAME or data.decode() != name:
        raise BadBatch(f"a tensor's name has 1 to {MAX_NAME} bytes of UTF-8: {name!r}")
    packed: bytes = msgpack.packb(name)
    return packed


def _dtype(name: str, text: str) -> "np.dtype[Any]":
    dtype = np.dtype(text)
    if (dtype.kind, dtype.itemsize) not in _NUMBERS:
        advice = "; view it as uint16, or convert it to float32" if dtype == np.float16 else ""
        raise BadBatch(f"tensor {name!r}: no tensor has elements of {dtype}{advice}")
    return dtype.newbyteorder("<")


def arrays(batch: Mapping[str, Any]) -> Tuple[Tuple[Tuple[str, str, Tuple[int, ...]], ...], List[Array]]:
    """The arrays of a batch, and what its plan depends on."""
    if type(batch) is not dict and not isinstance(batch, Mapping):
        raise BadBatch(f"a batch is a dict of arrays, not {type(batch).__name__}")
    values = [np.asarray(v) for v in batch.values()]
    return tuple((name, v.dtype.str, v.shape) for name, v in zip(batch, values)), values


class Region:
    """Memory that the worker reads, from its start on."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._bytes: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self._plans: Dict[Any, Plan] = {}
        self._last: Optional[Plan] = None  # its header stands there, and zeros between the tensors
        self._places: List[Array] = []  # of its tensors

    def write(self, batch: Mapping[str, Any]) -> int:
        """Writes the payload of a batch and returns its size."""
        key, values = arrays(batch)
        plan = self._plans.get(key)
        if plan is None:
            plan = Plan(key)
            if len(self._plans) >= 64:
                self._plans.clear()
            self._plans[key] = plan
        if plan is not self._last:
            self._lay(plan, values)
        for place, value in zip(self._places, values):
            place[...] = value
        return plan.size

    def _lay(self, plan: Plan, values: Sequence[Array]) -> None:
        """Writes what batches of one plan have in common."""
        self._last = None
        if plan.size > len(self._bytes):
            self._grow(plan.size)
        memory = self._bytes
        memory[: len(plan.header)] = np.frombuffer(plan.header, np.uint8)
        for gap, end in plan.gaps:
            memory[gap:end] = 0
        self._places = [np.ndarray(v.shape, d, memory, at) for v, d, at in zip(values, plan.dtypes, plan.places)]
        self._last = plan

    def _grow(self, size: int) -> None:
        size = -(-max(size, 1 << 16) // mmap.PAGESIZE) * mmap.PAGESIZE
        if os.fstat(self._fd).st_size < size:
            os.ftruncate(self._fd, size)
        self._bytes = np.frombuffer(mmap.mmap(self._fd, size), np.uint8)


def encode(batch: Mapping[str, Any]) -> bytes:
    """The payload of a batch."""
    fd = os.memfd_create("jetbatch", os.MFD_CLOEXEC)
    try:
        region = Region(fd)
        size = region.write(batch)
        return region._bytes[:size].tobytes()
    finally:
        os.close(fd)
