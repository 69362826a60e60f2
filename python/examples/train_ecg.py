"""Trains a small network on recordings with labels, and goes on where it was when it is started again.

    python3 python/examples/train_ecg.py --data DIR --steps 300 --out run

The folder DIR is in Onda format, such as "jetbatch demo --keep DIR" makes. Training and validation are split by
recording. However often it is killed, the weights at the end are those of a run that never was.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import torch
from torch import nn

import jetbatch
from jetbatch.torch import tensors


def network(channels: int, classes: int) -> nn.Module:
    """Two convolutions, and one answer for each window."""
    return nn.Sequential(
        nn.Conv1d(channels, 8, 15, stride=4),
        nn.ReLU(),
        nn.Conv1d(8, 16, 15, stride=4),
        nn.ReLU(),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),
        nn.Linear(16, classes),
    )


def inputs(step: jetbatch.Step) -> "tuple[torch.Tensor, torch.Tensor]":
    """Windows, each scaled by itself, and the label of each: the largest in it."""
    batch = tensors(step)
    x = batch["x"]
    x = (x - x.mean(2, keepdim=True)) / (x.std(2, keepdim=True) + 1e-6)
    return x, batch["y"].amax((1, 2)).long()


def save(path: Path, checkpoint: Dict[str, Any]) -> None:
    """Writes a checkpoint whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(checkpoint, part)
    os.replace(part, path)


def train(
    service: jetbatch.Service, params: Dict[str, Any], steps: int, out: Path, every: int
) -> "tuple[nn.Module, List[float]]":
    """Trains, from the checkpoint if there is one."""
    torch.manual_seed(1)
    file = out / "checkpoint.pt"
    state, losses, model = None, [], None
    saved = torch.load(file) if file.exists() else None
    with service.open(
        "train", dataset="onda", params={**params, "split": {"use": "train"}}, take_over=True, timeout=60
    ) as batches:
        if saved:
            state, losses = saved["state"], saved["losses"]
            print(f"goes on after step {len(losses)}", flush=True)
        if len(losses) >= steps:
            model = network(saved["channels"], 8)
            model.load_state_dict(saved["model"])
            return model, losses
        for step in batches.steps(state, timeout=60):
            x, y = inputs(step)
            if model is None:
                model = network(x.shape[1], 8)
                optimizer = torch.optim.Adam(model.parameters(), 3e-3)
                if saved:
                    model.load_state_dict(saved["model"])
                    optimizer.load_state_dict(saved["optimizer"])
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
            if len(losses) % every == 0 or len(losses) == steps:
                save(
                    file,
                    {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "state": str(step.next),
                        "losses": losses,
                        "channels": x.shape[1],
                    },
                )
                print(f"step {len(losses)}: loss {np.mean(losses[-every:]):.3f}", flush=True)
            if len(losses) == steps:
                break
    assert model is not None
    return model, losses


def validate(service: jetbatch.Service, params: Dict[str, Any], model: nn.Module) -> "np.ndarray[Any, Any]":
    """The confusion matrix of recordings that were not trained on: rows are true, columns are answers."""
    matrix = np.zeros((8, 8), int)
    params = {**params, "mode": "epochs", "epochs": 1, "split": {"use": "validation"}}
    params.pop("class_weights", None)
    with service.open(
        "validation", dataset="onda", params=params, take_over=True, timeout=60
    ) as batches, torch.no_grad():
        for step in batches.steps(timeout=60):
            x, y = inputs(step)
            np.add.at(matrix, (y.numpy(), model(x).argmax(1).numpy()), 1)
    used = matrix.any(0) | matrix.any(1)
    return matrix[used][:, used]


def picture(path: Path, losses: List[float], matrix: "np.ndarray[Any, Any]") -> None:
    """A PNG with the loss, step by step, and the confusion matrix beside it: dark is much."""
    image = np.full((200, 620), 255, np.uint8)
    smooth = np.convolve(losses, np.ones(9) / 9, "same")
    high = max(smooth.max(), 1e-9)
    columns = np.interp(np.arange(400), np.linspace(0, 399, len(smooth)), smooth)
    for x, value in enumerate(columns):
        image[min(int(199 - 190 * value / high), 199) :, x] = 160
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    cell = 180 // len(matrix)
    image[10 : 10 + cell * len(matrix), 420 : 420 + cell * len(matrix)] = np.kron(
        255 - 230 * share, np.ones((cell, cell))
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in image)
    size = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with recordings in Onda format")
    parser.add_argument("--server", help="a service that runs; one is started beside the trainer by default")
    parser.add_argument("--params", default="{}", help="more parameters of the data set, as JSON")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=10, help="steps from one checkpoint to the next")
    parser.add_argument("--out", type=Path, default=Path("run"), help="folder for checkpoint and picture")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # sums in another order are other sums
    torch.use_deterministic_algorithms(True)
    params = {"dir": os.path.abspath(args.data), "batch_size": 16, **json.loads(args.params)}
    with jetbatch.connect(args.server) if args.server else jetbatch.embedded() as service:
        model, losses = train(service, params, args.steps, args.out, args.every)
        matrix = validate(service, params, model)
    picture(args.out / "training.png", losses, matrix)
    print(f"accuracy {np.trace(matrix) / max(matrix.sum(), 1):.3f} on {matrix.sum()} windows of other recordings")
    print(matrix)


if __name__ == "__main__":
    main()
