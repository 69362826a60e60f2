"""Batches as torch tensors. Torch is imported here only."""

from __future__ import annotations

import warnings
from typing import Any, Dict, Iterator, Optional

import torch

from ._client import Batcher, StateLike, _state
from ._state import State
from ._step import Step
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

    def __iter__(self) -> Iterator[Dict[str, torch.Tensor]]:
        if torch.utils.data.get_worker_info() is not None:
            raise Error("jetbatch.torch.Batches is iterated in the trainer itself: give the DataLoader num_workers=0")
        for step in self._batcher.steps(self._next, self._timeout):
            self._next = step.next
            yield tensors(step)
        self._next = State()

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
