"""The examples are run as a user would run them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, List, Mapping, Optional, Tuple

import numpy as np
import pytest

import jetbatch
from conftest import Up, environment, until
from jetbatch import _binary, check
from jetbatch.serve import Opened

EXAMPLES = Path(__file__).parents[1] / "examples"
RECORDINGS = Path(os.environ.get("JETBATCH_TESTDATA") or "/nonexistent") / "mitbih12"


def command(data: Path, out: Path) -> List[str]:
    params = "{}"
    if data == RECORDINGS:
        params = (
            '{"annotations":"rhythm.onda.annotations.arrow","label_column":"rhythm",'
            '"batch_duration":"2s","class_weights":{"pvc":5}}'
        )
    args = ["--data", str(data), "--out", str(out), "--steps", "120", "--params", params]
    return [sys.executable, str(EXAMPLES / "train_ecg.py"), *args]


def weights(out: Path) -> bytes:
    import torch

    model = torch.load(out / "checkpoint.pt")["model"]
    return b"".join(t.numpy().tobytes() for t in model.values())


def test_train_ecg_killed_twice(tmp_path: Path) -> None:
    """The weights are bit for bit those of the run that was never killed."""
    pytest.importorskip("torch", reason="torch is not installed: train_ecg.py is not tested")
    data = RECORDINGS
    if not data.is_dir():
        print("no recordings in JETBATCH_TESTDATA: made-up ones are trained on")
        data = tmp_path / "data"
        subprocess.run([_binary.find(), "demo", "--keep", str(data), "--batches", "8"], check=True, capture_output=True)
    undisturbed = tmp_path / "undisturbed"
    out = subprocess.run(command(data, undisturbed), env=environment(), capture_output=True, text=True, timeout=300)
    assert out.returncode == 0 and "accuracy" in out.stdout, out
    print(out.stdout)
    assert (undisturbed / "training.png").read_bytes().startswith(b"\x89PNG")

    killed = tmp_path / "killed"
    for marker in ("step 30:", "step 70:"):
        trainer = subprocess.Popen(command(data, killed), env=environment(), stdout=subprocess.PIPE, text=True)
        assert trainer.stdout is not None
        until(lambda: marker in trainer.stdout.readline(), marker, 120)  # type: ignore[union-attr]
        trainer.kill()
        trainer.wait()
        trainer.stdout.close()
    last = subprocess.run(command(data, killed), env=environment(), capture_output=True, text=True, timeout=300)
    assert last.returncode == 0 and "goes on after step" in last.stdout, last
    assert weights(killed) == weights(undisturbed)


def test_tokens(tmp_path: Path) -> None:
    """Every window once an epoch, in another order; the text of a state goes on."""
    sys.path.insert(0, str(EXAMPLES))
    from tokens import Tokens

    file = tmp_path / "tokens.bin"
    (np.arange(64 * 2048 + 1) % 65521).astype("<u2").tofile(file)
    params = json.dumps({"file": str(file), "epochs": 2})
    assert check.check(Tokens, params, 16) == 16
    opened = Opened(Tokens, params)
    state, epochs = opened.start(), []
    assert opened.progress(state) == (1, 2, 0, 8)
    for _ in range(2):
        firsts = []
        for _ in range(8):
            job, state = opened.step(state)
            batch = opened.materialize(job)
            assert batch["x"].shape == (8, 2048) and (batch["x"][:, 1:] == batch["y"][:, :-1]).all()
            firsts += list(batch["x"][:, 0])
        epochs.append(firsts)
    assert opened.progress(state) == (2, 2, 8, 8)
    assert sorted(epochs[0]) == sorted(epochs[1]) and len(set(epochs[0])) == 64 and epochs[0] != epochs[1]
    program = [sys.executable, str(EXAMPLES / "tokens.py"), "--file", str(file), "--batches", "5"]
    path = os.pathsep.join([environment()["PYTHONPATH"], str(EXAMPLES)])
    out = subprocess.run(
        program, env=environment(PYTHONPATH=path), capture_output=True, text=True, timeout=60, check=True
    )
    words = out.stdout.split()
    assert out.stdout.startswith("5 batches of 8 x 2048 tokens")
    assert jetbatch.State.parse(words[-1]).decode() == {"epoch": 0, "index": 5}
    out = subprocess.run(
        [*program, "--state", words[-1]], env=environment(PYTHONPATH=path), capture_output=True, text=True, check=True
    )
    assert jetbatch.State.parse(out.stdout.split()[-1]).decode() == {"epoch": 1, "index": 2}


def digests(b: jetbatch.Batcher, state: Optional[str], batches: int) -> List[Tuple[str, str]]:
    """Of some batches after a state: a digest of each, and the text of the state after it."""
    found = []
    for step in b.steps(state, timeout=60):
        content = hashlib.sha256(b"".join(step[name].tobytes() for name in step)).hexdigest()
        found.append((content, str(step.next)))
        if len(found) == batches:
            break
    return found


def resumes_bit_for_bit(tmp_path: Path, name: str, where: str, params: Mapping[str, Any]) -> None:
    """A second trainer, from a state as text, has the rest of the first one's batches and states. The service, its
    workers' processes among it, is another one."""
    runs = []
    for n in range(2):
        path = os.pathsep.join([environment()["PYTHONPATH"], str(EXAMPLES)])
        up = Up(tmp_path / f"log{n}", datasets={name: where}, PYTHONPATH=path)
        try:
            with jetbatch.connect(up.url) as s, s.open(name, dataset=name, params=params) as b:
                runs.append(digests(b, runs[0][6][1] if runs else None, 20))
        finally:
            up.end()
    assert len(runs[0]) == 20 and runs[1][:13] == runs[0][7:]
    assert len({content for content, _ in runs[0]}) == 20


def test_tokens_resume(tmp_path: Path) -> None:
    """Over the end of an epoch of 8 batches."""
    (np.arange(64 * 2048 + 1) % 65521).astype("<u2").tofile(tmp_path / "tokens.bin")
    resumes_bit_for_bit(tmp_path, "tokens", "tokens:Tokens", {"file": str(tmp_path / "tokens.bin")})


def test_images(tmp_path: Path) -> None:
    """Every image once an epoch, augmented otherwise in the next; the text of a state goes on."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: images.py is not tested")
    sys.path.insert(0, str(EXAMPLES))
    from images import Images

    folder, rng = tmp_path / "photos", np.random.default_rng(1)
    for n in range(24):
        file = folder / ("cat", "dog")[n % 2] / f"{n}.{('png', 'jpg')[n % 3 == 0]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(rng.integers(0, 256, (40 + 5 * n, 90, 3), np.uint8)).save(file)
    params = {"folder": str(folder), "batch_size": 4}
    assert check.check(Images, json.dumps(params), 14) == 14
    data = Images({**params, "epochs": 2})
    state, epochs = data.start(), []
    for _ in range(2):
        jobs = []
        for _ in range(6):
            job, state = data.next(state)
            batch = data.materialize(job)
            assert batch["x"].shape == (4, 64, 64, 3) and batch["x"].dtype == np.uint8
            assert [file.startswith("dog") for file, _, _ in job] == batch["y"].tolist()
            jobs += job
        epochs.append(jobs)
    first, second = ([file for file, _, _ in jobs] for jobs in epochs)
    assert sorted(first) == sorted(second) == data.files and first != second
    with pytest.raises(StopIteration):
        data.next(state)
    resumes_bit_for_bit(tmp_path, "images", "images:Images", params)
