"""Checks a data set as the service will use it: ``python -m jetbatch.check MODULE:CLASS --params '{}'``.

It looks at what datasettest.Run looks at in Go: purity, states that survive encoding, equal batches and fingerprints
from two openings, an end that stays one.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, Callable, List, Mapping, Tuple, Type

from . import _payload, dataset
from .serve import Opened, load


class Failed(Exception):
    """What is wrong with the data set."""


def check(kind: Type[dataset.Dataset], params: str = "{}", batches: int = 16) -> int:
    """Runs ``batches`` steps of two openings of a data set; returns how many there were. Raises :class:`Failed`."""
    first = _run("__init__", lambda: Opened(kind, params))
    second = _run("__init__", lambda: Opened(kind, params))
    if _run("fingerprint", first.fingerprint) != _run("fingerprint", second.fingerprint):
        raise Failed("fingerprint gives two answers: no other process could open the data set for the same run")
    state = _run("start", first.start)
    if _run("start", second.start) != state:
        raise Failed("start gives two states: it must be a pure function of the parameters")
    jobs: List[Tuple[bytes, bytes]] = []
    while len(jobs) < batches:
        step = _next(first, state)
        for again in (first, second):
            if _next(again, state) != step:
                raise Failed(f"next gives two answers for state {len(jobs)}: it must be a pure function of the state")
        if _run("progress", lambda: first.progress(state)) != _run("progress", lambda: second.progress(state)):
            raise Failed(f"progress gives two answers for state {len(jobs)}: it must be a pure function of the state")
        if step is None:
            break
        jobs.append(step)
        state = step[1]
    payloads = [_payload_of(first, job) for job, _ in jobs]
    # In another order, as workers do: a batch must not depend on those before it.
    for n in reversed(range(len(jobs))):
        if _payload_of(second, jobs[n][0]) != payloads[n]:
            raise Failed(f"materialize gives two batches for job {n}: its seed belongs into the job")
    for opened in (first, second):
        _run("close", opened.close)
    return len(jobs)


def _next(opened: Opened, state: bytes) -> "Tuple[bytes, bytes] | None":
    try:
        return opened.step(state)
    except StopIteration:
        return None
    except Exception as err:
        raise Failed(f"next: {type(err).__name__}: {err}") from err


def _payload_of(opened: Opened, job: bytes) -> bytes:
    try:
        batch: Mapping[str, Any] = opened.materialize(job)
        return _payload.encode(batch)
    except dataset.Skip as err:
        return b"skipped: " + str(err).encode(errors="replace")
    except Exception as err:
        raise Failed(f"materialize: {type(err).__name__}: {err}") from err


def _run(where: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as err:
        raise Failed(f"{where}: {type(err).__name__}: {err}") from err


def main() -> None:
    """Checks what the command line names; exits with 1 if something is wrong with it."""
    parser = argparse.ArgumentParser(prog="python -m jetbatch.check", description="Check a data set in Python.")
    parser.add_argument("dataset", metavar="MODULE:CLASS")
    parser.add_argument("--params", default="{}", metavar="JSON", help="parameters as a trainer would send them")
    parser.add_argument("--batches", type=int, default=16, metavar="N", help="how many to make (16)")
    args = parser.parse_args()
    if args.batches < 1:
        parser.error("--batches is 1 or more")
    try:
        n = check(_run("load", lambda: load(args.dataset)), args.params, args.batches)
    except Failed as err:
        sys.exit(f"{args.dataset}: {err}")
    print(f"{args.dataset}: all is well, {n} batches looked at")


if __name__ == "__main__":
    main()
