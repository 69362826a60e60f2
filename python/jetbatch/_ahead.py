"""What lies ready of a batcher: docs/BRIDGE.md has the rules."""

from __future__ import annotations

import collections
from typing import Any, Deque, List, Optional, Sequence

from ._state import State
from ._step import Layout, Step

# For how long the bridge need not be told that a batch was taken, nor be listened to while batches lie ready, in
# seconds.
TELL = 0.001

# The bridge is told of so many at once, if no fewer than REST are left to speak for later: a message of its own for the
# last one of a window would go on as a window of one.
GROUP = 8
REST = 4

# The size of the largest batch that may lie ready, in bytes.
AHEAD = 4 << 20

# How long a batch that comes by itself is waited for until the bridge is asked for it, in milliseconds.
PATIENCE = 2.0


class Ahead:
    """The batches of one handle that lie ready, as steps without memory yet.

    The thread that takes removes them, the one that reads adds to them and forgets them.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.queue: Deque[Step] = collections.deque()
        self.on = False  # the next one may come to lie ready
        self.next = State()  # after the batch that was given out last
        self.took = 0  # its number
        self.told = 0  # up to where the bridge knows
        self.when = 0.0  # the first that it does not know of was taken
        self.last = 0.0  # a take gave out a batch that lay ready, or went on to look for one
        self.poll: Any = None  # what the thread that takes waits for frames with
        self.looked = 0.0  # when frames of the bridge were looked for
        self.giving = 0  # the batch that a take has out of the queue, and nobody has yet
        self.unseen = 0  # the batch that answered a take which was given up, until the next one is answered
        self.gone: List[int] = []  # what was withdrawn last
        self.layout: Optional[Layout] = None  # of the last batch

    def add(self, batches: Sequence[Sequence[Any]]) -> None:
        """Batches that follow the last one here. The same may come twice."""
        queue = self.queue
        for number, offset, size, seq, data, about in batches:
            try:
                last, prev = queue[-1]._number, queue[-1].next
            except IndexError:
                last, prev = self.took, self.next
            if number > last:
                following = State(prev.dataset, prev.version, data or b"", prev.origin)
                queue.append(Step(prev, following, number, offset, size, seq, about))

    def first(self, state: State) -> Optional[Step]:
        """The batch that follows a state, if it is the first that lies ready."""
        try:
            step = self.queue[0]
        except IndexError:
            return None
        return step if step.prev is state or follows(step.prev, state) else None

    def awaits(self, state: State) -> bool:
        """Whether the batch after a state may come by itself, where none lies ready."""
        return self.on and (state is self.next or follows(self.next, state))

    def take(self, now: float) -> bool:
        """Takes the first, which stays in the queue until it is removed, and says whether to tell the bridge.

        Several at a time are half the work where they are taken in no time.
        """
        step, left = self.queue[0], len(self.queue) - 1
        if self.told == self.took:
            self.when = now
        slow, self.last = now - self.last > TELL, now
        self.next, self.took = step.next, step._number
        group = left >= REST and step._number - self.told >= max(left, GROUP)
        return slow or not left or group or now - self.when > TELL

    def waits(self, began: float, now: float) -> None:
        """A take that began then looked for a batch until now: that is not time of the trainer's."""
        if began - self.last <= TELL:
            self.last = now

    def remove(self) -> None:
        """Removes what was taken."""
        self.giving = self.took
        self.queue.popleft()

    def lost(self) -> int:
        """The batch that an interrupted take was giving out, or 0. It may be the first still."""
        number, self.giving = self.giving, 0
        return 0 if self.queue and self.queue[0]._number <= number else number

    def withdraw(self) -> List[int]:
        """Forgets what lies ready, and returns the numbers. After an interruption they are returned once more."""
        if self.queue:
            self.gone = [step._number for step in self.queue]
        self.queue.clear()
        self.on = False
        return [number for number in self.gone if number > self.took]

    def begin(self, number: int, size: int, following: State) -> None:
        """The next ones follow a batch that answers a take."""
        self.next, self.took, self.told, self.on = following, number, number, size <= AHEAD


def follows(before: State, asked: State) -> bool:
    """Whether the batch after one state is the one asked for. A state without an origin is of any."""
    return before == asked and asked.origin in ("", before.origin)
