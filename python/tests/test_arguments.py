"""Arguments that cannot work: each is an error of its call, and no other call hears of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Type

import numpy as np
import pytest

import jetbatch
from conftest import Up

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": 5},
        {"name": "\udc80"},
        {"name": "ü"},
        {"dataset": None},
        {"window": 1.5},
        {"window": "3"},
        {"window": True},
        {"window": 1 << 70},
        {"window_bytes": 1e9},
        {"retain": None},
        {"idle_timeout": "60"},
        {"idle_timeout": NAN},
        {"idle_timeout": INF},
        {"idle_timeout": 1e12},
        {"params": [1]},
        {"world": 5},
        {"world": jetbatch.World("w", 0.0, 2)},  # type: ignore[arg-type]
        {"world": jetbatch.World("w", 0, 2, whole=5)},  # type: ignore[arg-type]
        {"timeout": "5"},
        {"timeout": NAN},
    ],
)
def test_open(service: jetbatch.Service, wrong: Dict[str, Any]) -> None:
    arguments: Dict[str, Any] = {"name": "arguments", "dataset": "numbers", **wrong}
    with pytest.raises(jetbatch.BadConfig):
        service.open(arguments.pop("name"), **arguments)
    with service.open("arguments", dataset="numbers") as b:
        b.take(timeout=30)


@pytest.mark.parametrize("wrong", [np.int64(4), NAN, {1}])
def test_parameters_are_json(service: jetbatch.Service, wrong: Any) -> None:
    with pytest.raises(jetbatch.BadParams):
        service.open("parameters", dataset="numbers", params={"length": wrong})


def test_open_takes_what_means_the_same(service: jetbatch.Service) -> None:
    same: Dict[str, Any] = {"window": np.int64(3), "take_over": np.bool_(True), "timeout": np.float32(30)}
    with service.open("same", dataset="numbers", **same) as b:
        assert int(b.take(timeout=INF)["n"]) == 1
        assert int(b.take(timeout=1e300)["n"]) == 1
        assert b.status(timeout=1e10)["window"] == 3


def test_no_time_is_at_once(service: jetbatch.Service) -> None:
    with service.open("at-once", dataset="numbers", params={"slow": 2.0}, timeout=30) as b:
        b.start()
        for timeout in (0, -1, -INF):
            with pytest.raises(jetbatch.Unavailable):
                b.take(timeout=timeout)
        for timeout in ("5", NAN):
            with pytest.raises(jetbatch.BadConfig):
                b.take(timeout=timeout)  # type: ignore[arg-type]
        step = None
        while step is None:  # what is here is taken, and asking for it without patience does not keep it away
            try:
                step = b.take(timeout=0)
            except jetbatch.Unavailable:
                b.status()
        assert int(step["n"]) == 1


@pytest.mark.parametrize(
    "wrong, error",
    [
        ({"version": (1 << 32) + 3}, jetbatch.WrongState),
        ({"version": -1}, jetbatch.WrongState),
        ({"version": "3"}, jetbatch.WrongState),
        ({"data": "text"}, jetbatch.WrongState),
        ({"dataset": "\udc80"}, jetbatch.WrongState),
        ({"data": bytes(20_000)}, jetbatch.StateTooLarge),
    ],
)
def test_states_made_by_hand(service: jetbatch.Service, wrong: Dict[str, Any], error: Type[Exception]) -> None:
    with service.open("by-hand", dataset="numbers", timeout=30) as b:
        state = b.take(timeout=30).next
        for call in (b.take, b.start):
            with pytest.raises(error):
                call(state._replace(**wrong))
        assert int(b.take(state, timeout=30)["n"]) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory": 1e9},
        {"memory": -1},
        {"slots": -1},
        {"slots": 1.5},
        {"python": {"x": "nocolon"}},
        {"python": {"x": 5}},
        {"python": {"no name": "datasets:Numbers"}},
    ],
)
def test_embedded(wrong: Dict[str, Any]) -> None:
    with pytest.raises(jetbatch.BadConfig):
        jetbatch.embedded(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"memory": -1}, {"creds": "/no/such/file"}, {"connect_timeout": NAN}, {"connect_timeout": "1"}, {"server": "://"}],
)
def test_connect(up: Up, wrong: Dict[str, Any]) -> None:
    with pytest.raises(jetbatch.BadConfig):
        jetbatch.connect(**{"server": up.url, **wrong})


def test_connect_timeout_is_any_time() -> None:
    for seconds in (1e-5, 0, -1):
        with pytest.raises(jetbatch.Error, match="127.0.0.1:9"):
            jetbatch.connect("nats://127.0.0.1:9", connect_timeout=seconds)


def test_binary_that_cannot_be_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense"
    nonsense.write_bytes(b"\0")
    nonsense.chmod(0o755)
    for path in (tmp_path, nonsense):
        monkeypatch.setenv("JETBATCH_BINARY", str(path))
        with pytest.raises(jetbatch.BinaryMissing, match=str(path)):
            jetbatch.connect()


def test_a_bridge_that_panics_died(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "jetbatch"
    fake.write_text("#!/bin/sh\necho panic: nil map >&2\nexit 2\n")
    fake.chmod(0o755)
    monkeypatch.setenv("JETBATCH_BINARY", str(fake))
    with pytest.raises(jetbatch.BridgeDied, match="status 2: panic: nil map"):
        jetbatch.connect()
