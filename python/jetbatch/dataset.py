"""What an author of a data set implements."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Sequence, Tuple

from .errors import Error


@dataclass(frozen=True)
class Fingerprint:
    """What order and content of a data set depend on besides its parameters."""

    digest: str
    """Equal as long as every state yields the same jobs and every job the same batch."""

    parts: Mapping[str, str] = field(default_factory=dict)
    """For people, so that an error can name what differs: ``{"recordings": "93"}``."""

    ignore: Sequence[str] = ()
    """Parameters that change neither order nor content: where the data lies, say."""

    summary: str = ""
    """A line about the data for the status, such as ``kept 93 of 100 recordings: 7 without labels``."""


@dataclass(frozen=True)
class Progress:
    """A place in the data, counted in batches."""

    epoch: int
    """Of the batch that comes next, from 1."""

    batch: int
    """Batches of the epoch that lie before."""

    batches: int = 0
    """Of an epoch; 0 for one without end."""

    epochs: int = 0
    """After which the data end; 0 for never."""


class Dataset:
    """A data set: an iterator, cheap and strictly ordered, and materialization, expensive and parallel.

    ::

        class Squares(jetbatch.Dataset):
            version = 1

            def __init__(self, params):
                self.length = params["length"]

            def start(self):
                return {"index": 0}

            def next(self, state):
                if state["index"] == self.length:
                    raise StopIteration
                return state["index"], {"index": state["index"] + 1}

            def materialize(self, job):
                return {"x": numpy.arange(job) ** 2}

    States and jobs are plain Python values: see :func:`jetbatch.pack`. An object is made once per process and parameter
    set; methods are called one at a time. ``jetbatch coordinator`` calls ``start`` and ``next``, ``jetbatch worker``
    ``materialize``, so ``__init__`` should put off what only one of them needs.
    """

    version = 1
    """To be raised when the same state would yield other jobs or batches: states of another version are refused."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        """Opens it with the trainer's parameters; raise :class:`jetbatch.BadParams` for those that make no sense.

        States are of the parameters as they were sent: a zero that is sent is not one that is left out."""

    def fingerprint(self) -> Optional[Fingerprint]:
        """Optional: looks at the data that was opened, so that a state is refused on other data, and machines with
        other data than a run's do not take part in it. Called once by every process that opens the data set."""
        return None

    def start(self) -> Any:
        """The first state. Without it a trainer must give one."""
        raise NotImplementedError

    def next(self, state: Any) -> Tuple[Any, Any]:
        """The job that follows ``state``, and the state after it; ``StopIteration`` ends the data.

        It is a pure function of the state, does no I/O, and is called ahead of what is needed. ``state`` is its own to
        change.
        """
        raise NotImplementedError

    def progress(self, state: Any) -> Optional[Progress]:
        """Optional: how far ``state`` is, so that ``status``, ``top`` and the bar of ``take`` can tell the epoch, and
        when it ends. A pure function like ``next``; None says that the data set does not know, and is not asked again.
        """
        return None

    def materialize(self, job: Any) -> Mapping[str, Any]:
        """The batch of a job, named arrays. It should be a pure function of the job and of the data.

        An exception is tried again 4 times with backoff, unless it is :class:`Permanent` or :class:`Skip`.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Lets go of what is open; called after the last job."""


class Permanent(Error):
    """Raised from ``materialize`` for what trying again cannot mend."""

    code = "permanent"


class Skip(Error):
    """Raised from ``materialize``, as a pure function of the job: it has no batch, and every reader passes over it."""

    code = "skip"


_traceparent = ""


def traceparent() -> str:
    """In ``materialize``: the W3C traceparent of the take that let the job out; empty if the trainer sent none."""
    return _traceparent
