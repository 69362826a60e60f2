"""The trainer's side, against a service with data sets in Python."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jetbatch
from conftest import Up, alive, environment, files_left, held_anywhere, shared_memory, until
from datasets import batch
from jetbatch import _binary


def test_takes_in_order_and_resumes(service: jetbatch.Service) -> None:
    with service.open("order", dataset="numbers", params={"length": 100, "size": 3000}) as b:
        states = [jetbatch.State()]
        for n, step in enumerate(b.steps(), 1):
            assert (step.seq, step.prev, int(step["n"])) == (n, states[-1], n)
            np.testing.assert_array_equal(step["x"], batch(n, 3000)["x"])
            assert (step.next.dataset, step.next.version) == ("numbers", 3)
            assert step.next.decode() == {"index": n, "name": "größe"}
            states.append(step.next)
        assert len(states) == 101
        for _ in range(2):
            with pytest.raises(jetbatch.EndOfData):
                b.take(states[-1])
        for n in (37, 99, 1):  # any state goes on, as text too
            assert int(b.take(str(states[n]))["n"]) == n + 1
        assert b.status()["phase"] == "running"
    with service.open("order", dataset="numbers", params={"length": 100, "size": 3000}) as b:
        assert int(b.take(states[50])["n"]) == 51


def test_equals_the_reference(service: jetbatch.Service, up: Up, tmp_path: Path) -> None:
    """A data set in Go: Python and Go hand their states to one another, and Go makes every batch again to compare."""
    data, file = tmp_path / "data", tmp_path / "state"
    jetbatch_command("demo", "--keep", str(data), "--batches", "8")
    params = {"dir": str(data), "batch_size": 4}
    with service.open("reference", dataset="onda", params=params) as b:
        steps = [(step.next, step["x"].tobytes()) for _, step in zip(range(30), b.steps())]
        for n in (17, 3, 28):
            step = b.take(steps[n - 1][0])
            assert (step.next, step["x"].tobytes()) == steps[n]
    for n in (0, 11):  # from there on in Go, and back
        file.write_text(str(steps[n][0]))
        where = ["--server", up.url, "--name", f"reference-{n}", "--dataset", "onda", "--params", json.dumps(params)]
        jetbatch_command("take", *where, "--state-file", str(file), "--verify", "-n", "8", "--stop-at-end")
        assert file.read_text().strip() == str(steps[n + 8][0])


def jetbatch_command(*args: str) -> None:
    done = subprocess.run([_binary.find(), *args], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr


def test_step_tells_all(service: jetbatch.Service) -> None:
    with service.open("tells", dataset="numbers") as b:
        step = b.take()
        assert list(step) == ["x", "n"] and len(step) == 2 and "x" in step and "z" not in step
        assert step["x"].dtype == np.uint8 and step["n"].shape == () and not step["x"].flags.writeable
        assert step["x"].ctypes.data % 64 == 0
        with pytest.raises(ValueError):
            step["x"][0] = 1
        with pytest.raises(KeyError):
            step["z"]
        assert step.timing.materialize > 0 and step.worker in ("embedded-1", "embedded-2") and step.deliveries == 1
        assert repr(step) == "Step(seq=1, x: uint8[1024], n: int64[])"


def test_taken_is_what_take_returned(service: jetbatch.Service) -> None:
    with service.open("taken", dataset="numbers") as b:
        state = None
        for _ in range(7):
            state = b.take(state).next
        b.take(state)
        until(lambda: b.status()["taken"] == 8, "the service knows that 8 are taken")
        assert b.status()["fed"] > 8


def test_views_stay_valid(service: jetbatch.Service) -> None:
    with service.open("views", dataset="numbers", params={"size": 100_000}) as b:
        kept = []
        for step in b.steps():
            n = int(step["n"])
            kept.append((n, step["x"][5:], step["x"].reshape(10, -1).T))  # views of views, the steps go
            if n == 60:
                break
        del step
        gc.collect()
        for n, tail, square in kept:
            want = batch(n, 100_000)["x"]
            np.testing.assert_array_equal(tail, want[5:])
            np.testing.assert_array_equal(square, want.reshape(10, -1).T)


def test_memory_goes_back(service: jetbatch.Service) -> None:
    with service.open("back", dataset="numbers", params={"size": 3_000_000}, window=5) as b:
        for step in b.steps():
            if step.seq == 40:
                break
        assert sum(map(len, service._bridge._shared.segments.values())) <= (5 + 5) * 4_000_000  # of both
        assert len(service._bridge._shared.leases) - len(service._bridge._shared.expired) <= 2


def test_released(service: jetbatch.Service) -> None:
    with service.open("released", dataset="numbers", params={"size": 100_000}) as b:
        first = b.take()
        x = first["x"]
        first.release()
        first.release()
        with pytest.raises(jetbatch.Released, match="batch 1"):
            first["x"]
        state = first.next
        for _ in range(20):
            state = b.take(state).next
        np.testing.assert_array_equal(x, batch(1, 100_000)["x"])  # an array is never of other data


def test_keeping_all_views_is_an_error(up: Up) -> None:
    with jetbatch.connect(up.url, memory=4_000_000) as s, s.open(
        "keeps", dataset="numbers", params={"size": 1_000_000}
    ) as b:
        kept = []
        state: Any = None
        with pytest.raises(jetbatch.MemoryFull, match="keeps arrays"):
            for _ in range(20):
                step = b.take(state)
                kept.append(step["x"])
                state = step.next
        assert 4 <= len(kept) <= 6
        with pytest.raises(jetbatch.MemoryFull):
            b.take(state)
        del kept[0]
        assert int(b.take(state)["n"]) == len(kept) + 2  # the batch was not lost
        until(lambda: b.status()["taken"] == len(kept) + 2, "the service has it right")


def test_sizes_change(up: Up) -> None:
    """Segments for sizes that come no longer give way."""
    with jetbatch.connect(up.url, memory=1_000_000) as s:
        for size in (1000, 700_000, 20_000, 3_000_000, 10):
            with s.open("sizes", dataset="numbers", params={"size": size, "length": 30}, take_over=True) as b:
                for step in b.steps():
                    np.testing.assert_array_equal(step["x"], batch(step.seq, size)["x"])
                b.stop()
        assert sum(map(len, s._bridge._shared.segments.values())) <= 1_000_000 + 2 * 4_000_000


def test_start_stop(service: jetbatch.Service) -> None:
    with service.open("starts", dataset="numbers") as b:
        b.start()
        step = b.take()
        b.stop()
        b.stop()
        for _ in range(2):
            with pytest.raises(jetbatch.Stopped):
                b.take(step.next)
        b.start(step.next)
        assert int(b.take(step.next)["n"]) == 2
    with pytest.raises(jetbatch.Closed):
        b.take()
    b.close()


def test_errors_of_open(service: jetbatch.Service, up: Up) -> None:
    with pytest.raises(jetbatch.UnknownDataset):
        service.open("u", dataset="nosuch")
    with pytest.raises(jetbatch.BadConfig):
        service.open("not a name", dataset="numbers")
    with service.open("held", dataset="numbers") as b, jetbatch.connect(up.url) as other:
        with pytest.raises(jetbatch.InUse):
            other.open("held", dataset="numbers")
        with other.open("held", dataset="numbers", take_over=True) as taken_over:
            taken_over.take()
            with pytest.raises(jetbatch.Superseded):
                b.take()
    with pytest.raises(jetbatch.BadParams, match="a negative length"):
        with service.open("params", dataset="numbers", params={"length": -1}) as b:
            b.take()


def test_wrong_states(service: jetbatch.Service) -> None:
    with service.open("wrong", dataset="numbers") as b:
        step = b.take()
        with pytest.raises(jetbatch.WrongState):
            b.take(step.next._replace(version=2))
        with pytest.raises(jetbatch.BadStateText):
            b.take(str(step.next)[:-1])
        with pytest.raises(TypeError):
            b.take(7)  # type: ignore[arg-type]


def test_timeout_says_what_it_waited_for(service: jetbatch.Service) -> None:
    with service.open("waits", dataset="numbers", params={"slow": 1.0}) as b:
        with pytest.raises(jetbatch.Unavailable) as caught:
            b.take(timeout=0.2)
        assert "batch 1" in caught.value.waiting_for and 0.1 < caught.value.waited < 5
        assert int(b.take(timeout=20)["n"]) == 1  # nothing is lost
    with pytest.raises(jetbatch.Unavailable):
        service.open("waits2", dataset="numbers", timeout=1e-6)


def test_no_server() -> None:
    before = open_files()
    with pytest.raises(jetbatch.Error, match="127.0.0.1:9"):
        jetbatch.connect("nats://127.0.0.1:9", connect_timeout=0.3)
    assert open_files() == before


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_nothing_is_left(up: Up) -> None:
    before, maps = open_files(), shared_maps()
    for n in range(3):
        with jetbatch.connect(up.url) as s, s.open(f"left{n}", dataset="numbers", params={"size": 2_000_000}) as b:
            x = b.take()["x"]
            pid = s.pid
        assert not alive(pid)
        assert x[0] == 1  # even now
        del x
    gc.collect()
    assert open_files() == before
    del s, b
    gc.collect()
    assert shared_maps() == maps


def shared_maps() -> int:
    with open("/proc/self/maps") as f:
        return sum("memfd:jetbatch" in line for line in f)


def test_threads(service: jetbatch.Service) -> None:
    with service.open("threads", dataset="numbers", params={"slow": 0.02}) as b:
        done = threading.Event()
        seen = []

        def ask() -> None:
            while not done.is_set():
                seen.append(b.status()["taken"])

        asking = [threading.Thread(target=ask) for _ in range(3)]
        for t in asking:
            t.start()
        for step in b.steps():
            if step.seq == 40:
                break
        done.set()
        for t in asking:
            t.join(20)
            assert not t.is_alive()
        assert len(seen) > 10
        waiting = threading.Thread(target=lambda: pytest.raises(jetbatch.Stopped, drain, b, step.next))
        waiting.start()
        b.stop()  # ends a take that waits
        waiting.join(20)
        assert not waiting.is_alive()


def drain(b: jetbatch.Batcher, state: jetbatch.State) -> None:
    for _ in b.steps(state):
        pass


def test_two_takes_at_a_time(service: jetbatch.Service) -> None:
    with service.open("twice", dataset="numbers", params={"slow": 2.0}) as b:
        caught = []

        def take() -> None:
            try:
                b.take(timeout=1.0)
            except jetbatch.Error as err:
                caught.append(type(err))

        threads = [threading.Thread(target=take) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert set(caught) <= {jetbatch.BadRequest, jetbatch.Unavailable} and jetbatch.BadRequest in caught


def test_interrupt_ends_a_wait_and_loses_nothing(service: jetbatch.Service) -> None:
    """Ctrl-C at many moments of many takes: each batch is still taken, in order."""
    with service.open("interrupt", dataset="numbers", params={"length": 2000, "size": 5000}) as b:
        rng = np.random.default_rng(1)
        state, n, interrupted = None, 0, 0

        def raises(*_: Any) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, raises)
        try:
            while n < 2000:
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 4e-4))
                    step = b.take(state)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    interrupted += 1
                    step = b.take(state, timeout=20)
                assert int(step["n"]) == n + 1
                state, n = step.next, n + 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert interrupted > 100
        del step
        gc.collect()
        with pytest.raises(jetbatch.EndOfData):
            b.take(state)
        assert len(service._bridge._shared.leases) == len(service._bridge._shared.expired) and not service._bridge._replies


def test_interrupt_is_prompt(service: jetbatch.Service, request: pytest.FixtureRequest) -> None:
    # Who started the tests in the background had them ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with service.open("prompt", dataset="numbers", params={"slow": 3.0}) as b:

        def interrupt() -> None:
            until(lambda: service._bridge._leader, "it waits")
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            b.take()
        assert time.monotonic() - began < 2
        thread.join()
        assert int(b.take(timeout=30)["n"]) == 1


def test_fork(service: jetbatch.Service) -> None:
    with service.open("fork", dataset="numbers") as b:
        step = b.take()
        reads, writes = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                b.take(step.next)
            except BaseException as err:
                os.write(writes, f"{type(err).__name__}: {err}".encode())
            os._exit(0)
        os.close(writes)
        os.waitpid(pid, 0)
        with os.fdopen(reads) as f:
            assert f.read() == "Forked: this handle was opened before fork(); in the child, connect again"
        assert int(b.take(step.next)["n"]) == 2


def test_a_forked_child_does_not_keep_the_bridge(up: Up) -> None:
    """The trainer is killed while a child of its own lives on."""
    code = f"""
