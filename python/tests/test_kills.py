"""Whatever is killed, and whenever: no process, file or shared memory is left behind."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, Dict, List, Optional, Set

import pytest

from conftest import HERE, alive, descendants, environment, files_held, files_left, held_anywhere, shared_memory, until
from jetbatch import _binary

TRAINER = """
import jetbatch, signal, sys
leaving = []
signal.signal(signal.SIGUSR1, lambda *_: leaving.append(1))
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in a shell's background ignores it
with jetbatch.connect(sys.argv[1]) as s:
    with s.open("train", dataset="numbers", params={"size": 300000, "slow": 0.02}) as b:
        print("open", flush=True)
        for step in b.steps():
            if step.seq == 1:
                print("taken", flush=True)
            if leaving:
                break
"""


class Stage:
    """A service, a worker with a data set in Python, and a trainer: six processes that may be killed."""

    def __init__(self, folder: Path) -> None:
        self.mark = f"JETBATCH_TEST_MARK={uuid.uuid4()}"
        self.tmp = folder / "tmp"
        self.tmp.mkdir()
        self.env = environment(TMPDIR=str(self.tmp))
        self.env.update([self.mark.split("=")])
        self.log = (folder / "log").open("wb")
        self.started: Dict[str, "subprocess.Popen[bytes]"] = {}
        self.held: Set[str] = set()  # files that the processes had open, in whatever folder

    def start(self, role: str, *command: str) -> "subprocess.Popen[bytes]":
        self.started[role] = subprocess.Popen(
            command, env=self.env, cwd=HERE, stdout=subprocess.PIPE, stderr=self.log, start_new_session=True
        )
        return self.started[role]

    def start_up(self) -> None:
        self.start("up", _binary.find(), "up", "--listen", "127.0.0.1:0", "--json", "--workers", "0", *PYTHON)

    def start_worker(self) -> None:
        self.start("worker", _binary.find(), "worker", "--server", self.url(), "--slots", "1", *DRAIN, *PYTHON)

    def start_trainer(self) -> None:
        self.start("trainer", sys.executable, "-c", TRAINER, self.url())

    def url(self) -> str:
        if not hasattr(self, "_url"):
            self._url: str = json.loads(self.line("up"))["url"]
        return self._url

    def line(self, role: str) -> bytes:
        out = self.started[role].stdout
        assert out is not None
        line = out.readline()
        assert line, Path(self.log.name).read_text()
        return line

    def pid(self, role: str) -> Optional[int]:
        """The process of a role: one that was started here, or its first child."""
        if role in self.started:
            return self.started[role].pid
        below = descendants(self.started[PARENTS[role]].pid)
        return min(below) if below else None

    def marked(self) -> List[int]:
        """All processes that come from here and are alive."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    env = Path("/proc", entry, "environ").read_bytes()
                except OSError:
                    continue
                if self.mark.encode() in env.split(b"\0") and alive(int(entry)):
                    found.append(int(entry))
        return found

    def kill(self, role: str) -> None:
        """Kills a process; whatever only it had is gone soon, while the others live."""
        pid = self.pid(role)
        if pid is None or not alive(pid):
            return  # killed with another, or gone by itself
        below = descendants(pid)
        memory: Set[str] = set().union(*map(shared_memory, [pid, *below]))
        self.held |= files_held(self.marked())
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        if role in self.started:
            self.started[role].wait(30)
        until(lambda: not any(map(alive, [pid, *below])), f"the processes of {role} are gone")
        if role not in ("helper", "iterator"):  # the role has that memory until it needs the process again
            until(lambda: not held_anywhere(memory), f"the memory of {role} is gone")

    def end(self) -> None:
        """Ends what still runs, and looks whether something is left."""
        memory = set().union(*map(shared_memory, self.marked()))
        self.held |= files_held(self.marked())
        for role in ("trainer", "worker", "up"):
            process = self.started.get(role)
            if process is not None:
                process.send_signal(signal.SIGINT if role == "trainer" else signal.SIGTERM)
                process.wait(60)
                assert process.stdout is not None
                process.stdout.close()
        until(lambda: not self.marked(), "no process is left")
        assert not held_anywhere(memory)
        # A server that was killed leaves its folder; the next one that starts removes it.
        if any(self.tmp.glob("jetbatch-*/in-use")):
            again = Stage.__new__(Stage)
            again.__dict__.update(self.__dict__, started={})
            again.start_up()
            again.line("up")
            again.started["up"].terminate()
            again.started["up"].communicate(timeout=60)
        self.log.close()
        assert files_left(self.tmp) == []
        elsewhere = [path for path in self.held if Path(self.tmp) not in Path(path).parents and path != self.log.name]
        assert not any(map(os.path.exists, elsewhere)), elsewhere


