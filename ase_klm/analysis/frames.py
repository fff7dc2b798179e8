"""One structure or many: what the quantities that average over frames accept."""

from collections.abc import Iterable
from typing import Any

from ase import Atoms

from ase_klm.errors import KLMError


def structures(frames: Any) -> list[Atoms]:
    """The structures of Atoms, of a frame of ``data.read``, or of a sequence of either.

    Raises
    ------
    KLMError
        When there are none, or something else is given.
    """
    if isinstance(frames, Atoms) or hasattr(frames, "atoms"):
        frames = [frames]
    elif not isinstance(frames, Iterable) or isinstance(frames, str):
        raise _unreadable(frames)
    found = [frame if isinstance(frame, Atoms) else getattr(frame, "atoms", frame) for frame in frames]
    for atoms in found:
        if not isinstance(atoms, Atoms):
            raise _unreadable(atoms)
    if not found:
        raise KLMError("there are no frames", "the sequence is empty", "give at least one structure")
    return found


def _unreadable(frames: Any) -> KLMError:
    return KLMError(
        f"{type(frames).__name__} is not a structure",
        "Atoms with moments, a frame of data.read, or a sequence of these is needed",
        "read files first: data.read('run.traj') or ase.io.read('run.traj', ':')",
    )
