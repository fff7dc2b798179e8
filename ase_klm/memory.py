"""How much memory there is, and an error before something is begun that needs more.

Estimates stand beside what they are for. They are meant within a factor of 1.5.
"""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from ase_klm.errors import KLMError

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def require_memory(
    needed: float, purpose: str, remedy: str | Callable[[float], str], device: str | torch.device = "cpu"
) -> None:
    """Nothing, where there are as many bytes.

    Parameters
    ----------
    needed : float
        Bytes.
    purpose : str
        What needs them, as the subject of a sentence.
    remedy : str or callable
        What fits instead; a function takes the part of the need that is available.

    Raises
    ------
    KLMError
        When they are not available.
    """
    if needed < 1e8:  # not worth a look
        return
    available = available_memory(device)
    if needed > available:
        place = "this machine" if torch.device(device).type == "cpu" else str(device)
        raise KLMError(
            f"{purpose} needs {size_text(needed)} of memory",
            f"on {place} {size_text(available)} are available",
            remedy if isinstance(remedy, str) else remedy(available / needed),
        )


def available_memory(device: str | torch.device = "cpu") -> float:
    """Bytes that can still be allocated: of the machine, or of the cgroup that it grants us; infinity if not known."""
    found = torch.device(device)
    if found.type == "cuda":
        free, _ = torch.cuda.mem_get_info(found)
        return float(free + torch.cuda.memory_reserved(found) - torch.cuda.memory_allocated(found))
    return min([_of_the_machine(), *_of_the_cgroups()])


def size_text(size: float) -> str:
    """Bytes for people: "129 GB"."""
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size / 1e6:.3g} MB"


def _of_the_machine() -> float:
    try:
        for line in (PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    try:  # all of it, where the system does not say what is free
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return float("inf")


def _of_the_cgroups() -> list[float]:
    """What is left in the groups of this process and in those above it, of version 2 and of version 1."""
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = CGROUPS / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            found += _left_in(folder, *names)
            if folder == root:
                break
    return found


def _left_in(folder: Path, limit: str, used: str, cached: str) -> list[float]:
    """Limit less use of one group; file pages that are only kept do not count as used."""
    try:
        most, now = (folder / limit).read_text().strip(), int((folder / used).read_text())
        if not most.isdecimal():  # "max"
            return []
        rows = dict(line.split()[:2] for line in (folder / "memory.stat").read_text().splitlines())
        return [max(0.0, float(int(most) - now + int(rows.get(cached, 0))))]
    except (OSError, ValueError):
        return []
