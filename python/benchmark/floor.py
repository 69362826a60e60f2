"""The least that a trainer in Python does for a batch: it receives the bytes that a bridge sends, decodes them, makes
an array, and says what it took. A process beside it sends them, so many batches to a frame."""

from __future__ import annotations

import mmap
import os
import socket
import struct
import time
from typing import Any

import msgpack
import numpy as np

import jetbatch

LENGTH = struct.Struct("<I")
ABOUT = msgpack.packb([[12345] * 12, "worker-1", "0123456789", 1, "", [0, 1024, 1024]])


def frame(values: Any) -> bytes:
    body = msgpack.packb(values)
    return LENGTH.pack(len(body)) + body


def send(sock: socket.socket, batches: int, depth: int, slot: int, size: int) -> None:
    """Sends frames of depth batches, each when the one before was taken."""
    for first in range(0, batches, depth):
        entries = [
            [n, n % 64 * slot, size, n, jetbatch.pack({"index": n}), ABOUT] for n in range(first, first + depth)
        ]
        sock.sendall(frame([0, "ready", 1, entries]))
        if not sock.recv(1 << 16):
            return


def receive(sock: socket.socket, memory: mmap.mmap, batches: int) -> float:
    """The CPU of one batch, in seconds."""
    buffer, began, number = b"", time.thread_time(), 0
    while number < batches - 1:
        while len(buffer) >= 4 and len(buffer) >= 4 + LENGTH.unpack_from(buffer)[0]:
            end = 4 + LENGTH.unpack_from(buffer)[0]
            entries = msgpack.unpackb(memoryview(buffer)[4:end])[3]
            buffer = buffer[end:]
            for number, offset, size, *_ in entries:
                np.frombuffer(memory, np.uint8, size, offset)
            sock.sendall(frame((0, "took", 1, number, [entry[0] for entry in entries])))
        if number < batches - 1:
            buffer += sock.recv(1 << 16)
    return (time.thread_time() - began) / batches


def floor(size: int, depth: int, batches: int = 4096) -> float:
    """The CPU of one batch where depth of them come at a time, in seconds."""
    slot = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    fd = os.memfd_create("floor")
    os.ftruncate(fd, 64 * slot)
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        send(theirs, batches, depth, slot, size)
        os._exit(0)
    theirs.close()
    try:
        return receive(ours, mmap.mmap(fd, 64 * slot, prot=mmap.PROT_READ), batches)
    finally:
        ours.close()
        os.close(fd)
        os.waitpid(child, 0)


if __name__ == "__main__":
    for depth in (1, 4, 16):
        print(f"{depth:3} batches at a time: {floor(1 << 10, depth) * 1e6:.1f} µs of CPU each")
