"""Half-written files of processes that were killed: nobody reads them, and a worker removes them.

A document appears under its name whole or not at all; what a SIGKILL leaves is a hidden file beside
it. Knows no document.
"""

import time

from casebook.rounds import RoundFolder

OLD_S = 3600.0
"""No write takes this long, so that none of a living process is touched."""


def temporaries(folder: RoundFolder) -> list[str]:
    """The half-written files of a round, relative to its folder."""
    found = folder.path.rglob(".*.tmp")
    return sorted(path.relative_to(folder.path).as_posix() for path in found)


def sweep(folder: RoundFolder) -> int:
    """Remove what was left half-written an hour ago or more; how many files there were."""
    swept = 0
    for name in temporaries(folder):
        path = folder.file(name)
        try:
            if time.time() - path.stat().st_mtime < OLD_S:
                continue
        except FileNotFoundError:  # got its name this moment
            continue
        path.unlink(missing_ok=True)
        swept += 1
    return swept
