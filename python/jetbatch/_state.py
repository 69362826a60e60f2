"""A position in a data set."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, NamedTuple, Sequence, Tuple
from urllib.parse import quote_plus, unquote_to_bytes

from ._codec import pack, unpack
from ._crc import crc32c
from .errors import BadStateText, StateTooLarge, WrongState

MAX_STATE = 16 << 10
"""The most bytes that a state may have encoded: 16 KiB."""


class State(NamedTuple):
    """Where the next batch comes from: what a trainer saves with its checkpoint.

    ``str()`` is the text that Go and the command line use, and :meth:`parse` its inverse. Two states are equal when
    they are the same position of the same data set and version, whatever their origin: a digest of the parameters and
    data that the position is of, empty where it is not known. ``State()`` is the data set's first one, as ``None`` is
    wherever a state is wanted.
    """

    dataset: str = ""
    version: int = 0
    data: bytes = b""
    origin: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and self._position() == other._position()

    def __ne__(self, other: object) -> bool:
        return not self.__eq__(other)

    def __hash__(self) -> int:
        return hash(self._position())

    def _position(self) -> Tuple[str, int, bytes]:
        return (self.dataset, self.version, self.data)

    @classmethod
    def new(cls, value: Any) -> "State":
        """A state of plain values, for the data set that it is given to."""
        data = pack(value)
        if len(data) > MAX_STATE:
            raise StateTooLarge(
                f"{len(data)} bytes encoded, at most {MAX_STATE}: keep a seed and an index, not the data"
            )
        return cls(data=data)

    def decode(self) -> Any:
        """The data set's own value."""
        return unpack(self.data)

    def __bool__(self) -> bool:
        """False for the first state of a data set."""
        return bool(self.dataset or self.version or self.data)

    def __repr__(self) -> str:
        if not self:
            return "State(start)"
        return f"State({self.dataset}@{self.version}#{crc32c(self.data):08x}, {len(self.data)} bytes)"

    def __str__(self) -> str:
        if len(self.data) > MAX_STATE:
            raise StateTooLarge(f"{len(self.data)} bytes, at most {MAX_STATE}")
        data = base64.urlsafe_b64encode(self.data).rstrip(b"=").decode()
        text = f"jb1:{_escape(self.dataset)}:{self.version}:{data}"
        if self.origin:
            text = f"jb2:{_escape(self.dataset)}:{self.version}:{_escape(self.origin)}:{data}"
        return f"{text}:{crc32c(text.encode()):08x}"

    @classmethod
    def parse(cls, text: str) -> "State":
        """Reads what ``str(state)`` wrote, here or in Go; white space around it does not matter."""
        token = text.strip()
        parts = token.split(":")
        if parts[0] not in _FIELDS:
            raise BadStateText('it does not begin with "jb2:" or "jb1:": give the whole token that was saved')
        fields = _FIELDS[parts[0]]
        if len(parts) != fields:
            raise BadStateText(
                f"{len(parts)} fields, not {fields}: it was cut short, or runs into another; copy the whole token again"
            )
        if parts[-1] != f"{crc32c(token[: token.rindex(':')].encode('utf-8', 'surrogatepass')):08x}":
            raise BadStateText("the checksum is wrong: a character was changed or lost; copy the whole token again")
        try:
            origin = _unescape(parts[3]) if fields == 6 else ""
            state = cls(_unescape(parts[1]), _version(parts[2]), _unbase64(parts[-2]), origin)
            spelled = str(state)
        except (ValueError, binascii.Error, StateTooLarge) as err:
            raise BadStateText(
                f"{err}: it was not written by str(); take the state from the trainer's checkpoint"
            ) from None
        if spelled != token:
            raise BadStateText("not the canonical spelling; take the token from where it was saved")
        return state


# How many fields a state's text has, by its first: without and with an origin.
_FIELDS = {"jb1": 5, "jb2": 6}


def _escape(name: str) -> str:
    return quote_plus(name.encode("utf-8", "surrogateescape"), safe="")


def _unescape(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "surrogateescape")


def _version(text: str) -> int:
    if not re.fullmatch("[0-9]+", text) or int(text) >= 1 << 32:
        raise ValueError(f"version: {text!r}")
    return int(text)


def _unbase64(text: str) -> bytes:
    if len(text) * 3 // 4 > MAX_STATE:
        raise StateTooLarge(f"more than {MAX_STATE} bytes")
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def to_wire(state: State) -> Tuple[Any, ...]:
    """The fields of a state as Go has them: the origin is the fourth, where it is known.

    A state made by hand may be of fields that Go does not have.
    """
    for name, value, kind in zip(state._fields, state, (str, int, bytes, str)):
        if type(value) is not kind:
            raise WrongState(f"the state's {name} is a {type(value).__name__}, not a {kind.__name__}")
    if not 0 <= state.version < 1 << 32:
        raise WrongState(f"the state's version is {state.version}: versions have 32 bits")
    if len(state.data) > MAX_STATE:
        raise StateTooLarge(f"{len(state.data)} bytes, at most {MAX_STATE}")
    try:
        (state.dataset + state.origin).encode()
    except UnicodeEncodeError as err:
        raise WrongState(f"the state's names are no Unicode: {err}") from None
    fields = (state.dataset, state.version, state.data or None)
    return fields + (state.origin,) if state.origin else fields


def of_wire(fields: Sequence[Any]) -> State:
    """The state of such fields."""
    return State(fields[0], fields[1], fields[2] or b"", fields[3] if len(fields) == 4 else "")
