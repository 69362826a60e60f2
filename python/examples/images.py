"""A folder of PNG or JPEG files, decoded and augmented in Python, in another order every epoch.

    python3 python/examples/images.py --folder photos --batches 100

The name of a file's folder is its class. As a data set of a service:

    jetbatch up --python images=images:Images            # in python/examples

Pillow decodes: Debian's python3-pil, or `pip install pillow`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, List, Mapping, Tuple

import numpy as np
from PIL import Image

import jetbatch


class Images(jetbatch.Dataset):
    """Parameters: ``folder``; ``size`` of the square crops, 64 by default; ``batch_size``, 8; ``epochs``, endless.

    A batch has ``x``, uint8 of (batch_size, size, size, 3), and ``y``, int64 of (batch_size), the number of the class
    among the sorted names. Each image is cropped and flipped at random. The seed of an epoch is in the state, those of
    the images are in the job, so any worker makes the same batch. Images that fill no batch at the end of an epoch are
    left out of it.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.folder = Path(params["folder"])
        self.size = params.get("size", 64)
        self.batch_size = params.get("batch_size", 8)
        self.epochs = params.get("epochs")
        self.files = sorted(
            str(p.relative_to(self.folder))
            for p in self.folder.rglob("*")
            if p.suffix.lower() in (".png", ".jpg", ".jpeg")
        )
        self.classes = sorted({os.path.dirname(f) for f in self.files})
        self.batches = len(self.files) // self.batch_size
        if self.batches < 1:
            raise jetbatch.BadParams(f"{len(self.files)} images make no batch of {self.batch_size}")
        self.order: Tuple[int, List[int]] = (-1, [])

    def start(self) -> Any:
        return {"epoch": 0, "index": 0, "seed": 1}

    def next(self, state: Any) -> Tuple[Any, Any]:
        epoch, index, seed = state["epoch"], state["index"], state["seed"]
        if epoch == self.epochs:
            raise StopIteration
        if self.order[0] != seed:  # a function of the seed, kept because steps of one epoch come one after another
            self.order = (seed, np.random.default_rng(seed).permutation(len(self.files)).tolist())
        first = index * self.batch_size
        job = [[self.files[n], seed, n] for n in self.order[1][first : first + self.batch_size]]
        if index + 1 < self.batches:
            return job, {"epoch": epoch, "index": index + 1, "seed": seed}
        following = int(np.random.default_rng([seed, epoch]).integers(1 << 62))
        return job, {"epoch": epoch + 1, "index": 0, "seed": following}

    def progress(self, state: Any) -> jetbatch.Progress:
        epoch, index = state["epoch"], state["index"]
        if epoch == self.epochs:
            epoch, index = epoch - 1, self.batches
        return jetbatch.Progress(epoch + 1, index, self.batches, self.epochs or 0)

    def materialize(self, job: Any) -> Mapping[str, Any]:
        return {
            "x": np.stack([self.decode(file, seed, n) for file, seed, n in job]),
            "y": np.array([self.classes.index(os.path.dirname(file)) for file, _, _ in job], np.int64),
        }

    def decode(self, file: str, seed: int, n: int) -> Any:
        """A crop of one image, flipped or not."""
        rng = np.random.default_rng([seed, n])
        with Image.open(self.folder / file) as image:
            scale = max(self.size / min(image.size), 1.0)  # small images are made large enough
            pixels = np.asarray(image.convert("RGB").resize([round(side * scale) for side in image.size]))
        top, left = (int(rng.integers(side - self.size + 1)) for side in pixels.shape[:2])
        crop = pixels[top : top + self.size, left : left + self.size]
        return crop[:, ::-1] if rng.integers(2) else crop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, help="PNG or JPEG files, a folder for each class")
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--state", help="text of a state to go on from")
    args = parser.parse_args()
    params = {"folder": os.path.abspath(args.folder)}
    with jetbatch.embedded(python={"images": "images:Images"}) as service:
        with service.open("images", dataset="images", params=params) as batches:
            for step in batches.steps(args.state):
                if step.seq == args.batches:
                    break
    shape = " x ".join(map(str, step["x"].shape))
    print(f"{step.seq} batches of {shape}; go on with --state {step.next}")


if __name__ == "__main__":
    main()
