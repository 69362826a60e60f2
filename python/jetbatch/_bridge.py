"""The process beside this one, and the memory that is shared with it."""

from __future__ import annotations

import bisect
import collections
import itertools
import logging
import mmap
import os
import select
import socket
import subprocess
import tempfile
import threading
import time
import weakref
from typing import IO, Any, Deque, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from . import errors
from ._binary import find
from ._version import __version__
from ._wire import PROTOCOL, Ended, Frames

log = logging.getLogger("jetbatch")

# How long the bridge may take beyond the time that a call was given, until it counts as stuck, and to end, in seconds.
GRACE = 10.0

# For how long the bridge need not be told that a batch was taken, nor be listened to while batches lie ready, in
# seconds.
TELL = 0.001

# The size of the largest batch that may lie ready, in bytes.
AHEAD = 4 << 20

# How long a batch that comes by itself is waited for until the bridge is asked for it, in milliseconds.
PATIENCE = 2.0

Bytes = npt.NDArray[np.uint8]


# Places in a frame that has a batch.
_HANDLE, _BATCH, _OFFSET, _SIZE, _NEXT = 2, 3, 4, 5, 7

Wanted = Tuple[int, Tuple[Any, ...]]
"""What a take is for: the batcher's handle and the state."""


class _Ready:
    """What lies ready of a batcher: docs/BRIDGE.md has the rules. Each batch is kept with the state before it."""

    def __init__(self) -> None:
        self.queue: Deque[Tuple[Tuple[Any, ...], List[Any]]] = collections.deque()
        self.on = False  # the next one may come to lie ready
        self.next: Tuple[Any, ...] = ()  # the state after the batch that was given out last
        self.took = 0  # its number
        self.told = 0  # up to where the bridge knows
        self.when = 0.0  # it was told
        self.looked = 0.0  # when frames of the bridge were looked for

    def due(self, now: float) -> bool:
        """Whether to tell the bridge. Several at a time are half the work where they are taken in no time."""
        return len(self.queue) <= self.took - self.told or now - self.when > TELL

    def add(self, frame: List[Any]) -> None:
        """A batch that follows the last one here. The same frame may come twice."""
        last = self.queue[-1][1] if self.queue else None
        if frame[_BATCH] > max(self.took, last[_BATCH] if last else 0):
            self.queue.append((tuple(last[_NEXT]) if last else self.next, frame))

    def first(self, state: Tuple[Any, ...]) -> Optional[List[Any]]:
        """The batch that follows a state, if it is the first that lies ready."""
        return self.queue[0][1] if self.queue and self.queue[0][0] == state else None

    def take(self) -> None:
        """Takes the first. It stays the first where an interruption comes in between."""
        frame = self.queue[0][1]
        self.next, self.took = tuple(frame[_NEXT]), frame[_BATCH]
        self.queue.popleft()

    def numbers(self) -> List[int]:
        """Of the batches that lie ready."""
        return [frame[_BATCH] for _, frame in self.queue]

    def withdraw(self, frame: List[Any]) -> None:
        """Forgets what lies ready. An answer that has a batch is what the next ones follow."""
        self.queue.clear()
        self.on = False
        if frame[1] == "step":
            self.on = frame[_SIZE] <= AHEAD
            self.next, self.took, self.told = tuple(frame[_NEXT]), frame[_BATCH], frame[_BATCH]


class _Lease(weakref.ref):  # type: ignore[type-arg]
    """Tells when the last array over a slot has died."""

    number = 0


