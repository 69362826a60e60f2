"""Figures of the Python package beside a Go trainer and torch's DataLoader, in one run, rounds in turns.

    go build -o /tmp/jetbatch-benchmark ./python/benchmark
    JETBATCH_BINARY=/tmp/jetbatch-benchmark PYTHONPATH=python python3 python/benchmark/run.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence

import jetbatch
from jetbatch import _binary
from floor import floor
from sized import Map, Pace, pace

HERE = Path(__file__).resolve().parent
SIZES = {"1 KB": 1 << 10, "64 KB": 64 << 10, "1 MB": 1 << 20, "20 MB": 20 << 20, "100 MB": 100 << 20}
serial = itertools.count()


def cpu(pid: int) -> float:
    """What a process has used, in seconds."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    user, system = stat[stat.rindex(")") + 2 :].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def python_trainer(service: jetbatch.Service, dataset: str, params: Dict[str, Any], seconds: float) -> Pace:
    with service.open(f"python-{next(serial)}", dataset=dataset, params=params) as b:
        result = pace(b.steps(), seconds)
        b.stop()
    return result


def go_trainer(url: str, params: Dict[str, Any], batches: int) -> Pace:
    args = [
        "take",
        "--server",
        url,
        "--name",
        f"go-{next(serial)}",
        "--dataset",
        "sized",
        "--params",
        json.dumps(params),
        "--stop-at-end",
    ]
    before = os.times()
    out = subprocess.run([_binary.find(), *args, "-n", str(batches), "--json"], capture_output=True, check=True)
    after = os.times()
    used = after.children_user - before.children_user + after.children_system - before.children_system
    return Pace(json.loads(out.stdout)["batches_per_s"], used / batches, batches)


def data_loader(params: Dict[str, Any], seconds: float) -> float:
    import torch

    loader = torch.utils.data.DataLoader(Map(params), batch_size=None, num_workers=2, sampler=iter(range(1 << 40)))
    return pace(loader, seconds).rate


def median(results: List[float]) -> float:
    return statistics.median(results)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one figure")
    args = parser.parse_args()
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    up = subprocess.Popen(
        [_binary.find(), "up", "--listen", "127.0.0.1:0", "--json", "--slots", "2", "--python=numpy=sized:Sized"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path, "JETBATCH_PYTHON_INTERPRETER": sys.executable},
    )
    try:
        assert up.stdout is not None
        url = json.loads(up.stdout.readline())["url"]
        with jetbatch.connect(url) as service:
            trainers(service, url, up.pid, args.rounds, args.seconds)
            datasets(service, args.rounds, args.seconds)
    finally:
        up.terminate()
        up.wait()


def trainers(service: jetbatch.Service, url: str, up: int, rounds: int, seconds: float) -> None:
    print(
        f"{'batch':8} {'Go trainer':>12} {'Python':>12} {'ratio':>6} {'DataLoader':>12} {'ratio':>6}   "
        "batches/s; µs of CPU for a batch: Python + bridge + service, Go + service, and the median ratio of the sums"
    )
    for name, size in SIZES.items():
        go, py, dl = [], [], []
        ours, theirs = [], []  # what a batch costs, by process
        for _ in range(rounds):
            bridge, served = cpu(service.pid), cpu(up)
            p = python_trainer(service, "sized", {"size": size}, seconds)
            py.append(p.rate)
            ours.append((p.cpu, (cpu(service.pid) - bridge) / p.count, (cpu(up) - served) / p.count))
            served = cpu(up)
            g = go_trainer(url, {"size": size}, max(p.count, 20))
            go.append(g.rate)
            theirs.append((g.cpu, (cpu(up) - served) / g.count))
            dl.append(data_loader({"size": size}, seconds))
        ratio = median([sum(b) / sum(a) for a, b in zip(ours, theirs)])
        print(
            f"{name:8} {median(go):12,.0f} {median(py):12,.0f} {median(py) / median(go):6.2f} {median(dl):12,.0f} "
            f"{median(py) / median(dl):6.2f}   {costs(ours)}, {costs(theirs)}, {ratio:.2f}",
            flush=True,
        )
    floors = ", ".join(f"{floor(1 << 10, depth) * 1e6:.0f} µs with {depth}" for depth in (1, 4, 16))
    print(f"the least of Python for a batch of 1 KB, so many of which come at a time: {floors}")


def costs(rounds: Sequence[Sequence[float]]) -> str:
    """The least of each process, in microseconds."""
    return " + ".join(f"{min(of) * 1e6:,.0f}" for of in zip(*rounds))


def datasets(service: jetbatch.Service, rounds: int, seconds: float) -> None:
    own, foreign, dl = [], [], []
    for _ in range(rounds):
        own.append(python_trainer(service, "sized", {"size": 1024}, seconds).rate)
        foreign.append(python_trainer(service, "numpy", {"size": 1024}, seconds).rate)
    extra = 2 * (1 / median(foreign) - 1 / median(own)) * 1e6  # of two slots
    print(
        "\na data set in Python beside one in Go, 1 KB, two slots: "
        f"{median(foreign):,.0f} and {median(own):,.0f} batches/s"
    )
    print(f"  at most {extra:.0f} µs of a slot per job, the job's own work in Python included")
    work = []
    for _ in range(rounds):
        work.append(python_trainer(service, "numpy", {}, 3 * seconds).rate)
        dl.append(data_loader({}, 3 * seconds))
    print(
        "numpy work, 24 MB a batch, two slots beside two workers of DataLoader: "
        f"{median(work):.1f} and {median(dl):.1f} batches/s, "
        f"ratio {median(work) / median(dl):.2f}"
    )


if __name__ == "__main__":
    main()
