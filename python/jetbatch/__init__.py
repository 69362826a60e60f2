"""Training batches, made on any number of machines, taken strictly in order here, resumable bit for bit.

::

    with jetbatch.connect("nats://localhost:4222") as service:
        with service.open("train", dataset="onda", params={"dir": "/data", "batch_size": 32}) as batches:
            for step in batches.steps(checkpoint):   # None: the first state
                train(step["x"], step["y"])          # read-only arrays of shared memory
                checkpoint = step.next               # save str(checkpoint) with the model

A Go process beside this one does the work; ``docs/PYTHON.md`` says how, and what differs from torch's DataLoader.
"""

from ._client import Batcher, Service, connect
from ._codec import pack, unpack
from ._embedded import embedded
from ._state import State
from ._step import Step, Timing
from ._version import __version__
from ._world import Rows, World
from .dataset import Dataset, Fingerprint, Permanent, Progress, Skip, traceparent
from .errors import (
    BadConfig,
    BadParams,
    BadRequest,
    BadStateText,
    BinaryMissing,
    BridgeDied,
    Closed,
    Corrupt,
    Decode,
    Disconnected,
    Diverged,
    EndOfData,
    Error,
    Forked,
    InUse,
    IteratorFailed,
    IteratorStalled,
    JobError,
    JobTimeout,
    JobTooLarge,
    MaterializeFailed,
    MemoryFull,
    Nondeterministic,
    NotRows,
    Permission,
    PoisonJob,
    RankLost,
    Released,
    SpecMismatch,
    StateNotCanonical,
    StateTooLarge,
    Stopped,
    Superseded,
    Unavailable,
    Uneven,
    UnknownDataset,
    VersionMismatch,
    WrongData,
    WrongState,
)

__all__ = [
    "BadConfig",
    "BadParams",
    "BadRequest",
    "BadStateText",
    "Batcher",
    "BinaryMissing",
    "BridgeDied",
    "Closed",
    "Corrupt",
    "Dataset",
    "Decode",
    "Disconnected",
    "Diverged",
    "EndOfData",
    "Error",
    "Fingerprint",
    "Forked",
    "InUse",
    "IteratorFailed",
    "IteratorStalled",
    "JobError",
    "JobTimeout",
    "JobTooLarge",
    "MaterializeFailed",
    "MemoryFull",
    "Nondeterministic",
    "NotRows",
    "Permanent",
    "Permission",
    "PoisonJob",
    "Progress",
    "RankLost",
    "Released",
    "Rows",
    "Service",
    "Skip",
    "SpecMismatch",
    "State",
    "StateNotCanonical",
    "StateTooLarge",
    "Step",
    "Stopped",
    "Superseded",
    "Timing",
    "Unavailable",
    "Uneven",
    "UnknownDataset",
    "VersionMismatch",
    "World",
    "WrongData",
    "WrongState",
    "__version__",
    "connect",
    "embedded",
    "pack",
    "traceparent",
    "unpack",
]