class Bridge:
    """A bridge process. Calls may come from several threads; one of those that wait reads for all."""

    def __init__(self, args: Sequence[str], env: Mapping[str, str]) -> None:
        binary = find()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._words: IO[bytes] = tempfile.TemporaryFile()
        try:
            # In a session of its own: a Ctrl-C is the trainer's, and ends the bridge by way of it.
            self._process = subprocess.Popen(
                [binary, "bridge", *args],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._words,
                env={**os.environ, **env},
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            self._words.close()
            raise
        finally:
            theirs.close()
        self._owner = os.getpid()
        self._sock = ours
        self._poll = select.poll()
        self._poll.register(ours, select.POLLIN)
        self._frames = Frames(ours)
        self._ids = itertools.count(1)
        self._state = threading.Lock()
        self._leader = 0
        self._calls: Dict[int, Tuple[int, Optional[Wanted]]] = {}  # by thread
        self._followers: Dict[int, threading.Lock] = {}
        self._waiting: Dict[int, int] = {}  # the calls that wait; with the handle if they withdraw what lies ready of it
        self._ready: Dict[int, _Ready] = {}  # by handle
        self._replies: Dict[int, List[Any]] = {}
        self._abandoned: Dict[int, Optional[Wanted]] = {}
        self._spare: Optional[Tuple[Wanted, List[Any]]] = None  # a batch that came for a take that was given up
        self._dead: Optional[errors.Error] = None
        self._fd = -1
        self._starts: List[int] = []
        self._segments: Dict[int, mmap.mmap] = {}
        self._leases: Dict[int, _Lease] = {}
        self._expired: Deque[_Lease] = collections.deque()
        self._returned: List[
            int
        ] = []  # batches that are used no longer, and of which the bridge does not know that yet
        self._finish = weakref.finalize(self, _finish, self._owner, self._process, ours, self._words)
        _bridges.add(self)
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def _greet(self) -> None:
        data, fds, _, _ = socket.recv_fds(self._sock, 1 << 16, 1, socket.MSG_CMSG_CLOEXEC)
        if fds:
            self._fd = fds[0]
        self._frames.feed(data)
        hello: List[Any] = []

        def handle(frame: List[Any]) -> None:
            if frame[1] == "bye":
                raise errors.from_fault(frame[2])
            hello[:] = frame

        try:
            self._frames.read(handle)
        except (Ended, ConnectionError):
            raise self._died() from None
        if hello[1] != "hello" or hello[2] != PROTOCOL or hello[3] != __version__:
            raise errors.VersionMismatch(
                f"the package is version {__version__} (protocol {PROTOCOL}), the binary {find()} is {hello[3]} "
                f"(protocol {hello[2]}): install them together, with `pip install ./python`"
            )

    # Calls.

    def call(self, op: str, *args: Any, timeout: Optional[float] = None, withdraws: int = 0) -> List[Any]:
        """Sends a request and returns its reply; raises its error. The reply withdraws what lies ready of a handle."""
        number = self._begin(None)
        try:
            with self._state:
                self._send(number, (number, op, *args), withdraws)
            reply = self._checked(self._await(number, timeout))
            self._forget(number)
            return reply
        except BaseException:
            self._abandon(number, None)
            self._forget(number)
            raise

    def take(
        self, handle: int, state: Tuple[Any, ...], timeout: Optional[float]
    ) -> Tuple[List[Any], Bytes]:
        """Takes a batch: its reply and its payload."""
        wanted = (handle, state)
        ready = self._ready.get(handle)
        if ready is not None and (ready.queue or ready.on and ready.next == state):
            taken = self._take_ready(ready, wanted)
            if taken is not None:
                return taken
        number = self._begin(wanted)
        try:
            spare = self._spare
            if spare is not None and spare[0] == wanted and spare[1][1] == "step" and self._dead is None:
                reply = spare[1]
            else:
                with self._state:
                    self._request(number, wanted, timeout or 0.0)
                reply = self._checked(self._await(number, timeout))
            if reply[1] == "ready":
                self._forget(number)
                return self.take(handle, state, timeout)
            root = self._payload(reply)
            self._forget(number)
            return reply, root
        except BaseException:
            self._abandon(number, wanted)
            self._forget(number)
            raise

    def _take_ready(self, ready: _Ready, wanted: Wanted) -> Optional[Tuple[List[Any], Bytes]]:
        """Takes what lies ready, if that is what is wanted."""
        if self._owner != os.getpid() or self._dead is not None:
            return None
        now = time.monotonic()
        if not ready.queue:  # the next one may be on its way, and half the work without being asked for
            with self._state:
                self._tell_all()
            self._catch_up(PATIENCE)
        elif now - ready.looked > TELL:
            self._catch_up(0)
            ready.looked = now
        with self._state:
            frame = ready.first(wanted[1])
            if frame is None:
                return None
            spare = self._spare
            if spare is not None and spare[1][1] == "step" and spare[1] is not frame:
                self._returned.append(spare[1][_BATCH])
            # An interruption from here on leaves it to the next take, which most likely is for the same state.
            self._spare = (wanted, frame)
            ready.take()
            if ready.due(now):
                self._tell(wanted[0], ready, now)
            return frame, self._payload(frame)

    def _tell(self, handle: int, ready: _Ready, now: float) -> None:
        """Tells the bridge what was taken of what lay ready, and what is used no longer."""
        self._say((0, "took", handle, ready.took))
        ready.told, ready.when = ready.took, now

    def _tell_all(self) -> None:
        for handle, ready in self._ready.items():
            if ready.told != ready.took:
                self._tell(handle, ready, time.monotonic())

    def _catch_up(self, patience: float) -> None:
        """Sees to the frames that are here, or come within some milliseconds, unless another thread reads."""
        if not self._frames.ready() and not self._poll.poll(patience):
            return
        number = self._begin(None)
        try:
            with self._state:
                if self._leader == 0:
                    self._leader = number
            while self._leader == number and (self._frames.ready() or self._poll.poll(0)):
                self._read(None)
        finally:
            self._forget(number)

    def _request(self, number: int, wanted: Wanted, timeout: float) -> None:
        """Asks for a batch."""
        spare = self._spare
        if spare is not None:
            if spare[1][1] == "step":
                self._returned.append(spare[1][_BATCH])
            self._spare = None
        self._tell_all()
        self._waiting[number] = wanted[0]
        self._say((number, "take", wanted[0], timeout, wanted[1]))

    def _say(self, request: Tuple[Any, ...]) -> None:
        """Sends a request that says at its end which batches are used no longer."""
        if self._dead is not None:
            raise self._again()
        while self._expired:  # where an interruption comes in between, some are said twice, which is ignored
            lease = self._expired[0]
            self._returned.append(lease.number)
            self._leases.pop(lease.number, None)
            self._expired.popleft()
        self._write((*request, self._returned))
        self._returned = []

    def _begin(self, wanted: Optional[Wanted]) -> int:
        """The number of a new call. A call of this thread's that an interruption kept from its end is ended first."""
        if self._owner != os.getpid():
            raise errors.Forked("this handle was opened before fork(); in the child, connect again")
        thread = threading.get_ident()
        before = self._calls.get(thread)
        if before is not None:
            self._abandon(*before)
            self._forget(before[0])
        number = next(self._ids)
        self._calls[thread] = (number, wanted)
        return number

    def _send(self, number: int, request: Tuple[Any, ...], withdraws: int) -> None:
        if self._dead is not None:
            raise self._again()
        self._tell_all()
        self._waiting[number] = withdraws
        self._write(request)

    def _write(self, request: Tuple[Any, ...]) -> None:
        try:
            self._frames.write(request)
        except OSError:
            raise self._died() from None

    def _again(self) -> errors.Error:
        dead = self._dead
        assert dead is not None
        return type(dead)(*dead.args)

    def _await(self, number: int, timeout: Optional[float]) -> List[Any]:
        while number not in self._replies:
            if self._dead is not None:
                raise self._again()
            with self._state:
                if self._leader == 0:
                    self._leader = number
                elif self._leader != number:
                    turn = self._followers.setdefault(number, threading.Lock())
                    turn.acquire(False)
            if self._leader == number:
                self._read(timeout)
            elif number not in self._replies and self._leader != 0:
                turn.acquire()
        return self._replies[number]

    def _read(self, timeout: Optional[float]) -> None:
        if timeout:
            poll = select.poll()
            poll.register(self._sock, select.POLLIN)
            if not self._frames.ready() and not poll.poll((timeout + GRACE) * 1000):
                raise errors.Unavailable(
                    f"the bridge, process {self._process.pid}, has not answered for {timeout + GRACE:g} s"
                )
        try:
            self._frames.read(self._handle)
        except (Ended, OSError):
            raise self._died() from None

    def _handle(self, frame: List[Any]) -> None:
        number = frame[0]
        if number:
            if number in self._waiting:
                self._withdraw(self._waiting[number], frame)
                self._replies[number] = frame
                self._wake(number)
        elif frame[1] == "ready":
            with self._state:
                frame[1] = "step"
                self._ready[frame[_HANDLE]].add(frame)
        elif frame[1] == "withdrawn":
            self._withdraw(frame[_HANDLE], frame)
        elif frame[1] == "segment":
            self._map(frame[2], frame[3])
        elif frame[1] == "gone":
            if self._segments.pop(frame[2], None) is not None:
                self._starts.remove(frame[2])
        elif frame[1] == "log":
            log.log(_LEVELS.get(frame[2], logging.INFO), "%s", frame[3])
        elif frame[1] == "bye":
            self._dead = errors.from_fault(frame[2])

    def _withdraw(self, handle: int, frame: List[Any]) -> None:
        if handle == 0 or frame[1] == "ready":
            return
        with self._state:
            ready = self._ready.setdefault(handle, _Ready())
            self._returned += ready.numbers()
            ready.withdraw(frame)

    def _wake(self, number: int) -> None:
        turn = self._followers.get(number)
        if turn is not None and turn.locked():
            try:
                turn.release()
            except RuntimeError:
                pass  # another thread has just done so

    def _checked(self, reply: List[Any]) -> List[Any]:
        if reply[1] == "error":
            raise errors.from_fault(reply[2])
        if reply[1] == "end":
            raise errors.EndOfData("the data ends here")
        return reply

    def _abandon(self, number: int, wanted: Optional[Wanted]) -> None:
        """Gives a call up. Its reply, if it is still to come, is seen to when another call ends."""
        with self._state:
            if number in self._replies:
                self._salvage(number, wanted)
            elif number in self._waiting and self._dead is None:
                self._abandoned[number] = wanted
                try:
                    self._frames.write((0, "cancel", number))
                except OSError:
                    pass  # the next call finds out what is the matter

    def _salvage(self, number: int, wanted: Optional[Wanted]) -> None:
        """Keeps a batch that nobody has seen for the next take, which most likely is for the same state."""
        reply = self._replies[number]
        if wanted is None or reply[1] != "step":
            return
        if self._spare is not None and self._spare[1][1] == "step" and self._spare[1] is not reply:
            self._returned.append(self._spare[1][_BATCH])
        self._spare = (wanted, reply)

    def _forget(self, number: int) -> None:
        """Ends a call, and lets another thread read."""
        with self._state:
            self._followers.pop(number, None)
            if number not in self._abandoned:
                self._waiting.pop(number, None)
                self._replies.pop(number, None)
            for late in [n for n in self._abandoned if n in self._replies]:
                self._salvage(late, self._abandoned[late])
                self._waiting.pop(late, None)
                self._replies.pop(late, None)
                del self._abandoned[late]
            if self._leader == number:
                self._leader = 0
                for other in list(self._followers):
                    self._wake(other)
            self._calls.pop(threading.get_ident(), None)

    # Shared memory.

    def _map(self, offset: int, size: int) -> None:
        if offset in self._segments:
            return
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        self._segments[offset] = mmap.mmap(self._fd, size, flags=flags, prot=mmap.PROT_READ, offset=offset)
        bisect.insort(self._starts, offset)

    def _payload(self, reply: List[Any]) -> Bytes:
        """The array over a batch; there is never a second one."""
        reply[1] = "given"
        offset, size = reply[_OFFSET], reply[_SIZE]
        start = self._starts[bisect.bisect_right(self._starts, offset) - 1]
        root = np.frombuffer(self._segments[start], np.uint8, size, offset - start)
        # The callback comes wherever the last reference goes, within any other step of this class. It is one call that
        # no signal handler interrupts: an exception in it would be ignored, and the Ctrl-C lost.
        lease = _Lease(root, self._expired.append)  # type: ignore[arg-type]
        lease.number = reply[_BATCH]
        self._leases[lease.number] = lease
        return root

    # The end.

    def _died(self) -> errors.Error:
        if self._dead is None:
            try:
                status = self._process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self._dead = errors.BridgeDied("the bridge has closed its connection")
            else:
                words = _last_words(self._words)
                how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
                self._dead = errors.BridgeDied(f"the bridge {how}{': ' + words if words else ''}")
        return self._again()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def close(self) -> None:
        """Ends the process: it leaves what it has open. Twice is fine."""
        if self._dead is None:
            self._dead = errors.Closed("the connection is closed")
        self._finish()
        self._segments.clear()  # what arrays refer to stays
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _in_child(self) -> None:
        self._sock.close()  # or the bridge would not see the trainer's end while the child lives


_LEVELS = {-4: logging.DEBUG, 0: logging.INFO, 4: logging.WARNING, 8: logging.ERROR}

_bridges: "weakref.WeakSet[Bridge]" = weakref.WeakSet()


def _after_fork() -> None:
    for bridge in list(_bridges):
        bridge._in_child()


os.register_at_fork(after_in_child=_after_fork)


def _last_words(words: IO[bytes]) -> str:
    words.seek(0, os.SEEK_END)
    words.seek(max(0, words.tell() - 4096))
    return words.read().decode(errors="replace").strip()


def _finish(owner: int, process: "subprocess.Popen[bytes]", sock: socket.socket, words: IO[bytes]) -> None:
    sock.close()
    if owner == os.getpid():
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    words.close()
