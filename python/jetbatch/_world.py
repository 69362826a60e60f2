"""Several ranks that take each batch together."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from typing import Any, Dict, Iterable, Mapping, NamedTuple, Optional, Sequence, Tuple

from ._args import number, span, text
from .errors import BadConfig

MAX_SIZE = 256


class Rows(NamedTuple):
    """Which rows of a batch a rank has: ``start`` to ``stop`` - 1 of ``of``. Alone it has all of them.

    Where a loss is the mean over the rows of a part, its mean over all ranks, each loss times
    ``(stop - start) * parts / of``, is the loss of the whole batch.
    """

    start: int
    stop: int
    of: int


@dataclasses.dataclass(frozen=True)
class World:
    """This process is one of several ranks of one trainer, which take each batch together.

    Every rank sees every batch, in order, and gets its part of the rows. All ranks ask for the same states, and each
    state says nothing of how many ranks there are: any one of them saves it, and any number goes on from it.
    """

    id: str
    """The same for all ranks of one launch, and another after every restart: 1 to 64 letters, digits, ``-``, ``_``."""

    rank: int
    """Of this process, from 0."""

    size: int
    """How many ranks there are; 256 at most."""

    part: int = 0
    """``part`` of ``parts`` is which rows of each batch this rank gets. Equal parts may be given to several ranks, as
    tensor- or pipeline-parallel ones need; 0 of 1 is all rows. Both default to ``rank`` of ``size``."""

    parts: int = 0

    whole: Sequence[str] = ()
    """The tensors that every rank gets whole. All others must have the batch's rows on axis 0, or it is ``NotRows``."""

    even: bool = False
    """A batch whose rows ``parts`` does not divide is ``Uneven``, at every rank alike. Otherwise parts differ by one
    row at most."""

    patience: float = 0.0
    """For how many seconds a silent rank is waited for, 3 at least; one that never came, ten times as long. Then
    ``take`` raises ``RankLost`` at every rank. 60 by default."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Optional[World]:
        """The world that the launcher of this process describes, None for none. It knows, in this order,

        - ``JETBATCH_WORLD``, an ID, with ``RANK`` and ``WORLD_SIZE``;
        - torchrun: ``TORCHELASTIC_RUN_ID`` and ``TORCHELASTIC_RESTART_COUNT``, with ``RANK`` and ``WORLD_SIZE``;
        - SLURM: ``SLURM_JOB_ID``, ``SLURM_STEP_ID`` and ``SLURM_RESTART_COUNT``, with ``SLURM_PROCID`` and
          ``SLURM_NTASKS``;
        - Open MPI: ``OMPI_MCA_ess_base_jobid`` or ``PMIX_NAMESPACE``, with ``OMPI_COMM_WORLD_RANK`` and
          ``OMPI_COMM_WORLD_SIZE``.

        The ID is a digest of what names the launch, and ``JETBATCH_WORLD`` as it is. A launcher that is there and lacks
        a variable raises :class:`BadConfig`. ``dataclasses.replace`` sets the other fields.
        """
        told = launcher(env)
        if told is None:
            return None
        rank, size = (told.number(env, name) for name in (told.rank, told.size))
        world = cls(told.launch(env), rank, size)
        if not re.fullmatch("[A-Za-z0-9_-]{1,64}", world.id):
            raise BadConfig(f"{told.sign} is {world.id!r}: the ID of a world is 1 to 64 letters, digits, '-' and '_'")
        if not 0 <= world.rank < world.size <= MAX_SIZE:
            raise BadConfig(
                f"{told.sign} is set, and {told.rank} is {world.rank} of {world.size}: ranks count from 0, and are "
                f"{MAX_SIZE} at most"
            )
        return world


def as_wire(world: Optional[World]) -> Optional[Dict[str, Any]]:
    """The world as it travels."""
    if world is None:
        return None
    if not isinstance(world, World):
        raise BadConfig(f"world is a jetbatch.World, not {world!r}")
    if isinstance(world.whole, str) or not isinstance(world.whole, Iterable):  # a text's letters would be names
        raise BadConfig(f"whole is a list of names, such as [{world.whole!r}]")
    return {
        "id": text("id", world.id),
        **{name: number(name, getattr(world, name)) for name in ("rank", "size", "part", "parts")},
        "whole": [text("whole", name) for name in world.whole],
        "even": bool(world.even),
        "patience": span("patience", world.patience),
    }


class Launcher(NamedTuple):
    """How a launcher tells its processes what they are."""

    sign: str  # this variable says that it is the one
    names: Tuple[str, ...]  # variables that together name the launch; none where sign does
    rank: str
    size: str

    def number(self, env: Mapping[str, str], name: str) -> int:
        """The value of a variable that has to be there."""
        text = env.get(name, "")
        if not re.fullmatch("[+-]?[0-9]+", text):
            raise BadConfig(f"{self.sign} is set, and {name} is {text!r}")
        return int(text)

    def launch(self, env: Mapping[str, str]) -> str:
        """The ID of the world."""
        if not self.names:
            return env[self.sign]
        named = "".join(f"{name}={env.get(name, '')}\n" for name in self.names)
        return hashlib.sha256(os.fsencode(named)).hexdigest()[:32]


_TORCHRUN = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
_OPEN_MPI = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid")
_LAUNCHERS = (
    Launcher("JETBATCH_WORLD", (), "RANK", "WORLD_SIZE"),
    Launcher("TORCHELASTIC_RUN_ID", _TORCHRUN, "RANK", "WORLD_SIZE"),
    Launcher("SLURM_PROCID", _SLURM, "SLURM_PROCID", "SLURM_NTASKS"),
    Launcher("OMPI_COMM_WORLD_RANK", _OPEN_MPI, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)


def launcher(env: Mapping[str, str]) -> Optional[Launcher]:
    """The launcher that has started this process."""
    return next((told for told in _LAUNCHERS if env.get(told.sign)), None)
