"""Arguments of calls, checked before anything is sent: the bridge, too, could only refuse them."""

from __future__ import annotations

import json
import math
import operator
from typing import Any, Dict, Mapping, Optional

from .errors import BadConfig, BadParams

# A call that has no time still gets what is here: the bridge looks for so long, in seconds.
AT_ONCE = 0.001

# As long as a poll can wait, in seconds: what is longer has no end.
LONGEST = 2_000_000.0


def number(name: str, value: Any) -> int:
    """A whole number of 64 bits; one of numpy's is one, too."""
    try:
        if isinstance(value, bool):
            raise TypeError
        n = operator.index(value)
    except TypeError:
        raise BadConfig(f"{name} is a whole number, not {value!r}") from None
    if not -(1 << 63) <= n < 1 << 63:
        raise BadConfig(f"{name} is {n}, which has more than 64 bits")
    return n


def seconds(name: str, value: Any) -> float:
    """A number of seconds, which may be infinite."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        s = float(value)
    except (TypeError, ValueError, OverflowError):
        raise BadConfig(f"{name} is a number of seconds, not {value!r}") from None
    if math.isnan(s):
        raise BadConfig(f"{name} is a number of seconds, not {value!r}")
    return s


def span(name: str, value: Any) -> float:
    """A number of seconds that ends."""
    s = seconds(name, value)
    if math.isinf(s):
        raise BadConfig(f"{name} is a number of seconds that ends, not {value!r}")
    return s


def patience(timeout: Any) -> Optional[float]:
    """The time of a call; None has no end. That of the bridge, too, where 0 has no end."""
    if timeout is None:
        return None
    s = seconds("timeout", timeout)
    if s > LONGEST:
        return None
    return s if s > 0 else AT_ONCE


def text(name: str, value: Any) -> str:
    """A text of Unicode."""
    if not isinstance(value, str):
        raise BadConfig(f"{name} is a str, not {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as err:
        raise BadConfig(f"{name} is no Unicode: {err}") from None
    return str(value)


def parameters(defaults: Mapping[str, Any], params: Any) -> str:
    """The parameters of a data set as JSON, empty for none."""
    if params is not None and not isinstance(params, Mapping):
        raise BadConfig(f"params is a dict, not {params!r}")
    merged: Dict[str, Any] = {**defaults, **(params or {})}
    if not merged and params is None:
        return ""
    try:
        return json.dumps(merged, allow_nan=False)
    except (TypeError, ValueError) as err:
        raise BadParams(f"{err}: parameters go as JSON") from None
