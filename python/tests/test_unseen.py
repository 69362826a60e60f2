"""What came for a call that was given up: a batch that nobody has seen, a batcher that nobody has."""

from __future__ import annotations

import contextlib
import logging
from typing import Any, Callable, Iterator, List

import numpy as np
import pytest

import jetbatch
from conftest import Up
from datasets import batch
from jetbatch._bridge import Bridge

SIZE = 5_000_000  # which does not lie ready, so that each is asked for


@pytest.fixture
def small(up: Up) -> Iterator[jetbatch.Service]:
    with jetbatch.connect(up.url, memory=4 * SIZE) as s:
        yield s


def interrupt(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]) -> None:
    """Calls, and is interrupted when the answer is there."""

    def interrupted(bridge: Bridge, reply: List[Any]) -> List[Any]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Bridge, "_checked", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call()


def late(b: jetbatch.Batcher, monkeypatch: pytest.MonkeyPatch) -> jetbatch.State:
    """A take is interrupted too late."""
    state = b.take().next
    interrupt(monkeypatch, lambda: b.take(state))
    return state


def full(b: jetbatch.Batcher, monkeypatch: pytest.MonkeyPatch) -> jetbatch.State:
    """A batch does not fit beside those that are kept. They go when this returns."""
    steps = [b.take()]
    with pytest.raises(jetbatch.MemoryFull):
        while True:
            steps.append(b.take(steps[-1].next))
    return steps[-1].next


HOLD = pytest.mark.parametrize("hold", [late, full])
Hold = Callable[[jetbatch.Batcher, pytest.MonkeyPatch], jetbatch.State]


@HOLD
def test_it_answers_the_next_take(
    small: jetbatch.Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, hold: Hold
) -> None:
    with caplog.at_level(logging.WARNING, "jetbatch"), small.open(
        f"again-{hold.__name__}", dataset="numbers", params={"size": SIZE}
    ) as b:
        state = hold(b, monkeypatch)
        step = b.take(state)
        n, x = int(step["n"]), step["x"]
        for _ in range(10):
            step = b.take(step.next)
        assert int(step["n"]) == n + 10
        np.testing.assert_array_equal(x, batch(n, SIZE)["x"])
    assert "moving to another state" not in caplog.text


@HOLD
def test_it_is_nobodys_after_stop(small: jetbatch.Service, monkeypatch: pytest.MonkeyPatch, hold: Hold) -> None:
    with small.open(f"stop-{hold.__name__}", dataset="numbers", params={"size": SIZE}) as b:
        state = hold(b, monkeypatch)
        b.stop()
        with pytest.raises(jetbatch.Stopped):
            b.take(state)


@HOLD
def test_it_is_of_its_data(small: jetbatch.Service, monkeypatch: pytest.MonkeyPatch, hold: Hold) -> None:
    with small.open(f"data-{hold.__name__}", dataset="numbers", params={"size": SIZE}) as b:
        state = hold(b, monkeypatch)
        with pytest.raises(jetbatch.WrongData):
            b.take(state._replace(origin="0" * 32))


@HOLD
def test_it_is_not_the_deposed_readers(
    up: Up, small: jetbatch.Service, monkeypatch: pytest.MonkeyPatch, hold: Hold
) -> None:
    name = f"deposed-{hold.__name__}"
    with small.open(name, dataset="numbers", params={"size": SIZE}) as b, jetbatch.connect(up.url) as other:
        state = hold(b, monkeypatch)
        with other.open(name, dataset="numbers", params={"size": SIZE}, take_over=True) as again:
            again.take(state)
            with contextlib.suppress(jetbatch.Superseded):
                b.status()  # by its answer the notice is here
            with pytest.raises(jetbatch.Superseded):
                b.take(state)


def test_what_was_opened_is_closed(service: jetbatch.Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        interrupt(monkeypatch, lambda: service.open("opened", dataset="numbers"))
    with service.open("opened", dataset="numbers", timeout=30) as b:
        assert int(b.take()["n"]) == 1
