"""The canonical msgpack of states and jobs: equal values have equal bytes, and the same as in Go."""

from __future__ import annotations

from typing import Any

import msgpack

from .errors import StateNotCanonical

MAX_DEPTH = 64
"""How deep lists and maps may nest."""


def pack(value: Any) -> bytes:
    """Encodes plain values canonically, byte for byte as Go does.

    Plain are ``None``, ``bool``, ``int`` of 64 bits, ``float``, ``str``, ``bytes``, and lists, tuples and dicts with
    string keys of plain values. All else is :class:`StateNotCanonical`, numpy's scalars included: which of their bits
    count is not for a codec to say.
    """
    try:
        return msgpack.packb(_plain(value, 0, "value"), use_bin_type=True)  # type: ignore[no-any-return]
    except UnicodeEncodeError as err:
        raise StateNotCanonical(f"a text that is not Unicode: {err}") from None


def _plain(value: Any, depth: int, where: str) -> Any:
    kind = type(value)
    if value is None or kind in (bool, float, str, bytes):
        return value
    if kind is int:
        if not -(1 << 63) <= value < 1 << 64:
            raise StateNotCanonical(f"{where}: an integer of more than 64 bits: split it, or keep it as bytes")
        return value
    if kind in (list, tuple, dict) and depth == MAX_DEPTH:
        raise StateNotCanonical(f"{where}: nested deeper than {MAX_DEPTH}")
    if kind in (list, tuple):
        return [_plain(v, depth + 1, f"{where}[{i}]") for i, v in enumerate(value)]
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise StateNotCanonical(f"{where}: a key that is {type(key).__name__}, not str: {key!r}")
        # By content of their UTF-8, which for Python is the order of code points.
        return {key: _plain(value[key], depth + 1, f"{where}[{key!r}]") for key in sorted(value)}
    advice = ""
    if kind.__module__.split(".")[0] == "numpy":
        advice = ": convert it with int(), float(), .tolist() or .tobytes()"
    raise StateNotCanonical(f"{where}: {kind.__module__}.{kind.__qualname__} is no plain value{advice}")


def unpack(data: bytes) -> Any:
    """Decodes what :func:`pack`, or Go, encoded. Tuples come back as lists."""
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True, use_list=True)
    except Exception as err:
        raise StateNotCanonical(f"bytes that do not decode: {err}") from None
