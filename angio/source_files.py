"""Files that a data set names: below its folder, plain, and there. Knows no format."""

import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

from casebook.errors import DataError


def below(root: Path, name: str) -> Path:
    """The path of a name that a data set gives, never outside its folder.

    Raises:
        DataError: absolute, on a drive, with `..`, a NUL or nothing in it.
    """
    plain = name.replace("\\", "/")
    parts = PurePosixPath(plain).parts
    if (
        not parts
        or plain.startswith("/")
        or PureWindowsPath(name).drive
        or ".." in parts
        or "\0" in name
    ):
        raise DataError(
            "a file name leaves the data set's folder; expected a name inside it; correct the name"
        )
    return root.joinpath(*parts)


def size_of(path: Path, name: str) -> int:
    """The size in bytes of a plain file; a pipe or device would keep the reader waiting for ever.

    Args:
        path: The file.
        name: What messages call it; file names often carry the patient's number.

    Raises:
        DataError: missing, or not a plain file.
    """
    try:
        found = path.stat()
    except (OSError, ValueError):
        raise DataError(f"{name} is not there; correct its path or restore it") from None
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{name} is not a plain file; correct its path")
    return found.st_size
