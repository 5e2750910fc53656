"""Whether there is memory for one more contender."""

from __future__ import annotations

from pathlib import Path

MEMINFO = Path("/proc/meminfo")
GIGABYTE = 1e9
# While a memory is filled, some hold the contents a second time.
COPIES = 2.2
SPARE = 1e9  # for the system and other programs


def lack_of_room(contents_nbytes: int) -> str | None:
    """Why a contender with such contents should not be set up; None where it can be."""
    needed = COPIES * contents_nbytes + SPARE
    free = free_nbytes()
    if free is None or needed <= free:
        return None
    return f"needs {needed / GIGABYTE:.1f} GB of memory, {free / GIGABYTE:.1f} GB are free"


def free_nbytes() -> int | None:
    """What programs could still take of the machine's memory; None where nobody tells."""
    if not MEMINFO.exists():
        return None
    lines = MEMINFO.read_text(encoding="ascii").splitlines()
    found = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((int(kilobytes) * 1024 for kilobytes in found), None)
