"""Every reader against damaged files: each is refused, or read as what its bytes say.

CSV, contour JSON, COCO, YOLO, NPY, PNG and NIfTI (bench/fuzz_readers.py), and DICOM
(bench/fuzz_dicom.py). Files are read in a process with a time limit for each and a memory limit for
all. Figures: files; hangs; crashes (a dead process, or an error that is not ours); over_2gb;
silent_wrong (accepted, and not what the bytes say).
"""

import json
import logging
import resource
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench import fuzz_dicom
from bench.fuzz_readers import Format, formats, with_checksum
from bench.harness import run
from casebook.errors import AngioloopError

AIMS = {
    "files": ">= 20000", "hangs": "<= 0", "crashes": "<= 0", "over_2gb": "<= 0",
    "silent_wrong": "<= 0",
}  # fmt: skip
COUNTS = {False: (16_000, 4_000), True: (400, 40)}
"""Damaged files of the plain readers and of DICOM, in full and when quick."""
SECONDS_MAX = 10
BYTES_MAX = 2 * 2**30
_WORDS = (
    b"NaN", b"Infinity", b"-1", b"0", b"1e999", b"1e308", b"99999999999999999999", b"true", b"null",
    b'"x"', b"[]", b"{}", b"0.5", b"\xff\xfe", b"\x00", b'"', b",", b"\n", b"../..", b"C:\\",
    b"\xe2\x80\x93", b"=1+1", b"[" * 3000,
)  # fmt: skip


def mutated(rng: np.random.Generator, sound: Format) -> bytes:
    """A damaged copy of a format's sound file."""
    payload = bytearray(sound.payload)
    size = len(payload)
    first, last = (int(at) for at in np.sort(rng.integers(0, size, 2)))
    kind = int(rng.integers(7 if sound.is_text else 6))
    if kind == 0:
        return bytes(payload[:first])
    if kind == 1:
        return bytes(payload[:first] + payload[last:])
    if kind == 2:
        return bytes(payload[:last] + payload[first:])
    if kind == 3:
        return bytes(payload[:first]) + rng.bytes(int(rng.integers(1, 64))) + bytes(payload[first:])
    if kind == 6:
        word = _WORDS[int(rng.integers(len(_WORDS)))]
        end = first + int(rng.integers(0, 6))
        return bytes(payload[:first]) + word + bytes(payload[end:])
    reach = min(size, 400) if kind == 4 else size  # headers are where the harm is
    for at in rng.integers(0, reach, int(rng.integers(1, 5))):
        payload[at] = int(rng.choice([0, 255, 0x7F, int(rng.integers(256)), payload[at] ^ 1]))
    if sound.name == "png" and rng.random() < 0.5:
        return with_checksum(bytes(payload))
    return bytes(payload)


def mutations(count: int, seed: int) -> Iterator[tuple[Format, bytes]]:
    """Damaged files, the same for the same seed."""
    rng = np.random.default_rng([21, seed])
    sound = formats()
    while count > 0:
        one = sound[int(rng.integers(len(sound)))]
        payload = mutated(rng, one)
        if payload != one.payload:
            yield one, payload
            count -= 1


def judge(sound: Format, payload: bytes, folder: Path) -> tuple[str, str]:
    """What became of a damaged file: refused, true or silent_wrong; and why it is wrong."""
    path = folder / f"damaged{sound.suffix}"
    path.write_bytes(payload)
    try:
        found = sound.read(path)
    except AngioloopError:
        return "refused", ""
    try:
        agrees, note = sound.agrees(found, payload), "reads differ"
    except (ValueError, KeyError, TypeError, IndexError, OSError, EOFError) as problem:
        agrees, note = False, f"plain tools refuse it: {type(problem).__name__}: {problem}"[:300]
    return ("true", "") if agrees else ("silent_wrong", note)


def _stop(signum: int, frame: object) -> None:
    raise TimeoutError


def work(count: int, seed: int, skip: int) -> None:
    """Judge the mutations from `skip` on, one line each; a death is seen from outside."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _stop)
    warnings.simplefilter("ignore")
    logging.disable()  # nibabel tells each thing it would mend
    with tempfile.TemporaryDirectory() as folder:
        for number, (sound, payload) in enumerate(mutations(count, seed)):
            if number < skip:
                continue
            signal.alarm(SECONDS_MAX)
            try:
                outcome, note = judge(sound, payload, Path(folder))
            except TimeoutError:
                outcome, note = "hang", ""
            except Exception as problem:  # noqa: BLE001 - what is not ours is what is looked for
                outcome, note = "crash", f"{type(problem).__name__}: {problem}"[:300]
            signal.alarm(0)
            if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > BYTES_MAX:
                outcome = "over_2gb"
            print(json.dumps({"is": outcome, "format": sound.name, "note": note}), flush=True)
            if outcome == "over_2gb":
                return


def fuzz(count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Outcomes of so many damaged files, and a line on each that went wrong."""
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    done = 0
    while done < count:
        script = f"from bench import fuzz; fuzz.work({count}, {seed}, {done})"
        before = done
        with subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[1],
        ) as worker:  # fmt: skip
            for line in worker.stdout or ():
                told = json.loads(line)
                outcomes[told["is"]] += 1
                outcomes[f"{told['format']}: {told['is']}"] += 1
                if told["is"] not in {"true", "refused"}:
                    wrong.append(f"{done}: {line.strip()}")
                done += 1
        if worker.returncode:
            if done == before == 0:
                raise RuntimeError(f"the reading process ended at once with {worker.returncode}")
            outcomes["crash"] += 1
            wrong.append(f"{done}: the process died ({worker.returncode})")
            done += 1
    return outcomes, wrong


def measure(quick: bool) -> dict[str, float | None]:
    """The figures; what went wrong is printed."""
    plain, dicom = COUNTS[quick]
    outcomes, wrong = fuzz(plain, 1)
    theirs, theirs_wrong = fuzz_dicom.fuzz(dicom, 1)
    for line in [*wrong, *theirs_wrong][:50]:
        print(line)
    names = {"hangs": "hang", "crashes": "crash", "over_2gb": "over_2gb"}
    figures: dict[str, float | None] = {
        name: float(outcomes[outcome] + theirs[outcome]) for name, outcome in names.items()
    }
    return {
        "files": float(plain + dicom),
        **figures,
        "silent_wrong": float(outcomes["silent_wrong"] + theirs["silent_wrong"]),
        "refused_fraction": (outcomes["refused"] + theirs["refused"]) / (plain + dicom),
    }


if __name__ == "__main__":
    run("fuzz", measure, AIMS)