import jetbatch, os, sys, time
s = jetbatch.connect({up.url!r})
b = s.open("forkkill", dataset="numbers")
b.take()
child = os.fork()
if child == 0:
    time.sleep(60)
print(s.pid, child, flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True
    ) as trainer:
        assert trainer.stdout is not None
        bridge, child = map(int, trainer.stdout.readline().split())
        trainer.kill()
        trainer.wait()
        until(lambda: not alive(bridge), "the bridge is gone")
        assert alive(child)
        os.kill(child, signal.SIGKILL)


def test_bridge_killed(up: Up) -> None:
    s = jetbatch.connect(up.url)
    b = s.open("bridgekill", dataset="numbers", params={"slow": 0.3})
    x = b.take()["x"]
    threading.Timer(0.1, os.kill, (s.pid, signal.SIGKILL)).start()
    late = time.monotonic() + 20
    with pytest.raises(jetbatch.BridgeDied, match="killed by signal 9"):
        while time.monotonic() < late:
            b.take()
    with pytest.raises(jetbatch.BridgeDied):
        b.status()
    np.testing.assert_array_equal(x, batch(1, 1024)["x"])
    s.close()
    with jetbatch.connect(up.url) as s, s.open(
        "bridgekill", dataset="numbers", params={"slow": 0.3}, take_over=True
    ) as b:
        assert int(b.take()["n"]) == 1


