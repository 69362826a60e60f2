"""Errors, each named as in the Go client and of the same meaning. All of them are :class:`Error`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional, Type

if TYPE_CHECKING:
    from ._state import State


class Error(Exception):
    """What goes wrong in jetbatch. ``code`` is the protocol's word for it."""

    code = "error"


class EndOfData(Error, EOFError):
    """The data ends here: ``take`` says so again for the same state. ``steps`` ends instead."""

    code = "end"


class BadConfig(Error):
    """A call was given values that cannot work."""

    code = "bad_config"


class Closed(Error):
    """The handle, or the connection, was closed."""

    code = "closed"


class Stopped(Error):
    """The batcher was stopped; ``take`` says so until ``start``."""

    code = "stopped"


class InUse(Error):
    """Another process holds the batcher: wait, give this run another name, or open it with ``take_over=True``."""

    code = "in_use"


class Superseded(Error):
    """Another process has taken the batcher over."""

    code = "superseded"


class SpecMismatch(Error):
    """A batcher of that name runs with another data set or other parameters."""

    code = "spec_mismatch"


class UnknownDataset(Error):
    """No coordinator serves the data set."""

    code = "unknown_dataset"


class BadParams(Error):
    """The data set refuses the parameters. A data set may raise it from ``__init__``."""

    code = "bad_params"


class WrongState(Error):
    """The state is of another data set or version, or cannot be read by it, or none was given where one is needed."""

    code = "wrong_state"


class WrongData(Error):
    """The state is of other parameters or data than the batcher's; the text names what differs. Open the batcher as it
    was, or with ``accept_change=True`` if the change is meant."""

    code = "wrong_data"


class StateTooLarge(Error):
    """The state has more than 16 KiB encoded."""

    code = "state_too_large"


class StateNotCanonical(Error):
    """The value of a state or job is not made of plain Python values: see :func:`jetbatch.pack`."""

    code = "state_not_canonical"


class BadStateText(Error, ValueError):
    """The text was not written by ``str(state)``, or not all of it is there."""

    code = "bad_state_text"


class Unavailable(Error):
    """The time given was over first. ``waiting_for`` says what was not there, ``waited`` for how many seconds."""

    code = "unavailable"
    waiting_for = ""
    waited = 0.0


class Permission(Error):
    """The NATS server refused a subject to this user."""

    code = "permission"


class Disconnected(Error):
    """The connection to NATS is closed for good."""

    code = "disconnected"


class Corrupt(Error):
    """What is stored contradicts itself, and did so again after it was made anew."""

    code = "corrupt"


class Decode(Error):
    """The batch is not one of named tensors, the only kind that Python takes."""

    code = "decode"


class RankLost(Error):
    """A rank of the world was silent for its patience, never came, or cannot go on; every rank is told. Start the ranks
    again from the last checkpoint, as another world.

    ``rank`` is the one, ``seq`` the batch that it is at, ``silent`` for how many seconds it was not heard; both are 0
    for one that failed by itself. ``never_came``: no process ever was that rank.
    """

    code = "rank_lost"
    batcher = ""
    rank = 0
    seq = 0
    silent = 0.0
    never_came = False


class Diverged(Error):
    """Two ranks of the world are at states that do not go together; every rank is told. Give all the same checkpoint.

    ``states`` are those two, by rank.
    """

    code = "diverged"
    batcher = ""
    states: Mapping[int, State] = {}


class Uneven(Error):
    """The rows of a batch do not divide by the parts of a world that is ``even``; every rank is told."""

    code = "uneven"


class NotRows(Error):
    """A batch of a world has no rows to be shared; the text names the tensor. Name it in ``whole``."""

    code = "not_rows"


class BadRequest(Error):
    """The other side does not understand the request: versions differ."""

    code = "bad_request"


class MemoryFull(Error):
    """The trainer keeps arrays of earlier batches that fill all shared memory. The batch is not lost."""

    code = "memory_full"


class Released(Error):
    """The step was released; its tensors can no longer be asked for."""

    code = "released"


class Forked(Error):
    """The handle was opened before ``fork`` and is used in the child."""

    code = "forked"


class BridgeDied(Error):
    """The process beside this one has ended. The text has its last words."""

    code = "bridge_died"


class VersionMismatch(Error):
    """Package and binary are of different versions."""

    code = "version_mismatch"


class BinaryMissing(Error):
    """The ``jetbatch`` binary was not found."""

    code = "binary_missing"


class JobError(Error):
    """A run failed: a job that no worker could do, or an iterator that could not go on.

    ``stack`` is that of the worker or coordinator, where there is one.
    """

    dataset = ""
    batcher = ""
    gen = ""
    seq = 0
    worker = ""
    attempts = 0
    message = ""
    stack = ""


class MaterializeFailed(JobError):
    """The job failed on a worker, retries included."""

    code = "materialize"


class IteratorFailed(JobError):
    """``next`` of the data set failed."""

    code = "iterator"


class IteratorStalled(JobError):
    """``next`` of the data set took too long."""

    code = "iterator_stalled"


class JobTooLarge(JobError):
    """The job does not fit one NATS message."""

    code = "job_too_large"


class JobTimeout(JobError):
    """A job ran into its deadline three times: raise ``--job-timeout`` or make it smaller."""

    code = "job_timeout"


class PoisonJob(JobError):
    """The job killed every worker that ran it alone."""

    code = "poison"


class Nondeterministic(JobError):
    """The job gave two different batches."""

    code = "nondeterministic"


_KINDS: Dict[str, Type[Error]] = {}


def _gather(kind: Type[Error]) -> None:
    _KINDS.setdefault(kind.code, kind)
    for sub in kind.__subclasses__():
        _gather(sub)


_gather(Error)


def from_fault(fault: Mapping[str, Any]) -> Error:
    """The error that travels as ``fault``."""
    kind = _KINDS.get(fault["code"], Error)
    details: Optional[Mapping[str, Any]] = fault.get("details")
    if details and "gen" in details and not issubclass(kind, JobError):
        kind = _with_job(kind)
    err = kind(fault["message"])
    for name, value in (details or {}).items():
        if name == "states":
            from ._state import of_wire  # which imports this module

            value = {rank: of_wire(state) for rank, state in value}
        setattr(err, "waiting_for" if name == "for" else name, value)
    return err


_WITH_JOB: Dict[Type[Error], Type[Error]] = {}


def _with_job(kind: Type[Error]) -> Type[Error]:
    """A kind of error that says which job it is about, too: in Go one error matches both."""
    if kind not in _WITH_JOB:
        if kind is Error:
            return JobError
        _WITH_JOB[kind] = type(
            kind.__name__, (kind, JobError), {"__doc__": kind.__doc__, "__module__": kind.__module__}
        )
    return _WITH_JOB[kind]
