"""What may never be committed: large files, images of patients, weights, private keys.

Run as `python -m tests.house.guard FILE…`; the tests run it over every tracked file.
"""

import sys
from pathlib import Path

MAX_BYTES = 500_000
"""Largest file; the shipped bases are the exception."""

ALLOWED_LARGE = {
    "conf/tiny-base/model.safetensors": 12_000_000,
    "conf/tiny-base/student.safetensors": 8_000_000,
}
"""The generic bases every demo and test starts from, with their own limits."""

FORBIDDEN_ENDINGS = (".dcm", ".nii", ".nii.gz", ".pt", ".pth", ".pkl", ".ckpt", ".onnx", ".npy")


def problem_of(path: Path) -> str | None:
    """Why this file may not be committed, or nothing."""
    name = path.as_posix()
    if name.lower().endswith(FORBIDDEN_ENDINGS):
        return f"{name}: images of patients and pickled weights are never committed"
    size = path.stat().st_size
    limit = ALLOWED_LARGE.get(name, MAX_BYTES)
    if size > limit:
        return f"{name}: {size} bytes; the limit is {limit}"
    with path.open("rb") as stream:
        head = stream.read(4096)
    if head[128:132] == b"DICM":
        return f"{name}: a DICOM file by content"
    marker = b"-----" + b"BEGIN "
    if marker in head and b"PRIVATE " + b"KEY-----" in head:
        return f"{name}: a private key"
    return None


def main(names: list[str]) -> int:
    """Print what may not be committed; 1 when there is anything."""
    problems = [found for name in names if (found := problem_of(Path(name)))]
    for line in problems:
        sys.stderr.write(line + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
