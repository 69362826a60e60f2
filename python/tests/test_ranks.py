"""Several ranks that take each batch together."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
import pytest

import datasets
import jetbatch
from conftest import Up, alive, descendants, environment, until
from datasets import sheet
from jetbatch._bridge import Bridge

Part = Tuple[jetbatch.Rows, Dict[str, Any], jetbatch.State]
"""What a rank has of a batch: its rows, copies of its arrays, and the state after it."""


@pytest.fixture(scope="module")
def beside() -> Iterator[jetbatch.Service]:
    with jetbatch.embedded(python={"sheets": datasets.Sheets}, slots=2) as s:
        yield s


def launch(
    service: jetbatch.Service, name: str, size: int, run: str = "run-1", take_over: bool = False, **more: Any
) -> List[jetbatch.Batcher]:
    """The ranks of a world on one batcher."""
    worlds = [jetbatch.World(run, rank, size, whole=["table"], patience=3, **more) for rank in range(size)]
    return [service.open(name, dataset="sheets", take_over=take_over, timeout=60, world=w) for w in worlds]


def take(batcher: jetbatch.Batcher, state: Optional[jetbatch.State], count: int) -> List[Part]:
    """Takes so many batches as one rank."""
    steps = zip(range(count), batcher.steps(state, timeout=60))
    return [(step.rows, {name: array.copy() for name, array in step.items()}, step.next) for _, step in steps]


def at_once(ranks: List[jetbatch.Batcher], state: Optional[jetbatch.State], count: int) -> List[List[Part]]:
    """Takes so many batches at each rank."""
    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(lambda batcher: take(batcher, state, count), ranks))


def together(ranks: List[jetbatch.Batcher], state: Optional[jetbatch.State], first: int, count: int) -> jetbatch.State:
    """Takes so many batches at all ranks at once, and compares what they have between them with the whole batches.
    Returns the state after them."""
    took = at_once(ranks, state, count)
    assert [len(parts) for parts in took] == [count] * len(ranks)
    for n, parts in enumerate(zip(*took), first):
        want = sheet(n)
        of = len(want["y"])
        bounds = [of * rank // len(ranks) for rank in range(len(ranks) + 1)]
        assert [rows for rows, _, _ in parts] == [(a, b, of) for a, b in zip(bounds, bounds[1:])]
        for name in ("x", "y"):
            whole = np.concatenate([arrays[name] for _, arrays, _ in parts])
            assert whole.dtype == want[name].dtype
            np.testing.assert_array_equal(whole, want[name])
        for _, arrays, following in parts:
            np.testing.assert_array_equal(arrays["table"], want["table"])
            assert following == parts[0][2]
    return took[0][-1][2]


@pytest.mark.parametrize("size", [2, 4])
def test_the_parts_are_the_batch(beside: jetbatch.Service, size: int) -> None:
    ranks = launch(beside, f"parts-{size}", size)
    assert [b.world.rank for b in ranks if b.world] == list(range(size))
    together(ranks, None, 1, 60)
    status = ranks[0].status()
    assert status["world"] == "run-1" and len(status["members"]) == size
    for b in ranks:
        b.close()


def test_another_number_of_ranks(beside: jetbatch.Service) -> None:
    """One state resumes with any number of ranks; those of the launch before have lost the batcher."""
    state: Optional[jetbatch.State] = None
    before: List[jetbatch.Batcher] = []
    first = 1
    for launched, size in enumerate((2, 4, 3, 1, 2)):
        ranks = launch(beside, "elastic", size, run=f"run-{launched}", take_over=True)
        state = together(ranks, state, first, 20)
        first += 20
        for b in before:
            with pytest.raises(jetbatch.Superseded):
                b.take(state, timeout=60)
            b.close()
        before = ranks
    for b in before:
        b.close()


def test_ranks_that_share_rows(beside: jetbatch.Service) -> None:
    worlds = [jetbatch.World("run-1", rank, 4, part=rank // 2, parts=2, whole=["table"]) for rank in range(4)]
    ranks = [beside.open("shared", dataset="sheets", world=w) for w in worlds]
    for n, parts in enumerate(zip(*at_once(ranks, None, 40)), 1):
        half = (1 + n % 9) // 2
        assert [rows[:2] for rows, _, _ in parts] == [(0, half)] * 2 + [(half, 1 + n % 9)] * 2
        for pair in (parts[:2], parts[2:]):
            np.testing.assert_array_equal(pair[0][1]["x"], pair[1][1]["x"])
    for b in ranks:
        b.close()


def test_alone(beside: jetbatch.Service) -> None:
    with beside.open("alone", dataset="sheets") as b:
        assert b.world is None
        assert [step.rows for _, step in zip(range(9), b.steps())] == [(0, 1 + n % 9, 1 + n % 9) for n in range(1, 10)]


def test_worlds_that_cannot_be(beside: jetbatch.Service) -> None:
    for w in (
        jetbatch.World("", 0, 2),
        jetbatch.World("a b", 0, 2),
        jetbatch.World("run-1", 2, 2),
        jetbatch.World("run-1", 0, 257),
        jetbatch.World("run-1", 0, 2, part=2, parts=2),
        jetbatch.World("run-1", 0, 2, patience=1),
        jetbatch.World("run-1", 0, 2, whole="table"),
    ):
        with pytest.raises(jetbatch.BadConfig):
            beside.open("bad", dataset="sheets", world=w, timeout=60)


def test_diverged(beside: jetbatch.Service) -> None:
    ranks = launch(beside, "diverged", 2)
    following = ranks[0].take(timeout=60).next
    with pytest.raises(jetbatch.Diverged) as caught:
        ranks[1].take(following, timeout=60)
    assert caught.value.states[1] == following and caught.value.states[0] != following
    with pytest.raises(jetbatch.Diverged, match="rank 0"):
        for _ in ranks[0].steps(following, timeout=60):
            pass
    for b in ranks:
        b.close()


def test_rows_that_do_not_divide(beside: jetbatch.Service) -> None:
    for name, more, kind in (("uneven", {"even": True}, jetbatch.Uneven), ("table", {"whole": []}, jetbatch.NotRows)):
        worlds = [jetbatch.World("run-1", rank, 2, **{"whole": ["table"], **more}) for rank in range(2)]
        ranks = [beside.open(name, dataset="sheets", world=w) for w in worlds]
        for b in ranks:
            with pytest.raises(kind):
                for step in b.steps(timeout=60):
                    assert kind is jetbatch.Uneven and step.rows.of % 2 == 0
            b.close()


def test_a_binary_that_knows_no_ranks(beside: jetbatch.Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would give each rank all rows."""
    call = Bridge.call

    def as_before(self: Bridge, op: str, *args: Any, **more: Any) -> List[Any]:
        reply = call(self, op, *args, **more)
        return reply[:3] if op == "open" else reply

    monkeypatch.setattr(Bridge, "call", as_before)
    with pytest.raises(jetbatch.VersionMismatch, match="no ranks"):
        launch(beside, "before", 2)
    with beside.open("before", dataset="sheets") as b:
        assert b.take(timeout=60).rows == (0, 2, 2)


