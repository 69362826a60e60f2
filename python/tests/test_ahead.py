"""Batches that lie ready before the trainer takes them: they count when take returned them, and not before."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest

import jetbatch
from conftest import Up, until
from datasets import batch
from jetbatch import _ahead


def lie_ready(b: jetbatch.Batcher, step: jetbatch.Step, number: int) -> jetbatch.Step:
    """Waits until so many batches lie ready after a step, and returns the step.

    It takes a batch only where nothing comes by itself any more, since only a take can tell how it goes on.
    """
    ahead = b._ahead
    while len(ahead.queue) < number:
        until(lambda: b.status() and (len(ahead.queue) >= number or not ahead.on), f"{number} batches lie ready")
        if not ahead.on:
            step = b.take(step.next)
    return step


def test_takes_what_lies_ready(service: jetbatch.Service) -> None:
    with service.open("ahead", dataset="numbers", params={"length": 200, "size": 3000}) as b:
        step = lie_ready(b, b.take(), 4)
        first = step.seq
        assert b.status()["taken"] == first
        for n in range(first + 1, first + 4):
            step = b.take(step.next)
            assert step.seq == n and int(step["n"]) == n
            np.testing.assert_array_equal(step["x"], batch(n, 3000)["x"])
            assert step.timing.materialize > 0
        assert b.status()["taken"] == step.seq  # at once, and exactly
        b.stop()
        with pytest.raises(jetbatch.Stopped):
            b.take(step.next)


def test_what_is_withdrawn_comes_again_after_a_take(service: jetbatch.Service) -> None:
    with service.open("withdrawn", dataset="numbers", params={"length": 200}) as b:
        step = lie_ready(b, b.take(), 4)
        b.start(step.next)  # changes nothing but that
        assert not b._ahead.on and not b._ahead.queue
        later = lie_ready(b, step, 4)
        assert later.seq > step.seq
        assert int(b.take(later.next)["n"]) == later.seq + 1


def test_a_state_without_an_origin_is_of_any(service: jetbatch.Service, tmp_path: Path) -> None:
    file = tmp_path / "recordings"
    file.write_text("93")
    with service.open("plain", dataset="recorded", params={"file": str(file)}) as b:
        step = lie_ready(b, b.take(), 4)
        assert step.next.origin
        first = b._ahead.queue[0]._number
        step = b.take(step.next._replace(origin=""))
        assert step._number == first, "it is the one that lies ready"
        step = lie_ready(b, step, 2)
        with pytest.raises(jetbatch.WrongData):
            b.take(step.next._replace(origin="00ff"))


def test_a_jump_withdraws_what_lies_ready(service: jetbatch.Service) -> None:
    with service.open("jumps", dataset="numbers", params={"size": 100_000}) as b:
        states: Any = [None]
        rng = np.random.default_rng(7)
        for _ in range(300):
            at = len(states) - 1 if rng.random() < 0.7 else int(rng.integers(len(states)))
            step = b.take(states[at])
            np.testing.assert_array_equal(step["x"], batch(at + 1, 100_000)["x"])
            if at == len(states) - 1:
                states.append(step.next)
            assert step.next == states[at + 1]
        del step
        gc.collect()

    def shared() -> int:
        return sum(map(len, service._bridge._shared.segments.values()))

    # What was withdrawn goes back. After a jump back to what the service still has, the bridge holds all of that up to
    # where it was before.
    most = shared()
    assert most < (80 + 1.2 * len(states)) * 100_000
    with service.open("later", dataset="numbers", params={"size": 100_000}) as b:
        for step in b.steps():
            if step.seq == 100:
                break
        assert shared() == most  # all that the first one had is free


def test_a_failure_comes_before_what_lies_ready(service: jetbatch.Service, tmp_path: Path) -> None:
    params = {"how": "permanent", "at": 6}
    with service.open("failfast", dataset="faulty", params=params, window=8, timeout=30) as b:
        with pytest.raises(jetbatch.MaterializeFailed, match="never"):
            step = b.take(timeout=30)
            until(lambda: b.status() and not b._ahead.on, "withdrawn")
            b.take(step.next, timeout=30)  # batches 2 to 5 are good
    with service.open("inorder", dataset="faulty", params=params, window=8, in_order=True, timeout=30) as b:
        got = []
        with pytest.raises(jetbatch.MaterializeFailed, match="never"):
            for step in b.steps(timeout=30):
                got.append(int(step["n"]))
        assert got == [1, 2, 3, 4, 5]


def test_superseded_with_batches_ready(service: jetbatch.Service, up: Up) -> None:
    with service.open("fenced", dataset="numbers") as b, jetbatch.connect(up.url) as other:
        step = lie_ready(b, b.take(), 3)
        with other.open("fenced", dataset="numbers", take_over=True) as taker:
            taker.take()
            with pytest.raises(jetbatch.Superseded):
                for _ in range(1000):  # the notice is on its way
                    step = b.take(step.next)
            assert not b._ahead.queue


def test_two_batchers_at_once(service: jetbatch.Service) -> None:
    with service.open("one", dataset="numbers", params={"length": 100}) as a, service.open(
        "two", dataset="numbers", params={"length": 100, "size": 2000}
    ) as b:
        for n, (x, y) in enumerate(zip(a.steps(), b.steps()), 1):
            assert int(x["n"]) == int(y["n"]) == n
            assert x["x"].size == 1024 and y["x"].size == 2000
        assert n == 100


def test_what_lies_ready_is_bounded(service: jetbatch.Service) -> None:
    for size, most in ((1000, 16), (1_000_000, 4)):
        with service.open(f"bounded{size}", dataset="numbers", params={"size": size}, window=40) as b:
            step = lie_ready(b, b.take(), most)
            until(lambda: b.status()["fed"] >= step.seq + 40, "all that the window allows is made")
            queue = b._ahead.queue
            assert len(queue) == most, "no more than that"
            assert step["x"].size == size


def test_the_bridge_hears_of_each_slow_step(service: jetbatch.Service) -> None:
    """A trainer that takes longer than TELL for a step is known to be where it is."""
    with service.open("told", dataset="numbers") as b:
        step = lie_ready(b, b.take(), 4)
        ready = b._ahead
        for _ in range(3):
            ready.last -= 2 * _ahead.TELL  # so long ago
            step = b.take(step.next)
            assert ready.told == ready.took


def queued(count: int, now: float) -> _ahead.Ahead:
    """As many batches that lie ready, the first of which follows one that was taken a moment ago."""
    ahead = _ahead.Ahead(1)
    ahead.begin(1, 100, jetbatch.State("x", 1, b"0"))
    ahead.last = now
    ahead.add([[n, 0, 100, n, str(n).encode(), b""] for n in range(2, 2 + count)])
    return ahead


def told(ahead: _ahead.Ahead, *times: float) -> List[int]:
    """Of which batches the bridge is told when they are taken at these times."""
    numbers = []
    for now in times:
        if ahead.take(now):
            ahead.told = ahead.took
            numbers.append(ahead.took)
        ahead.remove()
    return numbers


def test_fast_steps_are_told_together() -> None:
    """One message and one wake-up of the bridge speak for all that a fast trainer takes of what lies ready."""
    tick = _ahead.TELL / 100
    assert told(queued(5, 1.0), *(1 + n * tick for n in range(5))) == [6]
    assert told(queued(16, 1.0), *(1 + n * tick for n in range(16))) == [9, 17], "half of many at a time"
    assert told(queued(9, 1.0), *(1 + n * tick for n in range(9))) == [10], "no rest of one"
    # A wait for a batch is no step of the trainer's.
    ahead = queued(5, 1.0)
    ahead.waits(1.0 + tick, 1.5)
    assert told(ahead, *(1.5 + n * tick for n in range(5))) == [6]


def test_slow_steps_are_told_soon() -> None:
    """No take is kept from the bridge for longer than TELL, as far as the trainer takes again."""
    slow = 1.1 * _ahead.TELL
    assert told(queued(5, 1.0), *(1 + (n + 1) * slow for n in range(5))) == [2, 3, 4, 5, 6]
    nearly = 0.4 * _ahead.TELL
    assert told(queued(6, 1.0), *(1 + n * nearly for n in range(6))) == [5, 7]
    ahead = queued(3, 1.0)
    ahead.waits(1.0 + slow, 1.5)  # the step before the wait was slow
    assert told(ahead, 1.5, 1.5)[:1] == [2]
