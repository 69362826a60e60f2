"""Batches as torch tensors. Torch is imported here only."""

from __future__ import annotations

import os
import secrets
import warnings
from typing import Any, Dict, Iterator, Optional

import torch
import torch.distributed as dist

from ._client import Batcher, StateLike, _state
from ._state import State
from ._step import Step, rows_of
from ._world import Rows, World, launcher
from .errors import Error

with warnings.catch_warnings():  # torch says once that it knows no read-only tensors; docs/PYTHON.md does, too
    warnings.simplefilter("ignore")
    import numpy as _np

    _empty = _np.zeros(1, _np.uint8)
    _empty.setflags(write=False)
    torch.from_numpy(_empty)


def tensors(step: Step) -> Dict[str, torch.Tensor]:
    """The tensors of a step, without a copy where torch has the element type.

    They are to be read and not written: a write is a fault that ends the process. ``uint16`` is widened to ``int32``,
    ``uint32`` and ``uint64`` to ``int64``, of which torch 1.13 has none.
    """
    out = {}
    for name, array in step.items():
        if array.dtype in _WIDER:
            array = array.astype(_WIDER[array.dtype])
        out[name] = torch.from_numpy(array)
    return out


_WIDER = {_np.dtype("uint16"): _np.int32, _np.dtype("uint32"): _np.int64, _np.dtype("uint64"): _np.int64}


def world(group: Any = None) -> Optional[World]:
    """The world of this process, or None if it is alone: what :meth:`World.from_env` says, or, where
    ``torch.distributed`` is initialised, its rank and size, or those of one of its groups.

    With ``torch.distributed`` all ranks of the group call it, since they agree on an ID: the launcher's, or one that
    rank 0 makes up. ``dataclasses.replace`` sets the other fields.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return World.from_env()
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    first = 0 if group is None else dist.get_global_rank(group, 0)
    told = launcher(os.environ)
    # Another group of the same launch is another world.
    named = told.launch(os.environ) if told is not None and group is None else secrets.token_hex(16)
    ids = [named]
    dist.broadcast_object_list(ids, src=first, group=group)
    return World(ids[0], rank, size)


class Batches(torch.utils.data.IterableDataset):  # type: ignore[misc]
    """The batches of a batcher as dicts of tensors, for a loop or for torchdata's ``StatefulDataLoader``.

    ``state_dict`` is where the next iteration goes on, by what was handed out last; ``load_state_dict`` goes there. An
    iteration that comes to the end of the data ends, and the next one begins at the first state again.

    It is iterated in the trainer's own process: with a DataLoader, ``batch_size=None`` and ``num_workers=0``. What is
    parallel are the workers of the service.
    """

    def __init__(self, batcher: Batcher, state: StateLike = None, timeout: Optional[float] = None) -> None:
        super().__init__()
        self._batcher = batcher
        self._next = _state(state)
        self._timeout = timeout
        self._about = b""

    def __iter__(self) -> Iterator[Dict[str, torch.Tensor]]:
        if torch.utils.data.get_worker_info() is not None:
            raise Error("jetbatch.torch.Batches is iterated in the trainer itself: give the DataLoader num_workers=0")
        for step in self._batcher.steps(self._next, self._timeout):
            self._next, self._about = step.next, step._about
            yield tensors(step)
        self._next = State()

    @property
    def rows(self) -> Rows:
        """Which rows of its batch were handed out last: all of them, but for a rank of a :class:`World`."""
        return rows_of(self._about) if self._about else Rows(0, 0, 0)

    @property
    def next(self) -> State:
        """The state after the batch that was handed out last."""
        return self._next

    def state_dict(self) -> Dict[str, Any]:
        """What a checkpoint keeps."""
        return {"jetbatch": str(self._next)}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Goes on where a checkpoint was made."""
        self._next = State.parse(state["jetbatch"])
