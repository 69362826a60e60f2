"""Calls to the process beside this one."""

from __future__ import annotations

import itertools
import logging
import os
import select
import socket
import threading
import time
import weakref
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from . import errors
from ._ahead import PATIENCE, TELL, Ahead
from ._process import GRACE, Process
from ._shared import Shared
from ._state import State, of_wire, to_wire
from ._step import Step
from ._version import __version__
from ._wire import PROTOCOL, Ended, Frames

log = logging.getLogger("jetbatch")

# Places in a frame that has a batch.
_BATCH, _SIZE, _NEXT = 3, 5, 7

class Bridge:
    """A bridge process. Calls may come from several threads; one of those that wait reads for all."""

    def __init__(self, args: Sequence[str], env: Mapping[str, str]) -> None:
        self._process = Process(args, env)
        self._frames = Frames(self._process.sock)
        self._ids = itertools.count(1)
        self._state = threading.Lock()
        self._leader = 0  # the number of the call that reads, or minus the thread's that does between two calls
        self._calls: Dict[int, int] = {}  # by thread
        self._followers: Dict[int, threading.Lock] = {}
        # The calls that wait, with the handle of which their answer withdraws what lies ready, or 0.
        self._waiting: Dict[int, int] = {}
        self._ahead: Dict[int, Ahead] = {}  # by handle
        self._replies: Dict[int, List[Any]] = {}
        self._abandoned: Set[int] = set()
        self._dead: Optional[errors.Error] = None
        self._shared = Shared()
        self._returned: List[int] = []  # batches that are used no longer, of which the bridge does not know that yet
        _bridges.add(self)
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def _greet(self) -> None:
        data, fds, _, _ = socket.recv_fds(self._process.sock, 1 << 16, 1, socket.MSG_CMSG_CLOEXEC)
        if fds:
            self._shared.fd = fds[0]
        self._frames.feed(data)
        hello: List[Any] = []

        def handle(frame: List[Any]) -> None:
            if frame[1] == "bye":
                raise errors.from_fault(frame[2])
            hello[:] = frame

        try:
            self._frames.read(handle)
        except (Ended, ConnectionError):
            raise self._process.died(greeted=False) from None
        if hello[1] != "hello" or hello[2] != PROTOCOL or hello[3] != __version__:
            raise errors.VersionMismatch(
                f"the package is version {__version__} (protocol {PROTOCOL}), "
                f"the binary {self._process.binary} is {hello[3]} (protocol {hello[2]}): "
                "install them together, with `pip install ./python`"
            )

    # Calls.

    def call(self, op: str, *args: Any, timeout: Optional[float] = None, withdraws: int = 0) -> List[Any]:
        """Sends a request and returns its reply; raises its error. The reply withdraws what lies ready of a handle."""
        number = self._begin()
        try:
            with self._state:
                self._send(number, (number, op, *args), withdraws)
            reply = self._checked(self._await(number, timeout))
            self._forget(number)
            return reply
        except BaseException:
            self._abandon(number)
            self._forget(number)
            raise

    def open(self, settings: Dict[str, Any], timeout: Optional[float]) -> Ahead:
        """Opens a batcher: its handle, with what lies ready of it."""
        opened: List[Any] = []
        try:
            opened += self.call("open", settings, timeout=timeout)
            handle = opened[2]
            with self._state:
                ahead = self._ahead.setdefault(handle, Ahead(handle))
                ahead.poll = self._poll()
        except BaseException:
            if opened:
                self.leave(opened[2])
            raise
        if settings.get("world") is not None and len(opened) < 4:  # it would give every rank all rows
            self.shut(ahead)
            raise errors.VersionMismatch(
                f"the binary {self._process.binary} knows of no ranks: install it anew, together with the package"
            )
        return ahead

    def shut(self, ahead: Ahead) -> None:
        """Closes a batcher."""
        self.call("close", ahead.handle, 0.0, timeout=GRACE, withdraws=ahead.handle)
        with self._state:
            self._ahead.pop(ahead.handle, None)

    def leave(self, handle: int) -> None:
        """Closes a batcher that nobody has, without waiting for it."""
        with self._state:
            self._ahead.pop(handle, None)
            try:
                self._frames.write((0, "close", handle, 0.0))
            except OSError:
                pass  # the next call finds out what is the matter

    def take(self, ahead: Ahead, state: State, timeout: Optional[float]) -> Step:
        """Takes the batch after a state."""
        if not ahead.queue and ahead.awaits(state):  # it may be on its way, and half the work without being asked for
            if ahead.told != ahead.took or len(self._ahead) > 1:
                with self._state:
                    self._tell_all()
            began = time.monotonic()
            self._catch_up(ahead, PATIENCE)
            ahead.waits(began, time.monotonic())
        step = self.ready(ahead, state)
        while step is None:
            step = self._ask(ahead, state, timeout)
        return step

    def _ask(self, ahead: Ahead, state: State, timeout: Optional[float]) -> Optional[Step]:
        """Asks for a batch. It may turn out to lie ready."""
        fields = to_wire(state)
        number = self._begin()
        try:
            with self._state:
                self._drop(ahead)
                self._tell_all()
                self._waiting[number] = ahead.handle
                self._say(number, "take", ahead.handle, timeout or 0.0, fields)
            reply = self._checked(self._await(number, timeout))
            step = None
            if reply[1] == "step":
                _, _, _, batch, offset, size, seq, following, about = reply[:9]
                step = Step(state, of_wire(following), batch, offset, size, seq, about)
                ahead.giving = batch
                reply[1] = "given"
                self._shared.lend(step, ahead)
            self._forget(number)
        except BaseException:
            self._abandon(number)
            self._forget(number)
            raise
        return self.ready(ahead, state) if step is None else step

    def ready(self, ahead: Ahead, state: State) -> Optional[Step]:
        """Takes what lies ready, if that is what is wanted. It is the way of most batches, and short for that."""
        now = time.monotonic()
        if now - ahead.looked > TELL:
            self._catch_up(ahead, 0)
        if self._dead is not None:
            return None
        with self._state:
            step = ahead.first(state)
            if step is None:
                return None
            self._drop(ahead)
            # An interruption up to the end of take leaves it to the next take.
            if ahead.take(now):
                self._tell(ahead)
            ahead.remove()
        self._shared.lend(step, ahead)
        return step

    def _drop(self, ahead: Ahead) -> None:
        """Frees what interruptions left over."""
        if ahead.giving:
            lost = ahead.lost()
            if lost:
                self._returned.append(lost)

    def _tell(self, ahead: Ahead) -> None:
        """Tells the bridge what was taken of what lay ready, and what is used no longer."""
        self._say(0, "took", ahead.handle, ahead.took)
        ahead.told = ahead.took

    def _tell_all(self) -> None:
        for ahead in self._ahead.values():
            if ahead.told != ahead.took:
                self._tell(ahead)

    def _catch_up(self, ahead: Ahead, patience: float) -> None:
        """Sees to the frames that are here, or come within some milliseconds, unless another thread reads."""
        if patience and not self._frames.ready() and not ahead.poll.poll(patience):
            return
        me = -threading.get_ident()
        with self._state:
            if self._leader not in (0, me) or self._dead is not None:
                return
            self._leader = me
        try:
            if self._frames.look():
                self._read(None)
                while self._frames.ready():
                    self._read(None)
            ahead.looked = time.monotonic()
        except OSError:
            raise self._died() from None
        finally:
            self._leave(me)

    def _leave(self, leader: int) -> None:
        """Lets another thread read, if it was this one's turn."""
        with self._state:
            for late in [n for n in self._abandoned if n in self._replies]:
                self._waiting.pop(late, None)
                self._replies.pop(late, None)
                self._abandoned.discard(late)
            if self._leader == leader:
                self._leader = 0
                for other in list(self._followers):
                    self._wake(other)

    def _say(self, *request: Any) -> None:
        """Sends a request that says at its end which batches are used no longer."""
        if self._dead is not None:
            raise self._again()
        self._shared.collect(self._returned)
        self._write((*request, self._returned))
        self._returned = []

    def _begin(self) -> int:
        """The number of a new call. A call of this thread's that an interruption kept from its end is ended first."""
        if self._dead is not None:
            raise self._again()
        thread = threading.get_ident()
        if self._leader == -thread:
            self._leave(-thread)
        before = self._calls.get(thread)
        if before is not None:
            self._abandon(before)
            self._forget(before)
        number = self._calls[thread] = next(self._ids)
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
            if not self._frames.ready() and not self._poll().poll((timeout + GRACE) * 1000):
                raise errors.Unavailable(
                    f"the bridge, process {self._process.pid}, has not answered for {timeout + GRACE:g} s"
                )
        try:
            self._frames.read(self._handle)
        except (Ended, OSError):
            raise self._died() from None

    def _poll(self) -> select.poll:
        """What waits for frames, in one thread: a poll object is not for two at a time."""
        poll = select.poll()
        poll.register(self._process.sock, select.POLLIN)
        return poll

    def _handle(self, frame: List[Any]) -> None:
        number = frame[0]
        if number:
            if number in self._waiting:
                self._withdraw(self._waiting[number], frame)
                if number in self._abandoned and frame[1] == "step":
                    with self._state:
                        self._unseen(self._waiting[number], frame)
                self._replies[number] = frame
                self._wake(number)
        elif frame[1] == "ready":
            ahead = self._ahead.get(frame[2])
            if ahead is not None:
                ahead.add(frame[3])
        elif frame[1] == "withdrawn":
            self._withdraw(frame[2], frame)
        elif frame[1] == "segment":
            self._shared.map(frame[2], frame[3])
        elif frame[1] == "gone":
            self._shared.unmap(frame[2])
        elif frame[1] == "log":
            log.log(_LEVELS.get(frame[2], logging.INFO), "%s", frame[3])
        elif frame[1] == "bye":
            self._dead = errors.from_fault(frame[2])

    def _withdraw(self, handle: int, frame: List[Any]) -> None:
        ahead = self._ahead.get(handle)
        if ahead is None:
            return
        given_up = frame[1] == "error" and frame[2]["code"] == "cancelled"
        if ahead.unseen and frame[0] and not given_up:  # the take after it is answered
            with self._state:
                if frame[1] != "step" or frame[_BATCH] != ahead.unseen:
                    self._returned.append(ahead.unseen)
                ahead.unseen = 0
        if frame[1] == "ready":
            return
        with self._state:
            self._returned += ahead.withdraw()
            if frame[1] == "step":
                ahead.begin(frame[_BATCH], frame[_SIZE], of_wire(frame[_NEXT]))

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

    def _abandon(self, number: int) -> None:
        """Gives a call up. The bridge hears of it though its answer be here: a batch that nobody has seen is for the
        next take, if that is for the same state, and a batcher that was opened is closed."""
        with self._state:
            if number not in self._waiting or self._dead is not None:
                return
            reply = self._replies.get(number)
            if reply is None:
                self._abandoned.add(number)
            elif reply[1] == "step":
                self._unseen(self._waiting[number], reply)
            elif reply[1] != "ok":
                return
            try:
                self._frames.write((0, "cancel", number))
            except OSError:
                pass  # the next call finds out what is the matter

    def _unseen(self, handle: int, reply: List[Any]) -> None:
        """A batch came that nobody will see, unless the next take is for it."""
        ahead = self._ahead.get(handle)
        if ahead is None:
            self._returned.append(reply[_BATCH])
        else:
            ahead.unseen = reply[_BATCH]

    def _forget(self, number: int) -> None:
        """Ends a call, and lets another thread read."""
        with self._state:
            self._followers.pop(number, None)
            if number not in self._abandoned:
                self._waiting.pop(number, None)
                self._replies.pop(number, None)
        self._leave(number)
        self._calls.pop(threading.get_ident(), None)

    # The end.

    def _died(self) -> errors.Error:
        if self._dead is None:
            self._dead = self._process.died()
        return self._again()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def close(self) -> None:
        """Ends the process: it leaves what it has open. Twice is fine."""
        if self._dead is None:
            self._dead = errors.Closed("the connection is closed")
        self._process.end()
        self._shared.close()

    def _in_child(self) -> None:
        self._dead = errors.Forked("this handle was opened before fork(); in the child, connect again")
        self._process.sock.close()  # or the bridge would not see the trainer's end while the child lives


_LEVELS = {-4: logging.DEBUG, 0: logging.INFO, 4: logging.WARNING, 8: logging.ERROR}

_bridges: "weakref.WeakSet[Bridge]" = weakref.WeakSet()


def _after_fork() -> None:
    for bridge in list(_bridges):
        bridge._in_child()


os.register_at_fork(after_in_child=_after_fork)
