"""What a launch of MPICH that did not end in order leaves behind, and why one may not even begin. No MPI here.

Its proxies write the topology of the host into a file in /tmp, which ranks read while they initialise; its ranks share
a file in /dev/shm. Neither name says whose it is, so they are known by owner and time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tilewright.host.files import largest
from tilewright.units import nbytes

__all__ = ["needs_memory", "orphans", "topologies"]

_TOPOLOGY = "hydra_hwloc_xmlfile_"
_SEGMENT = "mpich_shm_"
_MEMORY = 5.2e6  # bytes of shared memory for each rank, measured with MPICH 5.0.2
_SHM = "/dev/shm"


def _since(folder: str, start: str, began: float, ended: float) -> Iterator[str]:
    """Files of this user in a folder that were made in that time."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(start):
            try:
                facts = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            #   the clock of files is coarse
            if facts.st_uid == os.getuid() and began - 0.01 <= facts.st_mtime <= ended:
                yield entry.path


def topologies(began: float, ended: float) -> set[str]:
    """Topologies written between two times. Ranks that are up need them no more; others can do without."""
    return set(_since("/tmp", _TOPOLOGY, began, ended))


def orphans(began: float, ended: float) -> set[str]:
    """Shared memory made between two times that no process maps."""
    found = set(_since(_SHM, _SEGMENT, began, ended))
    if not found:
        return found
    mapped: set[str] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            lines = (folder / "maps").read_text().splitlines()
        except OSError:
            continue
        mapped.update(line.partition("/")[2] for line in lines if _SEGMENT in line)
    return {file for file in found if file[1:] not in mapped}


def needs_memory(ranks: int) -> str:
    """What to say where there is too little shared memory for so many ranks, with both numbers; else nothing.

    To the system it is files, for which there may be a limit.
    """
    limit = largest()
    if limit is not None and limit < _MEMORY:
        return (
            f"MPICH takes about {_MEMORY / 1e6:.1f} MB of {_SHM} for each rank, and this process may write no file "
            f"above {nbytes(limit)}: raise the limit (ulimit -f), or take backend='threads'"
        )
    try:
        total, _, free = shutil.disk_usage(_SHM)
    except OSError:
        return ""
    if free >= ranks * _MEMORY:
        return ""
    return (
        f"MPICH takes about {_MEMORY / 1e6:.1f} MB of {_SHM} for each rank, {ranks * _MEMORY / 1e6:.0f} MB for "
        f"{ranks}, and {free / 1e6:.0f} of its {total / 1e6:.0f} MB are free: use fewer ranks, or give the container "
        f"more, such as docker run --shm-size=1g"
    )
