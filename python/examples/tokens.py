"""Windows of a memory-mapped file of tokens, each once an epoch, in another order every epoch.

    python3 python/examples/tokens.py --file tokens.bin --batches 100

The file holds 16-bit tokens, little-endian, one after another. As a data set of a service:

    jetbatch up --python tokens=tokens:Tokens            # in python/examples
"""

from __future__ import annotations

import argparse
import os
from typing import Any, Mapping, Tuple

import numpy as np

import jetbatch


class Tokens(jetbatch.Dataset):
    """Parameters: ``file``; ``window`` tokens, 2,048 by default; ``batch_size``, 8; ``seed``, 0; ``epochs``, endless.

    A batch has ``x``, the windows, and ``y``, the tokens that follow each of them: (batch_size, window) of int32. Windows
    that fill no batch at the end of an epoch are left out of it.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.window = params.get("window", 2048)
        self.batch_size = params.get("batch_size", 8)
        self.seed = params.get("seed", 0)
        self.epochs = params.get("epochs")
        self.tokens = np.memmap(params["file"], "<u2", "r")
        self.windows = (len(self.tokens) - 1) // self.window
        self.batches = self.windows // self.batch_size
        if self.batches < 1:
            raise jetbatch.BadParams(
                f"{self.windows} windows of {self.window} tokens make no batch of {self.batch_size}"
            )
        self.order: Tuple[int, Any] = (-1, None)

    def start(self) -> Any:
        return {"epoch": 0, "index": 0}

    def next(self, state: Any) -> Tuple[Any, Any]:
        epoch, index = state["epoch"], state["index"]
        if epoch == self.epochs:
            raise StopIteration
        if index + 1 < self.batches:
            return [epoch, index], {"epoch": epoch, "index": index + 1}
        return [epoch, index], {"epoch": epoch + 1, "index": 0}

    def progress(self, state: Any) -> jetbatch.Progress:
        epoch, index = state["epoch"], state["index"]
        if epoch == self.epochs:
            epoch, index = epoch - 1, self.batches
        return jetbatch.Progress(epoch + 1, index, self.batches, self.epochs or 0)

    def materialize(self, job: Any) -> Mapping[str, Any]:
        epoch, index = job
        if self.order[0] != epoch:  # a function of the epoch, kept because jobs of one come one after another
            self.order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(self.windows))
        chosen = self.order[1][index * self.batch_size :][: self.batch_size]
        rows = [self.tokens[w * self.window :][: self.window + 1] for w in chosen]
        both = np.stack(rows).astype(np.int32)
        return {"x": both[:, :-1], "y": both[:, 1:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", required=True, help="16-bit tokens, little-endian")
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--state", help="text of a state to go on from")
    args = parser.parse_args()
    params = {"file": os.path.abspath(args.file)}
    with jetbatch.embedded(python={"tokens": "tokens:Tokens"}) as service:
        with service.open("tokens", dataset="tokens", params=params) as batches:
            for step in batches.steps(args.state):
                if step.seq == args.batches:
                    break
    print(f"{step.seq} batches of {step['x'].shape[0]} x {step['x'].shape[1]} tokens; go on with --state {step.next}")


if __name__ == "__main__":
    main()
