"""Data sets of the tests."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Any, Dict, Mapping, Tuple

import numpy as np

import jetbatch


class Numbers(jetbatch.Dataset):
    """Batches of bytes that tell their place: ``length`` of them, ``size`` bytes each."""

    version = 3

    def __init__(self, params: Mapping[str, Any]) -> None:
        if params.get("length", 0) < 0:
            raise jetbatch.BadParams("a negative length")
        self.length = params.get("length", 1 << 40)
        self.size = params.get("size", 1024)
        self.slow = params.get("slow", 0.0)

    def start(self) -> Any:
        return {"index": 0, "name": "größe"}

    def next(self, state: Any) -> Tuple[Any, Any]:
        if state["index"] >= self.length:
            raise StopIteration
        state["index"] += 1
        return state["index"], state

    def materialize(self, job: Any) -> Mapping[str, Any]:
        time.sleep(self.slow)
        return batch(job, self.size)


def batch(job: int, size: int) -> Dict[str, Any]:
    """The batch of a job of Numbers."""
    return {"x": np.resize(np.arange(job, job + 251, dtype=np.uint8), size), "n": np.array(job, np.int64)}


class Sheets(jetbatch.Dataset):
    """``length`` batches of 1 to 9 rows, and a table beside them that is not cut."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.length = params.get("length", 1 << 40)

    def start(self) -> Any:
        return 0

    def next(self, state: Any) -> Tuple[Any, Any]:
        if state >= self.length:
            raise StopIteration
        return state + 1, state + 1

    def materialize(self, job: Any) -> Mapping[str, Any]:
        return sheet(job)


def sheet(job: int) -> Dict[str, Any]:
    """The batch of a job of Sheets."""
    rows = 1 + job % 9
    x = (job + np.arange(rows * 700)).astype(np.float32).reshape(rows, 7, 100)
    return {"x": x, "table": np.full(20, job, np.int16), "y": np.arange(rows) + job}


class Faulty(jetbatch.Dataset):
    """Batch ``at`` does what ``how`` says; the others are good."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.how, self.at = params["how"], params.get("at", 3)
        self.marker = params.get("marker", "")

    def start(self) -> Any:
        return 0

    def next(self, state: Any) -> Tuple[Any, Any]:
        if self.how == "iterator" and state + 1 == self.at:
            raise KeyError("in next")
        if state == 10:
            raise StopIteration
        return state + 1, state + 1

    def materialize(self, job: Any) -> Mapping[str, Any]:
        if job == self.at and not (self.marker and os.path.exists(self.marker)):
            if self.marker:
                open(self.marker, "w").close()
            getattr(self, self.how)()
        return {"n": np.array(job)}

    def iterator(self) -> None:
        """It fails elsewhere."""

    def exception(self) -> None:
        raise ValueError("größe ist falsch")

    def permanent(self) -> None:
        raise jetbatch.Permanent("never")

    def skip(self) -> None:
        raise jetbatch.Skip("empty")

    def exit(self) -> None:
        sys.exit(3)

    def segfault(self) -> None:
        print("about to fall")
        ctypes.string_at(0)

    def hang(self) -> None:
        while True:
            pass

    def memory(self) -> None:
        np.ones(5 << 30, np.uint8)

    def output(self) -> None:
        print("x" * (1 << 20))
        os.write(2, b"y" * (1 << 20))

    def exhausted(self) -> None:
        next(iter(()))


class Kinds(jetbatch.Dataset):
    """One batch of every kind of array."""

    def start(self) -> Any:
        return 0

    def next(self, state: Any) -> Tuple[Any, Any]:
        if state >= len(KINDS):
            raise StopIteration
        return state, state + 1

    def materialize(self, job: Any) -> Mapping[str, Any]:
        return KINDS[job]


_grid = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
KINDS = [
    {
        name: np.arange(5).astype(name)
        for name in (
            "bool",
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "float32",
            "float64",
        )
    },
    {"größe": np.array([np.nan, np.inf, -0.0]), "0-d": np.array(7.5), "empty": np.zeros((3, 0, 2), np.float32)},
    {
        "transposed": _grid.T,
        "stepped": _grid[:, ::2, ::-1],
        "big-endian": np.arange(3, dtype=">f4"),
        "fortran": np.asfortranarray(_grid),
    },
    {"list": [1.5, 2.5], "number": 3},
    {},
]


class Recorded(jetbatch.Dataset):
    """As many recordings as a file says when it is opened."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        with open(params["file"]) as f:
            self.recordings = f.read()

    def fingerprint(self) -> jetbatch.Fingerprint:
        n = self.recordings
        return jetbatch.Fingerprint(n, parts={"recordings": n}, ignore=["file"], summary=f"kept all {n}")

    def start(self) -> Any:
        return 0

    def next(self, state: Any) -> Tuple[Any, Any]:
        return state, state + 1

    def progress(self, state: Any) -> jetbatch.Progress:
        return jetbatch.Progress(epoch=1 + state // 40, batch=state % 40, batches=40, epochs=3)

    def materialize(self, job: Any) -> Mapping[str, Any]:
        return {"n": np.array([job, int(self.recordings)])}
