"""Bytes that Go and Python must agree on: bridge/testdata/vectors.json."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Any, Dict

import msgpack
import numpy as np
import pytest

import jetbatch
from jetbatch import _payload, errors
from jetbatch._ahead import Ahead
from jetbatch._step import Layout, Step
from jetbatch._wire import _pack
from jetbatch._world import as_wire

VECTORS: Dict[str, Any] = json.loads((Path(__file__).parents[2] / "bridge/testdata/vectors.json").read_text())


def value(notation: Dict[str, Any]) -> Any:
    """The value of a notation: an object with one key, which is the type."""
    ((kind, v),) = notation.items()
    if kind == "list":
        return [value(x) for x in v]
    if kind == "dict":
        return {key: value(x) for key, x in v}
    if kind == "float":
        return struct.unpack(">d", bytes.fromhex(v))[0]
    return {
        "nil": lambda: None,
        "bool": lambda: v,
        "int": lambda: int(v),
        "str": lambda: v,
        "bytes": lambda: bytes.fromhex(v),
    }[kind]()


def same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("vector", VECTORS["values"], ids=lambda v: v["name"])
def test_values(vector: Dict[str, Any]) -> None:
    v = value(vector["value"])
    assert jetbatch.pack(v).hex() == vector["hex"]
    assert same(jetbatch.unpack(bytes.fromhex(vector["hex"])), v)


@pytest.mark.parametrize("vector", VECTORS["states"], ids=lambda v: v["dataset"])
def test_states(vector: Dict[str, Any]) -> None:
    state = jetbatch.State(vector["dataset"], vector["version"], bytes.fromhex(vector["data"]))
    assert str(state) == vector["text"]
    assert jetbatch.State.parse(f" {vector['text']}\n") == state


@pytest.mark.parametrize("vector", VECTORS["abouts"], ids=lambda v: v["name"])
def test_abouts(vector: Dict[str, Any]) -> None:
    step = Step(jetbatch.State(), jetbatch.State(), 1, 0, 0, 1, bytes.fromhex(vector["hex"]))
    for name, seconds in step.timing._asdict().items():
        assert seconds == vector["timing"].get(f"{name}_ns", 0) / 1e9
    assert [step.worker, step.attempt, step.deliveries, step.trace] == [
        vector[name] for name in ("worker", "attempt", "deliveries", "trace")
    ]
    assert list(step.rows) == vector["rows"]


@pytest.mark.parametrize("vector", VECTORS["batches"], ids=lambda v: v["name"])
def test_batches(vector: Dict[str, Any]) -> None:
    batch = {
        t["name"]: np.frombuffer(bytes.fromhex(t["data"]), np.dtype(t["dtype"]).newbyteorder("<")).reshape(t["shape"])
        for t in vector["tensors"]
    }
    payload = _payload.encode(batch)
    assert payload.hex() == vector["payload"]
    root = np.frombuffer(payload, np.uint8)
    step = Step(jetbatch.State(), jetbatch.State(), 1, 0, len(payload), 1, b"")
    step._root, step._layout = root, Layout(root)
    assert list(step) == list(batch)
    for name, array in batch.items():
        assert step[name].dtype == array.dtype
        np.testing.assert_array_equal(step[name], array)


def test_batches_one_after_another() -> None:
    """What the one before left in the memory is nowhere in the next."""
    fd = os.memfd_create("test")
    region = _payload.Region(fd)
    few, many = {"x": np.arange(5, dtype=np.int16), "y": np.float32(2)}, {"z": np.full((300, 700), 7, np.uint8)}
    for batch in (few, {**few, "y": np.float32(3)}, many, few, {"x": few["x"][::-1], "y": few["y"]}, many):
        size = region.write(batch)
        assert os.pread(fd, size, 0) == _payload.encode(batch)
    os.close(fd)


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda v: v["name"])
def test_frames(vector: Dict[str, Any]) -> None:
    frame = bytes.fromhex(vector["hex"])
    (size,) = struct.unpack_from("<I", frame)
    assert size == len(frame) - 4
    want = value(vector["value"])
    assert msgpack.unpackb(frame[4:], raw=False) == want
    if not isinstance(want[-1], dict):  # the order of keys is free
        assert _pack(want) == frame[4:]


def frame(name: str) -> Any:
    """A frame of the vectors."""
    return next(value(v["value"]) for v in VECTORS["frames"] if v["name"] == name)


def test_frames_of_ranks() -> None:
    """What a rank opens with, which rows it is told, and the faults of a world."""
    world = jetbatch.World("run-1", 1, 4, parts=2, whole=["table"], even=True, patience=90)
    assert as_wire(world) == frame("open of a rank")[2]["world"] and as_wire(None) is None
    assert set(frame("open")[2]) < set(frame("open of a rank")[2])
    step = frame("step")
    assert Step(jetbatch.State(), jetbatch.State(), 1, 0, 0, 1, step[8]).rows == jetbatch.Rows(8, 16, 32)
    lost = errors.from_fault(frame("error: rank_lost")[2])
    assert isinstance(lost, jetbatch.RankLost) and "rank 1 of world run-1" in str(lost)
    assert (lost.batcher, lost.rank, lost.seq, lost.silent, lost.never_came) == ("train", 1, 7, 60.0, False)
    diverged = errors.from_fault(frame("error: diverged")[2])
    assert isinstance(diverged, jetbatch.Diverged) and diverged.batcher == "train"
    assert diverged.states == {1: jetbatch.State("onda", 1, b"\x02"), 0: jetbatch.State("onda", 1, b"\x01")}
    assert type(errors.from_fault(frame("error: uneven")[2])) is jetbatch.Uneven
    assert type(errors.from_fault(frame("error: not_rows")[2])) is jetbatch.NotRows


@pytest.mark.parametrize("vector", VECTORS["worlds"], ids=lambda v: v["name"])
def test_worlds(vector: Dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What launchers say: a rank in Go of the same launch has the same ID."""
    if vector.get("bad"):
        with pytest.raises(jetbatch.BadConfig):
            jetbatch.World.from_env(vector["env"])
        return
    want = jetbatch.World(vector["id"], vector.get("rank", 0), vector["size"]) if "id" in vector else None
    assert jetbatch.World.from_env(vector["env"]) == want
    for name in ("JETBATCH_WORLD", "TORCHELASTIC_RUN_ID", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, text in vector["env"].items():
        monkeypatch.setenv(name, text)
    assert jetbatch.World.from_env() == want


@pytest.mark.parametrize("vector", VECTORS["ahead"], ids=lambda v: v["name"])
def test_ahead(vector: Dict[str, Any]) -> None:
    """What lies ready, as docs/BRIDGE.md has it."""
    ahead, freed = Ahead(1), []

    def state(letter: str) -> jetbatch.State:
        return jetbatch.State("x", 1, letter.encode())

    for line in vector["script"]:
        verb, *words = line.replace(":", "").split()
        if verb == "ready":
            batches = [[int(words[0]), 0, 1, 1, words[1].encode(), b""]]
            ahead.add(batches)
            ahead.add(batches)  # as after an interruption
        elif verb in ("step", "withdrawn") or verb == "answer" and words != ["ready"]:
            freed += ahead.withdraw()
            assert set(ahead.withdraw()) <= set(freed)
            if verb == "step":
                ahead.begin(int(words[0]), 1, state(words[1]))
        elif verb == "take":
            first = ahead.first(state(words[0]))
            assert words[1] == ("asks" if first is None else str(first._number)), line
            if first is not None:
                ahead.take(0.0)
                assert ahead.first(state(words[0])) is first  # as after an interruption
                ahead.remove()
                assert ahead.lost() == first._number and not ahead.lost()
        elif verb == "took":
            assert ahead.took == int(words[0]), line
        elif verb == "freed":
            assert freed == [int(word) for word in words], line


@pytest.mark.parametrize(
    "bad, words",
    [
        (1 << 64, "more than 64 bits"),
        (-(1 << 63) - 1, "more than 64 bits"),
        ({1: 2}, "not str"),
        ({"a": {2: 3}}, "\\['a'\\]: a key"),
        (np.int64(1), r"int\(\)"),
        (np.zeros(2), "tolist"),
        (object(), "no plain value"),
        ({1, 2}, "no plain value"),
        ("\ud800", "not Unicode"),
        (1j, "no plain value"),
    ],
)
def test_values_that_are_refused(bad: Any, words: str) -> None:
    with pytest.raises(jetbatch.StateNotCanonical, match=words):
        jetbatch.pack([bad])


def test_depth() -> None:
    deep: Any = 1
    for _ in range(64):
        deep = [deep]
    assert jetbatch.unpack(jetbatch.pack(deep)) == deep
    with pytest.raises(jetbatch.StateNotCanonical, match="deeper"):
        jetbatch.pack([deep])


def test_size() -> None:
    assert len(jetbatch.State.new("x" * (16 * 1024 - 3)).data) == 16 * 1024
    with pytest.raises(jetbatch.StateTooLarge):
        jetbatch.State.new("x" * (16 * 1024 - 2))


def test_texts_that_are_refused() -> None:
    good = str(jetbatch.State("ecg", 1, b"abc"))
    for n in range(len(good)):
        for bad in (good[:n], good[:n] + "A" + good[n:], good[:n] + ("B" if good[n] != "B" else "C") + good[n + 1 :]):
            with pytest.raises(jetbatch.BadStateText):
                jetbatch.State.parse(bad)


def test_state_is_plain() -> None:
    import copy
    import pickle

    state = jetbatch.State("ecg", 1, jetbatch.pack({"n": 1}))
    assert pickle.loads(pickle.dumps(state)) == copy.deepcopy(state) == state
    assert state.decode() == {"n": 1} and state and not jetbatch.State()
    assert repr(state).startswith("State(ecg@1#") and repr(jetbatch.State()) == "State(start)"


def test_states_with_an_origin():
    state = jetbatch.State("onda", 1, b"\x01", "00ff")
    text = str(state)
    assert text.startswith("jb2:onda:1:00ff:")
    assert jetbatch.State.parse(text) == state and jetbatch.State.parse(text).origin == "00ff"
    plain = jetbatch.State("onda", 1, b"\x01")
    assert str(plain).startswith("jb1:") and plain == state and hash(plain) == hash(state)
    with pytest.raises(jetbatch.BadStateText):
        jetbatch.State.parse(text.replace("00ff", "00fe"))


def test_the_page_has_every_error() -> None:
    page = (Path(__file__).parents[2] / "docs/PYTHON.md").read_text()
    table = page[page.index("## 7. Errors") : page.index("## 8.")]
    kinds = [k for k in vars(jetbatch).values() if isinstance(k, type) and issubclass(k, jetbatch.Error)]
    assert len(kinds) > 30
    missing = [k.__name__ for k in kinds if k is not jetbatch.Error and f"`{k.__name__}`" not in table]
    assert not missing
