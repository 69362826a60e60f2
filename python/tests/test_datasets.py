"""Data sets in Python: what a worker does with them, and with what goes wrong in them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, List, Tuple

import numpy as np
import pytest

import datasets
import jetbatch
from conftest import DATASETS, HERE, Up, alive, descendants, environment, held_anywhere, shared_memory, until
from jetbatch import _binary, _payload, check


def faulty(service: jetbatch.Service, how: str, **params: Any) -> List[int]:
    """The batches of a run of Faulty."""
    name = "faulty-" + how + "".join(c for c in "".join(map(str, params.values())) if c.isalnum())[-20:]
    with service.open(name[:60], dataset="faulty", params={"how": how, **params}, in_order=True, timeout=30) as b:
        return [int(step["n"]) for step in b.steps(timeout=60)]


def test_every_kind_of_array(service: jetbatch.Service) -> None:
    with service.open("kinds", dataset="kinds") as b:
        steps = list(b.steps())
    assert len(steps) == len(datasets.KINDS)
    for step, want in zip(steps, datasets.KINDS):
        assert list(step) == list(want)
        for name, value in want.items():
            array = np.asarray(value)
            np.testing.assert_array_equal(step[name], array)
            assert step[name].dtype == array.dtype.newbyteorder("<") and step[name].shape == array.shape


@pytest.mark.parametrize(
    "value, words",
    [
        (np.array([object()]), "no tensor has elements of object"),
        (np.array([1.5], np.float16), "float16; view it as uint16"),
        (np.array(["a"]), "no tensor has elements of <U1"),
        (np.array([1j]), "complex128"),
    ],
)
def test_arrays_that_are_refused(value: Any, words: str) -> None:
    with pytest.raises(jetbatch.Error, match=words):
        _payload.encode({"x": value})


@pytest.mark.parametrize(
    "batch", [{"": 1}, {1: 1}, {"x" * 256: 1}, {"\ud800": 1}, [1], {str(n): 1 for n in range(257)}]
)
def test_batches_that_are_refused(batch: Any) -> None:
    with pytest.raises(jetbatch.Error):
        _payload.encode(batch)


def test_exception_comes_with_its_stack(service: jetbatch.Service) -> None:
    with pytest.raises(jetbatch.MaterializeFailed, match="ValueError: größe ist falsch") as caught:
        faulty(service, "exception", at=1)
    err = caught.value
    assert isinstance(err, jetbatch.JobError)
    assert "datasets.py" in err.stack and "in exception" in err.stack
    assert (err.seq, err.attempts, err.dataset) == (1, 5, "faulty")
    assert err.worker.startswith("embedded-")


def test_a_passing_exception_is_tried_again(service: jetbatch.Service, tmp_path: Path) -> None:
    assert faulty(service, "exception", marker=str(tmp_path / "once")) == list(range(1, 11))


def test_permanent_is_not_tried_again(service: jetbatch.Service) -> None:
    with pytest.raises(jetbatch.MaterializeFailed, match="never") as caught:
        faulty(service, "permanent")
    assert caught.value.attempts == 1


def test_skip_is_a_hole(service: jetbatch.Service) -> None:
    assert faulty(service, "skip") == [1, 2, 4, 5, 6, 7, 8, 9, 10]


def test_iterator_fails(service: jetbatch.Service) -> None:
    with pytest.raises(jetbatch.IteratorFailed, match="in next") as caught:
        faulty(service, "iterator", at=5)
    assert "datasets.py" in caught.value.stack


@pytest.mark.parametrize("how", ["exit", "segfault", "output", "exhausted"])
def test_disasters_are_survived_once(service: jetbatch.Service, up: Up, tmp_path: Path, how: str) -> None:
    """An attempt that ends so is tried again, in another process where its own is gone; nothing else is hurt."""
    before = until(lambda: workers(up), "there are processes")
    assert faulty(service, how, marker=str(tmp_path / "once")) == list(range(1, 11))
    if how == "segfault":
        until(lambda: sum(map(alive, before)) < len(before), "the process is gone")
    assert len(workers(up)) <= 3  # two that materialize, one that iterates, of this data set


def test_an_endless_loop_ends_with_its_deadline(tmp_path: Path) -> None:
    up = Up(tmp_path / "log", "--job-timeout", "5s", datasets={"faulty": "datasets:Faulty"})
    try:
        with jetbatch.connect(up.url) as s:
            assert faulty(s, "hang", marker=str(tmp_path / "once")) == list(range(1, 11))
    finally:
        up.end()


def workers(up: Up) -> List[int]:
    """The processes of the data set faulty."""
    return [pid for pid in descendants(up.process.pid) if b"Faulty" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_death_is_told_with_the_last_words(service: jetbatch.Service) -> None:
    with pytest.raises(jetbatch.MaterializeFailed, match="segmentation fault") as caught:
        faulty(service, "segfault")
    assert "about to fall" in caught.value.stack


def test_print_goes_to_the_log(service: jetbatch.Service, up: Up, tmp_path: Path) -> None:
    faulty(service, "segfault", marker=str(tmp_path / "once"))
    until(lambda: "about to fall" in up.log.read_text(), "the words are in the log")


def test_embedded_prints_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="jetbatch"):
        with jetbatch.embedded(python={"faulty": datasets.Faulty}) as s:
            faulty(s, "segfault", marker=str(tmp_path / "once"))
            assert os.stat(f"/proc/{s.pid}/fd/2").st_size == 0  # a file that nobody sees does not grow
    assert any("about to fall" in record.message for record in caplog.records)


def test_memory_is_bounded(tmp_path: Path) -> None:
    up = Up(tmp_path / "log", "--process-memory", str(1 << 30), datasets={"faulty": "datasets:Faulty"})
    try:
        with jetbatch.connect(up.url) as s:
            with pytest.raises(jetbatch.MaterializeFailed, match="MemoryError"):
                faulty(s, "memory")
    finally:
        up.end()


def test_no_such_class(tmp_path: Path) -> None:
    for where, words in (
        ("nosuch:X", "No module named 'nosuch'"),
        ("datasets:nosuch", "nosuch"),
        ("datasets", "MODULE:CLASS"),
    ):
        out = subprocess.run(
            [_binary.find(), "up", "--listen", "127.0.0.1:0", f"--python=x={where}"],
            env=environment(),
            cwd=HERE,
            text=True,
            capture_output=True,
            timeout=60,
        )
        assert out.returncode in (1, 2) and words in out.stderr, out
    with pytest.raises(jetbatch.Error, match="No module named 'nosuch'"):  # without a log that can be read
        jetbatch.embedded(python={"x": "nosuch:X"})


def test_kill_9_of_a_process_costs_an_attempt(up: Up) -> None:
    with jetbatch.connect(up.url) as s, s.open("killed", dataset="numbers", params={"length": 60, "slow": 0.02}) as b:
        for n, step in enumerate(b.steps(timeout=60), 1):
            assert int(step["n"]) == n
            if n % 20 == 0:
                victims = [
                    p for p in descendants(up.process.pid) if b"Numbers" in Path(f"/proc/{p}/cmdline").read_bytes()
                ]
                os.kill(victims[n // 20 % len(victims)], signal.SIGKILL)
        assert n == 60


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_service(tmp_path: Path, how: int) -> None:
    """With one process in an endless loop, which sees no end of file."""
    up = Up(tmp_path / "log", "--job-timeout", "20s", datasets={"faulty": "datasets:Faulty"})
    with jetbatch.connect(up.url) as s:
        s.open("loop", dataset="faulty", params={"how": "hang", "at": 1}).start()
        until(lambda: any(map(spins, descendants(up.process.pid))), "a process spins")
        below = descendants(up.process.pid)
        memory = set().union(*map(shared_memory, below))
        assert memory
        os.kill(up.process.pid, how)
        up.process.wait(90)
        until(lambda: not any(map(alive, below)), "the processes are gone")
        until(lambda: not held_anywhere(memory), "the shared memory is gone")
    assert up.process.stdout is not None
    up.process.stdout.close()


def spins(pid: int) -> bool:
    """Whether a process has used the CPU for a while."""
    try:
        stat, command = Path(f"/proc/{pid}/stat").read_text(), Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"Faulty" in command and int(stat[stat.rindex(")") + 2 :].split()[11]) > 100


def test_the_wheels_command_has_this_python_for_data_sets(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from jetbatch._binary import main; main()"]
    numbers = {"numbers": DATASETS["numbers"]}
    up = Up(tmp_path / "log", command=command, datasets=numbers, JETBATCH_PYTHON_INTERPRETER="")
    try:
        processes = [Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in descendants(up.process.pid)]
        assert [sys.executable, "-u", "-m", "jetbatch.serve"] in [words[:4] for words in processes]
    finally:
        up.end()


def test_exec_any_language(tmp_path: Path) -> None:
    command = f"{sys.executable} -m jetbatch.serve datasets:Numbers"
    up = Up(tmp_path / "log", f"--exec=mine={command}", datasets={})
    try:
        with jetbatch.connect(up.url) as s, s.open("exec", dataset="mine", params={"length": 3}) as b:
            assert [int(step["n"]) for step in b.steps()] == [1, 2, 3]
    finally:
        up.end()


class Impure(datasets.Numbers):
    calls = 0

    def next(self, state: Any) -> Any:
        Impure.calls += 1
        return Impure.calls, state


class Random(datasets.Numbers):
    def materialize(self, job: Any) -> Any:
        return {"x": np.random.default_rng().random(3)}


class Moody(datasets.Numbers):
    def fingerprint(self) -> jetbatch.Fingerprint:
        return jetbatch.Fingerprint(str(np.random.default_rng().random()))


class Plain(datasets.Numbers):
    def fingerprint(self) -> Any:
        return {"digest": "x"}


class Wide(datasets.Numbers):
    version = 1 << 32


class Tuples(datasets.Numbers):
    def start(self) -> Any:
        return {"index": np.int64(0)}


def test_check() -> None:
    assert check.check(datasets.Numbers, '{"length": 5}') == 5
    assert check.check(datasets.Numbers) == 16
    for kind, words in (
        (Impure, "pure function of the state"),
        (Random, "seed belongs into the job"),
        (Tuples, "convert it with int"),
        (Moody, "fingerprint gives two answers"),
        (Plain, "fingerprint: AttributeError"),
    ):
        with pytest.raises(check.Failed, match=words):
            check.check(kind)
    assert run_check("datasets:Numbers") == (0, "datasets:Numbers: all is well, 16 batches looked at\n", "")


def run_check(*args: str) -> Tuple[int, str, str]:
    command = [sys.executable, "-m", "jetbatch.check", *args]
    out = subprocess.run(command, env=environment(), cwd=HERE, text=True, capture_output=True)
    return out.returncode, out.stdout, out.stderr


@pytest.mark.parametrize(
    "args, status, words",
    [
        (["nosuch:X"], 1, "No module named 'nosuch'"),
        (["datasets"], 1, "MODULE:CLASS"),
        (["datasets:Nosuch"], 1, "no attribute 'Nosuch'"),
        (["test_datasets:Wide"], 1, "versions have 32 bits"),
        (["datasets:Numbers", "--params", "{"], 1, "JSON"),
        (["datasets:Numbers", "--batches", "-1"], 2, "--batches is 1 or more"),
    ],
)
def test_check_says_in_a_line_what_is_wrong(args: List[str], status: int, words: str) -> None:
    returned, out, err = run_check(*args)
    assert returned == status and not out and words in err and "Traceback" not in err, err


class Worker:
    """A worker process of a service elsewhere."""

    def __init__(self, up: Up, log: Path) -> None:
        self.log = log
        with log.open("wb") as err:
            self.process = subprocess.Popen(
                [_binary.find(), "worker", "--server", up.url, "--slots", "1", "--python=numbers=datasets:Numbers"],
                stderr=err,
                env=environment(),
                cwd=HERE,
                start_new_session=True,
            )
        self.below = until(lambda: descendants(self.process.pid), "it has a process")

    def end(self, how: int) -> int:
        """Ends it, and sees to it that nothing is left; returns how it ended."""
        below = descendants(self.process.pid)
        memory = set().union(*map(shared_memory, below))
        self.process.send_signal(how)
        status = self.process.wait(60)
        until(lambda: not any(map(alive, below)), "the processes below are gone")
        assert not held_anywhere(memory)
        return status


def test_workers_come_and_go(tmp_path: Path) -> None:
    """One is killed, one drains, each with a job under way; every batch comes, in order."""
    up = Up(tmp_path / "log", "--workers", "0", datasets={"numbers": "datasets:Numbers"})
    try:
        workers = [Worker(up, tmp_path / "0"), Worker(up, tmp_path / "1")]
        with jetbatch.connect(up.url) as s:
            with s.open("comes", dataset="numbers", params={"length": 80, "slow": 0.05}, timeout=30) as b:
                for n, step in enumerate(b.steps(timeout=60), 1):
                    assert int(step["n"]) == n
                    if n == 20:
                        assert workers[0].end(signal.SIGKILL) == -signal.SIGKILL
                        workers[0] = Worker(up, tmp_path / "2")
                    if n == 40:
                        assert workers[1].end(signal.SIGTERM) == 0, workers[1].log.read_text()
                assert n == 80
        assert workers[0].end(signal.SIGTERM) == 0, workers[0].log.read_text()
    finally:
        up.end()


def test_state_of_other_data(service: jetbatch.Service, tmp_path: Path) -> None:
    file = tmp_path / "recordings"
    file.write_text("93")
    params = {"file": str(file)}
    with service.open("recorded", dataset="recorded", params=params, timeout=30) as b:
        step = b.take(None, timeout=60)
        assert list(step["n"]) == [0, 93]
        state = step.next
        assert b.status()["data"] == "kept all 93"
        far = until(lambda: b.status().get("progress"), "a data set in Python says how far it is")
        assert (far["epoch"], far["epochs"], far["batches"]) == (1, 3, 40) and far.get("batch", 0) <= 1
    file.write_text("96")
    with service.open("recorded-refused", dataset="recorded", params=params, timeout=30) as b:
        with pytest.raises(jetbatch.WrongData, match="recordings was 93 and is 96"):
            b.take(state, timeout=60)
    with service.open("recorded-on", dataset="recorded", params=params, accept_change=True, timeout=30) as b:
        assert list(b.take(state, timeout=60)["n"]) == [1, 96]


def test_missing_folder_is_named(service: jetbatch.Service, tmp_path: Path) -> None:
    with pytest.raises(jetbatch.Error, match="No such file or directory"):
        service.open("nowhere", dataset="recorded", params={"file": str(tmp_path / "no" / "file")}, timeout=30)
