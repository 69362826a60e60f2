"""A trainer that is one rank: it prints a line of JSON for its world, and for each batch."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any, Dict

import jetbatch


def world(told: Dict[str, Any]) -> jetbatch.World:
    if "backend" not in told:
        return jetbatch.World(**told["world"])
    import torch.distributed

    from jetbatch.torch import world as derive

    torch.distributed.init_process_group(told["backend"])
    derived, of_group = derive(), derive(torch.distributed.new_group([0, 1]))
    assert derived is not None and of_group is not None
    told["group"] = [of_group.id, of_group.rank, of_group.size]
    return dataclasses.replace(derived, whole=["table"])


def run(told: Dict[str, Any]) -> None:
    """Takes all ``length`` batches."""
    w = world(told)
    print(json.dumps({"world": [w.id, w.rank, w.size], "group": told.get("group")}), flush=True)
    with jetbatch.connect(told["url"]) as service:
        with service.open(told["name"], dataset="sheets", params={"length": told["length"]}, world=w) as batches:
            for step in batches.steps(timeout=60):
                print(json.dumps({"rows": step.rows, "y": step["y"].tolist()}), flush=True)


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
