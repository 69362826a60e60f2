"""The data set of main.go, in Python, and as a dataset of torch's."""

from __future__ import annotations

import time
from typing import Any, Mapping, NamedTuple, Tuple

import numpy as np

import jetbatch


class Sized(jetbatch.Dataset):
    """Batches of ``size`` bytes, or of numpy work: a recording is cut into windows and scaled."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params

    def start(self) -> Any:
        return 0

    def next(self, state: Any) -> Tuple[Any, Any]:
        return state, state + 1

    def materialize(self, job: Any) -> Mapping[str, Any]:
        return work(job, self.params)


def work(job: int, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """What both make of a job."""
    if "size" in params:
        return {"x": np.full(params["size"], job % 256, np.uint8)}
    signal = np.random.default_rng(job).integers(-2000, 2000, (12, 500_000), np.int16)
    windows = np.lib.stride_tricks.sliding_window_view(signal, 5000, axis=1)[:, ::5000]
    scaled = windows.astype(np.float32)
    scaled -= scaled.mean(axis=2, keepdims=True)
    scaled /= scaled.std(axis=2, keepdims=True)
    return {"x": scaled.transpose(1, 0, 2)}


class Map:
    """The same for torch's DataLoader."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, job: int) -> Mapping[str, Any]:
        import torch

        return {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in work(job, self.params).items()}


class Pace(NamedTuple):
    """How a loop went."""

    rate: float
    """Batches per second."""

    cpu: float
    """Of the trainer's process for a batch, in seconds."""

    count: int
    """All batches that it saw."""


def pace(steps: Any, seconds: float) -> Pace:
    """Goes through batches for a while, after some to warm up."""
    began, n, seen = time.perf_counter(), 0, 0
    for _ in steps:
        seen += 1
        if n == 0 and time.perf_counter() - began < seconds / 4:
            continue
        if n == 0:
            start, cpu = time.perf_counter(), time.process_time()
        n += 1
        if time.perf_counter() - start > seconds:
            break
    return Pace((n - 1) / (time.perf_counter() - start), (time.process_time() - cpu) / max(n - 1, 1), seen)
