"""What a result was made with: the commit and the resolution of dependencies."""

import shutil
import subprocess
from functools import cache
from pathlib import Path

from casebook.documents import sha256_of_file

_ROOT = Path(__file__).resolve().parents[1]


@cache
def commit() -> str | None:
    """The commit of this checkout; nothing when it is not one."""
    git = shutil.which("git")
    if git is None or not (_ROOT / ".git").exists():
        return None
    answer = subprocess.run(  # noqa: S603 - fixed arguments
        [git, "rev-parse", "HEAD"], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or None


def constraints_sha256() -> str | None:
    """Digest of constraints.txt; nothing when it is not beside the packages."""
    path = _ROOT / "constraints.txt"
    return sha256_of_file(path) if path.is_file() else None
