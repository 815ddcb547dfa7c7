"""Runs every bench, one process each, and keeps their results."""

import subprocess
import sys
from pathlib import Path

NOT_BENCHES = {
    "__init__", "__main__", "cvat_rounds", "fuzz_dicom", "fuzz_readers", "growth", "harness",
    "phantom_cases", "planted", "rounds_cases", "rounds_kills", "study_page",
}  # fmt: skip


def main() -> int:
    """The number of benches that failed to run."""
    names = sorted(
        path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in NOT_BENCHES
    )
    failed = 0
    for name in names:
        print(f"== {name}", flush=True)
        told = subprocess.run([sys.executable, "-m", f"bench.{name}", "--keep"], check=False)
        failed += told.returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