DRAIN = ("--drain-timeout", "1s")  # where there is no server any more, it is waited for that long
PYTHON = ("--python=numbers=datasets:Numbers",)
PARENTS = {"bridge": "trainer", "helper": "worker", "iterator": "up"}
ROLES = ("trainer", "bridge", "up", "worker", "helper", "iterator")


@pytest.fixture
def stage(tmp_path: Path) -> Any:
    stage = Stage(tmp_path)
    yield stage
    for process in stage.started.values():
        if process.poll() is None:
            process.kill()
            process.wait()


def bring_up(stage: Stage) -> None:
    stage.start_up()
    stage.start_worker()
    stage.start_trainer()
    assert stage.line("trainer") == b"open\n" and stage.line("trainer") == b"taken\n"


@pytest.mark.parametrize("victim", ROLES)
def test_killed_at_its_start(stage: Stage, victim: str) -> None:
    parent = PARENTS.get(victim, victim)
    for role, start in (("up", stage.start_up), ("worker", stage.start_worker), ("trainer", stage.start_trainer)):
        start()
        if role == parent:
            until(lambda: stage.pid(victim), "it has begun")
            stage.kill(victim)
            break
    stage.end()


@pytest.mark.parametrize("victim", ROLES)
def test_killed_in_the_middle(stage: Stage, victim: str) -> None:
    bring_up(stage)
    stage.kill(victim)
    stage.end()


@pytest.mark.parametrize("victim", ROLES)
def test_killed_at_its_close(stage: Stage, victim: str) -> None:
    bring_up(stage)
    parent = PARENTS.get(victim, victim)
    stage.started[parent].send_signal(signal.SIGUSR1 if parent == "trainer" else signal.SIGTERM)
    time.sleep(0.003)  # some way into it: how far does not matter
    stage.kill(victim)
    stage.end()


@pytest.mark.parametrize("victims", itertools.combinations(ROLES, 2), ids="-".join)
def test_two_killed(stage: Stage, victims: List[str]) -> None:
    """One right after the other, as by a machine that runs out of memory."""
    bring_up(stage)
    pids = [pid for pid in map(stage.pid, victims) if pid is not None]
    memory = set().union(*map(shared_memory, stage.marked()))
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it died with the other
    until(lambda: not any(map(alive, pids)), "they are gone")
    stage.end()
    assert not held_anywhere(memory)


EMBEDDED = """
import jetbatch
with jetbatch.embedded(python={"numbers": "datasets:Numbers"}, slots=2) as s, s.open("t", dataset="numbers") as b:
    for step in b.steps():
        if step.seq == 3:
            print(s.pid, flush=True)
"""


@pytest.mark.parametrize("victim", ["trainer", "bridge", "helper"])
def test_embedded_killed(tmp_path: Path, victim: str) -> None:
    """The service is in the bridge then, and the processes of data sets below it."""
    folder = tmp_path / "tmp"
    folder.mkdir()

    def start() -> "subprocess.Popen[bytes]":
        command, env = [sys.executable, "-c", EMBEDDED], environment(TMPDIR=str(folder))
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    with start() as trainer:
        assert trainer.stdout is not None
        bridge = int(trainer.stdout.readline())
        helpers = descendants(bridge)
        memory: Set[str] = set().union(*map(shared_memory, [trainer.pid, bridge, *helpers]))
        assert helpers and memory
        os.kill({"trainer": trainer.pid, "bridge": bridge, "helper": helpers[0]}[victim], signal.SIGKILL)
        if victim == "helper":  # another takes its place
            until(lambda: not alive(helpers[0]), "it is gone")
            until(lambda: set(descendants(bridge)) - set(helpers), "there is another")
            helpers = descendants(bridge)
            trainer.send_signal(signal.SIGTERM)
        trainer.wait(60)
        until(lambda: not any(map(alive, [bridge, *helpers])), "they are gone")
        assert not held_anywhere(memory)
    if any(folder.glob("jetbatch-*/in-use")):  # as above: the next one removes what a killed server left
        with start() as again:
            assert again.stdout is not None
            again.stdout.readline()
            again.terminate()
        until(lambda: files_left(folder) == [], "nothing is left")
    assert files_left(folder) == []
