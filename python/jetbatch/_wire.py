"""Frames of the local protocol: docs/BRIDGE.md."""

from __future__ import annotations

import collections
import socket
import struct
from typing import Any, Callable, Deque, Tuple

import msgpack

from .errors import BadRequest

PROTOCOL = 1
MAX_FRAME = 4 << 20

_LENGTH = struct.Struct("<I")
_CHUNK = (1 << 16,)
_NOW = (socket.MSG_DONTWAIT,)

_pack = msgpack.Packer(use_bin_type=True).pack


class Ended(Exception):
    """The other side has closed its end."""


class Frames:
    """Frames on a stream socket.

    A signal handler that raises, as that of Ctrl-C does, may run between any two steps of Python, and must not lose
    bytes. So what was received or sent is noted in the same step: ``extend(map(recv, …))`` is one call, and what came
    and what is left of it are one attribute.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._recv = sock.recv
        self._send = sock.send
        self._in: Tuple[bytes, Deque[bytes]] = (b"", collections.deque())
        self._out: Tuple[bytes, Deque[int]] = (b"", collections.deque())

    def feed(self, data: bytes) -> None:
        """Takes bytes that were received otherwise."""
        self._in[1].append(data)

    def read(self, handle: Callable[[Any], None]) -> None:
        """Calls ``handle`` with the next frame, decoded. Only one thread reads at a time.

        After an interruption the same frame may be handled once more.
        """
        while True:
            buffer, came = self._in
            if came:
                if not came[-1]:
                    raise Ended
                buffer = buffer + b"".join(came)
                self._in = (buffer, collections.deque())
            if len(buffer) >= 4:
                end = 4 + _LENGTH.unpack_from(buffer)[0]
                if end > 4 + MAX_FRAME:
                    raise BadRequest(f"a frame of {end - 4} bytes: the other side does not speak the local protocol")
                if len(buffer) >= end:
                    handle(msgpack.unpackb(memoryview(buffer)[4:end], raw=False, strict_map_key=False))
                    self._in = (buffer[end:], self._in[1])
                    return
            self._in[1].extend(map(self._recv, _CHUNK))

    def look(self) -> bool:
        """Receives what is here, without waiting, and says whether there is something to handle."""
        try:
            self._in[1].extend(map(self._recv, _CHUNK, _NOW))
        except BlockingIOError:
            pass
        return self.ready()

    def ready(self) -> bool:
        """Whether bytes are here that were not handled yet."""
        return bool(self._in[0] or self._in[1])

    def write(self, values: Any) -> None:
        """Sends a frame; what an interruption left of the one before goes first. Only one thread writes at a time."""
        body = _pack(values)
        if self._out[0]:
            self._flush()
        self._out = (_LENGTH.pack(len(body)) + body, collections.deque())
        self._flush()

    def _flush(self) -> None:
        data, sent = self._out
        while data:
            if not sent:
                sent.extend(map(self._send, (data,)))
            data, sent = data[sent[0] :], collections.deque()
            self._out = (data, sent)

    def close(self) -> None:
        """Closes the socket."""
        self._sock.close()