def test_last_words(up: Up, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    fake = tmp_path / "jetbatch"
    fake.write_text("#!/bin/sh\necho no such luck >&2\nexit 7\n")
    fake.chmod(0o755)
    monkeypatch.setenv("JETBATCH_BINARY", str(fake))
    with pytest.raises(jetbatch.BridgeDied, match="ended with status 7: no such luck"):
        jetbatch.connect(up.url)
    monkeypatch.setenv("JETBATCH_BINARY", str(tmp_path / "nothing"))
    with pytest.raises(jetbatch.BinaryMissing, match="JETBATCH_BINARY"):
        jetbatch.connect(up.url)


def test_version_mismatch(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jetbatch._bridge.__version__", "9.9.9")
    with pytest.raises(jetbatch.VersionMismatch, match="9.9.9.*install them together"):
        jetbatch.connect(up.url)


def test_warnings_reach_the_log(service: jetbatch.Service, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="jetbatch"), service.open("warns", dataset="numbers") as b:
        first = b.take()
        b.take(first.next)
        b.take()  # moves back
        b.status()
    assert any(r.levelno == logging.WARNING and "warns" in r.message for r in caplog.records), caplog.records


def test_secrets_stay_off_the_command_line(up: Up) -> None:
    url = up.url.replace("nats://", "nats://someone:secret@")
    with jetbatch.connect(url) as s:
        with open(f"/proc/{s.pid}/cmdline") as f:
            assert "secret" not in f.read()


@pytest.mark.parametrize("victim", ["trainer", "bridge"])
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.3])
def test_killed_at_any_moment(up: Up, tmp_path: Path, victim: str, delay: float) -> None:
    """Whatever is killed, no process, shared memory or file is left, and another trainer goes on."""
    name = f"kill-{victim}-{int(delay * 100)}"
    code = f"""
import jetbatch
s = jetbatch.connect({up.url!r})
print(s.pid, flush=True)
with s.open({name!r}, dataset="numbers", params={{"size": 600000}}) as b:
    for step in b.steps():
        pass
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as trainer:
        assert trainer.stdout is not None
        bridge = int(trainer.stdout.readline())
        memory = shared_memory(bridge)
        assert memory and held_anywhere(memory)
        threading.Event().wait(delay)
        os.kill(trainer.pid if victim == "trainer" else bridge, signal.SIGKILL)
        trainer.wait(30)
        until(lambda: not alive(bridge), "the bridge is gone")
        until(lambda: not held_anywhere(memory), "the shared memory is gone")
        assert files_left(tmp_path) == []
    with jetbatch.connect(up.url) as s, s.open(
        name, dataset="numbers", params={"size": 600000}, take_over=True, timeout=30
    ) as b:
        assert int(b.take(timeout=30)["n"]) == 1
