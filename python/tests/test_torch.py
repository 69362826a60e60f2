"""The torch adapter, and the service beside the trainer."""

from __future__ import annotations

import gc
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import datasets
import jetbatch
from conftest import alive, descendants, environment, until
from jetbatch import _progress

torch = pytest.importorskip("torch", reason="torch is not installed: the adapter is not tested")


@pytest.fixture(scope="module")
def beside() -> "jetbatch.Service":
    with jetbatch.embedded(python={"numbers": datasets.Numbers, "kinds": "datasets:Kinds"}, slots=2) as s:
        yield s


def test_batches(beside: jetbatch.Service) -> None:
    from jetbatch.torch import Batches

    with beside.open("torch", dataset="numbers", params={"length": 30, "size": 10_000}) as b:
        batches = Batches(b)
        for n, batch in enumerate(batches, 1):
            assert int(batch["n"]) == n
            np.testing.assert_array_equal(batch["x"].numpy(), datasets.batch(n, 10_000)["x"])
            if n == 12:
                saved = batches.state_dict()
        assert n == 30
        assert int(next(iter(batches))["n"]) == 1  # the next epoch
        again = Batches(b)
        again.load_state_dict(saved)
        loader = torch.utils.data.DataLoader(again, batch_size=None, num_workers=0)
        assert [int(batch["n"]) for batch in loader] == list(range(13, 31))
        with pytest.raises(Exception, match="num_workers=0"):
            next(iter(torch.utils.data.DataLoader(again, batch_size=None, num_workers=1)))


def test_a_tensor_keeps_its_memory(beside: jetbatch.Service) -> None:
    from jetbatch.torch import Batches

    with beside.open("keeps", dataset="numbers", params={"size": 50_000}) as b:
        kept = []
        for batch in Batches(b):
            kept.append((int(batch["n"]), batch["x"][7:]))
            if len(kept) == 40:
                break
        del batch
        gc.collect()
        for n, x in kept:
            np.testing.assert_array_equal(x.numpy(), datasets.batch(n, 50_000)["x"][7:])


def test_element_types(beside: jetbatch.Service) -> None:
    from jetbatch.torch import tensors

    with beside.open("types", dataset="kinds") as b:
        for step, want in zip(b.steps(), datasets.KINDS):
            got = tensors(step)
            for name, value in want.items():
                np.testing.assert_array_equal(got[name].numpy(), np.asarray(value))


def test_a_class_of_the_program_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.Numbers, "__module__", "__main__")
    with pytest.raises(jetbatch.BadConfig, match="move it to a module"):
        jetbatch.embedded(python={"numbers": datasets.Numbers})


def test_embedded_leaves_nothing() -> None:
    with jetbatch.embedded(python={"numbers": datasets.Numbers}) as s:
        with s.open("left", dataset="numbers") as b:
            b.take()
        below = [s.pid, *descendants(s.pid)]
        assert len(below) >= 2
    until(lambda: not any(map(alive, below)), "they are gone")


class Screen(io.StringIO):
    """A terminal, or a notebook's cell."""

    def isatty(self) -> bool:
        return True


def test_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for people, in its place; nothing where nobody looks or it is not wanted."""
    monkeypatch.setattr(_progress, "EVERY", 0.0)
    for quiet, screen in ((False, Screen()), (True, Screen()), (False, io.StringIO())):
        monkeypatch.setattr(sys, "stderr", screen)
        with jetbatch.embedded(python={"numbers": datasets.Numbers}, quiet=quiet) as s:
            with s.open("seen", dataset="numbers") as b:
                for step in b.steps():
                    if step.seq == 3:
                        break
        monkeypatch.undo()
        monkeypatch.setattr(_progress, "EVERY", 0.0)
        shown = [line.strip() for line in screen.getvalue().split("\r")]
        if quiet or type(screen) is io.StringIO:
            assert shown == [""]
            continue
        assert shown[1:3] == ["jetbatch: the service starts", "jetbatch seen: numbers is opened"]
        assert [line.split(",")[0] for line in shown[3:]] == [f"jetbatch seen: batch {n}" for n in (1, 2)]
        assert all(line.endswith("% of the time waiting") for line in shown[3:])
        assert screen.getvalue().count("\n") == 1 and screen.getvalue().endswith("\n")


def test_progress_of_what_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stderr", Screen())
    monkeypatch.setenv("JETBATCH_BINARY", str(tmp_path / "none"))
    with pytest.raises(jetbatch.BinaryMissing, match="none"):
        jetbatch.embedded()
    assert sys.stderr.getvalue().endswith("starts\n")  # type: ignore[attr-defined]


def test_embedded_on_recordings(tmp_path: Path) -> None:
    import subprocess

    from jetbatch import _binary

    made = subprocess.run(
        [_binary.find(), "demo", "--keep", str(tmp_path), "--batches", "8"], capture_output=True, env=environment()
    )
    assert made.returncode == 0, made.stderr
    with jetbatch.embedded(data=str(tmp_path)) as s, s.open("onda", dataset="onda", params={"batch_size": 4}) as b:
        step = b.take(timeout=60)
        assert step["x"].dtype == np.float32 and step["x"].shape[0] == 4 and os.path.isdir(tmp_path)
