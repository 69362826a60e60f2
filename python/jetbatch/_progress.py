"""A line that says how a training goes, for a terminal or a notebook."""

from __future__ import annotations

import sys
import time
from typing import Optional, TextIO

# How often the line is written, in seconds.
EVERY = 0.5


def watched() -> Optional[TextIO]:
    """Standard error, if somebody looks at it: a terminal or a notebook."""
    err = sys.stderr
    if err is None:
        return None
    in_notebook = type(err).__module__.partition(".")[0] == "ipykernel"
    return err if in_notebook or err.isatty() else None


class Progress:
    """Writes the line again and again in its place. Nothing is written by a thread of its own."""

    def __init__(self, out: TextIO) -> None:
        self._out: Optional[TextIO] = out
        self._width = 0  # of what stands there
        self._seq = 0  # of the last batch
        self._count = 0  # batches since the line was written
        self._waited = 0.0  # for them, in seconds
        self._since = time.monotonic()

    def say(self, text: str) -> None:
        """Writes a text in the place of the one before."""
        self._write("\r" + text.ljust(self._width))
        self._width = len(text)

    def begin(self, name: str) -> float:
        """A take begins. It says how the ones before went: what comes after a take could lose its batch to a Ctrl-C."""
        now = time.monotonic()
        elapsed = now - self._since
        if self._count and elapsed >= EVERY:
            share = min(self._waited / elapsed, 1.0)
            pace = self._count / elapsed
            self._count, self._waited, self._since = 0, 0.0, now
            self.say(f"jetbatch {name}: batch {self._seq}, {pace:.3g}/s, {share:.0%} of the time waiting")
        return now

    def took(self, seq: int, began: float) -> None:
        """Counts a batch of a take."""
        self._seq = seq
        self._count += 1
        self._waited += time.monotonic() - began

    def end(self) -> None:
        """Leaves the line as it stands."""
        if self._width:
            self._write("\n")
            self._width = 0

    def _write(self, text: str) -> None:
        if self._out is not None:
            try:
                self._out.write(text)
                self._out.flush()
            except (OSError, ValueError):  # a terminal that is gone is no reason to end a training
                self._out = None