def start(rank: int, told: Dict[str, Any], **env: str) -> "subprocess.Popen[str]":
    """A rank in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "rank.py"), json.dumps(told)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(RANK=str(rank), **env),
    )


def said(process: "subprocess.Popen[str]") -> List[Dict[str, Any]]:
    """All that it says from now on."""
    out, _ = process.communicate(timeout=120)
    return [json.loads(line) for line in out.splitlines()]


def test_a_rank_that_is_killed(up: Up) -> None:
    """It is lost for the others, though its bridge ends in good order, and no process is left of it."""
    world = {"id": "run-1", "size": 2, "whole": ["table"], "patience": 3}
    told = {"url": up.url, "name": "killed", "length": 400, "world": {**world, "rank": 1}}
    other = start(1, told)
    assert other.stdout is not None
    for _ in range(3):
        assert other.stdout.readline()
    below = descendants(other.pid)
    assert below
    with jetbatch.connect(up.url) as service:
        b = service.open("killed", dataset="sheets", params={"length": 400}, world=jetbatch.World(rank=0, **world))
        state = b.take(timeout=60).next
        other.send_signal(signal.SIGKILL)
        said(other)
        with pytest.raises(jetbatch.RankLost, match="rank 1") as caught:
            for step in b.steps(state, timeout=60):
                state = step.next
        assert caught.value.rank == 1 and not caught.value.never_came and caught.value.silent >= 3
        assert caught.value.batcher == "killed" and caught.value.seq > 0
        with pytest.raises(jetbatch.RankLost):
            b.take(state, timeout=60)
    until(lambda: not any(map(alive, below)), "its bridge is gone")


def test_a_rank_that_has_left(up: Up) -> None:
    """The others go on, whether it closed the batcher or the service."""
    with jetbatch.connect(up.url) as service, jetbatch.connect(up.url) as leaving:
        for name, close in (("closed", lambda: gone.close()), ("disconnected", leaving.close)):
            worlds = [jetbatch.World("run-1", rank, 2, whole=["table"], patience=3) for rank in range(2)]
            b = service.open(name, dataset="sheets", params={"length": 400}, world=worlds[0])
            gone = leaving.open(name, dataset="sheets", params={"length": 400}, world=worlds[1])
            gone.take(timeout=60)
            close()
            assert sum(1 for _ in b.steps(timeout=60)) == 400
            b.close()


def test_a_wait_for_another_rank(beside: jetbatch.Service) -> None:
    """It is told apart from a wait for batches, which more workers would make shorter."""
    worlds = [jetbatch.World("run-1", rank, 2, whole=["table"]) for rank in range(2)]
    ahead, behind = (beside.open("waiting", dataset="sheets", window=2, world=w, timeout=60) for w in worlds)
    state, late = ahead.take(timeout=60).next, behind.take(timeout=60).next
    for _ in range(2):
        state = ahead.take(state, timeout=60).next
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ahead.take, state, 60)
        until(lambda: "rank 1 is at batch 2" in str(behind.status()["members"][0].get("waiting")), "it waits")
        assert not waiting.done()
        behind.take(late, timeout=60)
        timing = waiting.result().timing
    assert timing.wait >= 1 and timing.wait_ranks >= 0.9 * timing.wait
    waits = (timing.wait_iterate, timing.wait_queue, timing.wait_materialize, timing.wait_transfer, timing.wait_other)
    assert sum(waits) + timing.wait_ranks == pytest.approx(timing.wait)
    for b in (ahead, behind):
        b.close()


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


@pytest.mark.parametrize("launcher", ["none", "torchrun"])
def test_torch_distributed(up: Up, launcher: str) -> None:
    """The ranks of torch.distributed are those of a world. Where nothing names the launch, rank 0 does."""
    pytest.importorskip("torch", reason="torch is not installed: ranks of torch.distributed are not tested")
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    for name in ("JETBATCH_WORLD", "TORCHELASTIC_RUN_ID", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        env[name] = ""
    if launcher == "torchrun":
        env.update(TORCHELASTIC_RUN_ID="none", TORCHELASTIC_RESTART_COUNT="0")
    told = {"url": up.url, "name": f"torch-{launcher}", "length": 20, "backend": "gloo"}
    processes = [start(rank, told, **env) for rank in range(2)]
    lines = [said(process) for process in processes]
    assert [len(of) for of in lines] == [21, 21]
    for n, (a, b) in enumerate(zip(*lines)):
        assert n == 0 or a["y"] + b["y"] == sheet(n)["y"].tolist() and a["rows"][1] == b["rows"][0]
    ids = [of[0]["world"] for of in lines]
    assert [of[1:] for of in ids] == [[0, 2], [1, 2]] and ids[0][0] == ids[1][0] and len(ids[0][0]) == 32
    groups = [of[0]["group"] for of in lines]
    assert [of[1:] for of in groups] == [[0, 2], [1, 2]] and groups[0][0] == groups[1][0] != ids[0][0]
    if launcher == "torchrun":
        world = jetbatch.World.from_env({**os.environ, **env, "RANK": "1"})
        assert world is not None and world.id == ids[0][0]
