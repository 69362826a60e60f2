"""The memory that a bridge shares, and what refers to it."""

from __future__ import annotations

import bisect
import collections
import mmap
import os
import weakref
from typing import Any, Deque, Dict, List

import numpy as np

from ._ahead import Ahead
from ._step import Layout, Step

_BYTE = np.dtype(np.uint8)


class _Lease(weakref.ref):  # type: ignore[type-arg]
    """Tells when the last array over a slot has died."""

    __slots__ = ("number",)
    number: int


class Shared:
    """The parts of the file that are mapped, and the batches in them that something refers to."""

    def __init__(self) -> None:
        self.fd = -1
        self._starts: List[int] = []
        self.segments: Dict[int, mmap.mmap] = {}
        self.leases: Dict[int, _Lease] = {}
        self.expired: Deque[_Lease] = collections.deque()
        self._expire: Any = self.expired.append

    def map(self, offset: int, size: int) -> None:
        """Maps a new part of the file. The same may come twice."""
        if offset in self.segments:
            return
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        self.segments[offset] = mmap.mmap(self.fd, size, flags=flags, prot=mmap.PROT_READ, offset=offset)
        bisect.insort(self._starts, offset)

    def unmap(self, offset: int) -> None:
        """Forgets a part: it is unmapped when nothing refers to it any more."""
        if self.segments.pop(offset, None) is not None:
            self._starts.remove(offset)

    def lend(self, step: Step, ahead: Ahead) -> None:
        """Gives a step the array over its batch; there is never a second one."""
        offset = step._offset
        start = self._starts[bisect.bisect_right(self._starts, offset) - 1]
        segment, place = self.segments[start], offset - start
        root = np.frombuffer(segment, _BYTE, step._size, place)
        # The callback comes wherever the last reference goes, within any other step of this class. It is one call that
        # no signal handler interrupts: an exception in it would be ignored, and the Ctrl-C lost.
        lease = _Lease(root, self._expire)
        lease.number = step._number
        self.leases[step._number] = lease
        ahead.giving = 0
        layout = ahead.layout
        if layout is None or segment[place : place + layout.size] != layout.header:
            ahead.layout = layout = Layout(root)
        step._layout, step._root = layout, root

    def collect(self, returned: List[int]) -> None:
        """Moves the batches that nothing refers to any more to a list. An interruption has some moved twice."""
        while self.expired:
            lease = self.expired[0]
            returned.append(lease.number)
            self.leases.pop(lease.number, None)
            self.expired.popleft()

    def close(self) -> None:
        """Lets go of the file. What arrays refer to stays."""
        self.segments.clear()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
