"""The process beside this one."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import weakref
from typing import IO, Mapping, Optional, Sequence

from . import errors
from ._binary import find

# How long the bridge may take beyond the time that a call was given, until it counts as stuck, and to end, in seconds.
GRACE = 10.0

# How it exits where what it was started with is wrong.
USAGE = 2


class Process:
    """A bridge process and this end of its socket. Of a process that does not end by itself, ``end`` makes an end."""

    def __init__(self, args: Sequence[str], env: Mapping[str, str]) -> None:
        self.binary = find()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._words: IO[bytes] = tempfile.TemporaryFile()
        try:
            # In a session of its own: a Ctrl-C is the trainer's, and ends the bridge by way of it.
            self._process = subprocess.Popen(
                [self.binary, "bridge", *args],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._words,
                env={**os.environ, **env},
                start_new_session=True,
            )
        except BaseException as err:
            ours.close()
            self._words.close()
            if isinstance(err, OSError):
                raise errors.BinaryMissing(f"{self.binary} cannot be run: {err}") from None
            raise
        finally:
            theirs.close()
        self.sock = ours
        self.pid = self._process.pid
        self.end = weakref.finalize(self, _end, os.getpid(), self._process, ours, self._words)

    def died(self, greeted: bool = True) -> errors.Error:
        """How it ended, and its last words, once it has closed its end."""
        status = self._wait()
        if status is None:
            return errors.BridgeDied("the bridge has closed its connection")
        self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, self._words.tell() - 4096))
        words = self._words.read().decode(errors="replace").strip()
        if status == USAGE and not greeted and "jetbatch: " in words:  # and not the end of a Go program that panics
            return errors.BadConfig(words[words.rindex("jetbatch: ") :])
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return errors.BridgeDied(f"the bridge {how}{': ' + words if words else ''}")

    def _wait(self) -> Optional[int]:
        try:
            return self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return None


def _end(owner: int, process: "subprocess.Popen[bytes]", sock: socket.socket, words: IO[bytes]) -> None:
    sock.close()
    if owner == os.getpid():
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    words.close()
