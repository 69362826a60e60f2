"""A service with the data sets of datasets.py, in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Set

import pytest

import jetbatch
from jetbatch import _binary

HERE = Path(__file__).parent
DATASETS = {
    "numbers": "datasets:Numbers",
    "faulty": "datasets:Faulty",
    "kinds": "datasets:Kinds",
    "recorded": "datasets:Recorded",
    "sheets": "datasets:Sheets",
}


def environment(**more: str) -> Dict[str, str]:
    """An environment in which child processes find the package and the tests' modules."""
    path = os.pathsep.join([str(HERE.parent), str(HERE)])
    return {
        **os.environ,
        "PYTHONPATH": path,
        "JETBATCH_PYTHON_INTERPRETER": sys.executable,
        "PYTHONFAULTHANDLER": "0",
        **more,
    }


def descendants(pid: int) -> List[int]:
    """The processes below a process, by /proc."""
    below: Dict[int, List[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            state, parent = stat[stat.rindex(")") + 2 :].split()[:2]
            if state != "Z":
                below.setdefault(int(parent), []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        children = below.get(todo.pop(), [])
        found += children
        todo += children
    return found


def alive(pid: int) -> bool:
    """Whether a process runs, and is not just waiting to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] != "Z"


def shared_memory(pid: int) -> Set[str]:
    """The inodes of the shared memory that a process holds, open or mapped."""
    try:
        held = {
            str(os.stat(f"/proc/{pid}/fd/{fd}").st_ino)
            for fd in os.listdir(f"/proc/{pid}/fd")
            if "memfd:jetbatch" in os.readlink(f"/proc/{pid}/fd/{fd}")
        }
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()  # it is gone, or another user's
    return held | {line.split()[4] for line in lines if "memfd:jetbatch" in line}


def held_anywhere(inodes: Set[str]) -> bool:
    """Whether any process holds one of these."""
    return any(inodes & shared_memory(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())


def files_held(pids: Iterable[int]) -> Set[str]:
    """The files that processes have open to write to, wherever they are: those that a kill could leave behind."""
    held = set()
    for pid in pids:
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                path = os.readlink(f"/proc/{pid}/fd/{fd}")
                flags = int(Path(f"/proc/{pid}/fdinfo/{fd}").read_text().split("flags:")[1].split()[0], 8)
                if flags & (os.O_WRONLY | os.O_RDWR) and os.path.isfile(path):
                    held.add(path)
        except OSError:
            pass  # it is gone
    return held


def files_left(folder: Path) -> List[Path]:
    """The files of a temporary folder but one: by the lock that a trainer had on it the next one knows that it died."""
    locks = folder / f"jetbatch-{os.getuid()}"
    walk = os.walk(folder)  # which goes on where a folder is removed meanwhile
    found = [Path(at) / name for at, below, files in walk for name in below + files if Path(at) / name != locks]
    return found if len(found) > 1 or found and found[0].parent != locks else []


def until(condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """Waits until a condition holds, and returns it."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)
    return result


class Up:
    """A service on a port."""

    def __init__(
        self,
        log: Path,
        *args: str,
        datasets: Optional[Dict[str, str]] = None,
        command: Sequence[str] = (),
        **env: str,
    ) -> None:
        self.log = log
        flags = [f"--python={n}={c}" for n, c in (DATASETS if datasets is None else datasets).items()]
        with log.open("wb") as err:
            self.process = subprocess.Popen(
                [*(command or [_binary.find()]), "up", "--listen", "127.0.0.1:0", "--json", "--slots", "2"]
                + [*flags, *args],
                stdout=subprocess.PIPE,
                stderr=err,
                env=environment(**env),
                cwd=HERE,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"no service: {log.read_text()}"
        self.url: str = json.loads(line)["url"]

    def end(self) -> None:
        """Ends it in good order, and sees to it that nothing is left."""
        below = descendants(self.process.pid)
        self.process.terminate()
        assert self.process.wait(60) == 0, self.log.read_text()
        assert self.process.stdout is not None
        self.process.stdout.close()
        until(lambda: not any(map(alive, below)), "the processes below are gone")


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    service = Up(tmp_path_factory.mktemp("up") / "log")
    yield service
    service.end()


@pytest.fixture
def service(up: Up) -> Iterator[jetbatch.Service]:
    with jetbatch.connect(up.url) as s:
        yield s
