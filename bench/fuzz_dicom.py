"""DICOM files damaged in many ways: each is refused, or read as what it was.

`mutations` and `read_one` are what other fuzzing asks for; run by itself it reads them in a process
with limits, and counts: files, hangs, crashes (a dead process, or an error that is not ours),
over_2gb, silent_wrong. Silently wrong is a file accepted with other pixels than it was made with,
unless the damage lies in the pixels' own bytes, which carry no checksum, or in the one element that
says how to look at them. Run: `python -m bench.fuzz_dicom --count 20000 --seed 1`.
"""

import argparse
import json
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt16

from angio.dicom.read import read_cine
from angio.dicom.write import Syntax, XaHeader, write_xa
from casebook.errors import AngioloopError

SYNTAXES: tuple[Syntax, ...] = (
    "raw", "big-endian", "deflated", "rle", "jpeg-ls", "jpeg-lossless", "jpeg-2000", "htj2k",
    "jpeg-12-bit",
)  # fmt: skip
SECONDS_MAX = 10
BYTES_MAX = 2 * 2**30
HW, N_FRAMES = (40, 56), 3
_PIXEL_DATA = b"\xe0\x7f\x10\x00"

Outcome = Literal["same", "refused", "pixels altered", "silent_wrong", "crash", "hang", "over_2gb"]
_HEADER_ELEMENTS = {
    0x00280010: "Rows", 0x00280011: "Columns", 0x00280008: "NumberOfFrames",
    0x00280100: "BitsAllocated", 0x00280101: "BitsStored", 0x00280102: "HighBit",
    0x00280002: "SamplesPerPixel", 0x00280103: "PixelRepresentation",
}  # fmt: skip


@dataclass(frozen=True)
class Seed:
    """A sound file and what is in it."""

    syntax: Syntax
    payload: bytes
    pixels: UInt16[np.ndarray, "t h w"]
    pixels_at: int
    """Where the value of its pixel data begins; with a deflated file, where all that is coded does.
    """


@dataclass(frozen=True)
class Mutation:
    """A damaged file."""

    seed: Seed
    kind: str
    payload: bytes


def _header() -> XaHeader:
    return XaHeader(
        study_uid="2.25.1", series_uid="2.25.2", instance_uid="2.25.3", patient_name="Fuzz^Ada",
        patient_id="1", birth_date="19500101", sex="F", study_date="20200101", study_time="101010",
        accession="A1", institution="I", physician="P", station="S", series_number=1,
        primary_deg=10.0, secondary_deg=5.0, source_detector_mm=1000.0, source_patient_mm=750.0,
        imager_spacing_mm=0.3, frame_ms=66.0,
    )  # fmt: skip


def _pixels_at(payload: bytes, syntax: Syntax) -> int:
    if syntax == "deflated":
        (length,) = struct.unpack_from("<L", payload, 140)
        return 144 + int(length)
    group = b"\x7f\xe0\x00\x10" if syntax == "big-endian" else _PIXEL_DATA
    return payload.rindex(group) + 12


def seeds(folder: Path) -> tuple[Seed, ...]:
    """A sound file of every syntax, with what the reader makes of it."""
    y, x = np.mgrid[: HW[0], : HW[1]]
    noise = np.random.default_rng(7).normal(0, 60, (N_FRAMES, *HW))
    run = np.stack([2000 + 900 * np.sin((x + 5 * t) / 9) * np.cos(y / 11) for t in range(N_FRAMES)])
    pixels = np.clip(run + noise, 1030, 4095).astype(np.uint16)
    found = []
    for syntax in SYNTAXES:
        path = folder / f"{syntax}.dcm"
        write_xa(path, _header(), pixels, syntax=syntax)
        payload, read = path.read_bytes(), read_cine(path).pixels
        if syntax != "jpeg-12-bit" and not np.array_equal(read, pixels):
            raise AssertionError(f"{syntax} is not read as written")
        found.append(Seed(syntax, payload, read, _pixels_at(payload, syntax)))
    return tuple(found)


def _element(rng: np.random.Generator, seed: Seed) -> tuple[str, bytes] | None:
    """One number of the image header replaced by another that could be meant."""
    order = ">" if seed.syntax == "big-endian" else "<"
    tag = int(rng.choice(list(_HEADER_ELEMENTS)))
    name = _HEADER_ELEMENTS[tag]
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    at = seed.payload.find(head + (b"IS" if name == "NumberOfFrames" else b"US"))
    if at < 0:
        return None
    payload = bytearray(seed.payload)
    if name == "NumberOfFrames":
        (length,) = struct.unpack_from(f"{order}H", payload, at + 6)
        text = str(int(rng.choice([0, 1, 2, 4, 5, 9, -1]))).encode()[:length].ljust(length)
        payload[at + 8 : at + 8 + length] = text
    else:
        (value,) = struct.unpack_from(f"{order}H", payload, at + 8)
        others = [value - 1, value + 1, value * 2, value // 2, 0, 8, 12, 16, 65535, value + 256]
        changed = int(rng.choice([other for other in others if 0 <= other <= 65535]))
        struct.pack_into(f"{order}H", payload, at + 8, changed)
    return f"element {name}", bytes(payload)


def _bytes(rng: np.random.Generator, seed: Seed, first: int, last: int) -> bytes:
    payload = bytearray(seed.payload)
    for at in rng.integers(first, last, int(rng.integers(1, 5))):
        payload[at] = int(rng.choice([0, 255, 0x7F, int(rng.integers(256)), payload[at] ^ 1]))
    return bytes(payload)


def _cut(rng: np.random.Generator, seed: Seed) -> tuple[str, bytes]:
    size = len(seed.payload)
    first, last = (int(at) for at in np.sort(rng.integers(0, size, 2)))
    match int(rng.integers(4)):
        case 0:
            return "truncated", seed.payload[:first]
        case 1:
            return "piece removed", seed.payload[:first] + seed.payload[last:]
        case 2:
            return "piece repeated", seed.payload[:last] + seed.payload[first:]
        case _:
            blob = rng.bytes(int(rng.integers(1, 64)))
            return "bytes inserted", seed.payload[:first] + blob + seed.payload[first:]


def _lengths(rng: np.random.Generator, seed: Seed) -> tuple[str, bytes]:
    """A length field made enormous: of the pixel data, of an item, or of any element."""
    payload = bytearray(seed.payload)
    start = seed.pixels_at if rng.random() < 0.5 else int(rng.integers(132, seed.pixels_at))
    at = min(start + int(rng.choice([-4, 4, 8, 12])), len(payload) - 4)
    payload[at : at + 4] = struct.pack(
        "<L", int(rng.choice([0, 1, 7, 2**16, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]))
    )
    return "length", bytes(payload)


def mutations(found: tuple[Seed, ...], count: int, seed: int) -> Iterator[Mutation]:
    """Damaged files, the same for the same seed."""
    rng = np.random.default_rng([20, seed])
    while count > 0:
        sound = found[int(rng.integers(len(found)))]
        kind = int(rng.integers(5))
        if kind == 0:
            made = _element(rng, sound)
        elif kind == 1:
            made = _cut(rng, sound)
        elif kind == 2:
            made = _lengths(rng, sound)
        elif kind == 3:
            made = "header bytes", _bytes(rng, sound, 128, sound.pixels_at)
        else:
            made = "pixel bytes", _bytes(rng, sound, sound.pixels_at, len(sound.payload))
        if made is None or made[1] == sound.payload:
            continue
        yield Mutation(sound, made[0], made[1])
        count -= 1


def read_one(path: Path) -> UInt16[np.ndarray, "t h w"] | None:
    """The pixels of a file; nothing when it is refused as it should be."""
    try:
        return read_cine(path).pixels
    except AngioloopError:
        return None


def _before_pixels(seed: Seed, payload: bytes) -> bytes:
    """The bytes that say what the pixels are; of a deflated file as they inflate."""
    if seed.syntax != "deflated":
        return payload[: seed.pixels_at]
    plain = zlib.decompressobj(-zlib.MAX_WBITS).decompress(payload[seed.pixels_at :], 2**20)
    return payload[: seed.pixels_at] + plain[: plain.rindex(_PIXEL_DATA) + 12]


def judge(mutation: Mutation, path: Path) -> Outcome:
    """What became of a damaged file, written to `path` and read."""
    path.write_bytes(mutation.payload)
    pixels = read_one(path)
    if pixels is None:
        return "refused"
    if np.array_equal(pixels, mutation.seed.pixels):
        return "same"
    sound = mutation.seed
    said = _before_pixels(sound, sound.payload)
    kept = _before_pixels(sound, mutation.payload) == said
    return "pixels altered" if kept and pixels.shape == sound.pixels.shape else "silent_wrong"


def _stop(signum: int, frame: object) -> None:
    raise TimeoutError


def _work(count: int, seed: int, skip: int) -> None:
    """Read the mutations from `skip` on, one line each; what stops this process is seen outside."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _stop)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.dcm"
        found = seeds(Path(folder))
        for number, mutation in enumerate(mutations(found, count, seed)):
            if number < skip:
                continue
            print(json.dumps({"at": number, "kind": mutation.kind}), flush=True)
            signal.alarm(SECONDS_MAX)
            note = ""
            try:
                outcome: Outcome = judge(mutation, path)
            except TimeoutError:
                outcome = "hang"
            except Exception as problem:  # noqa: BLE001 - what is not ours is what is looked for
                outcome, note = "crash", f"{type(problem).__name__}: {problem}"
            signal.alarm(0)
            if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > BYTES_MAX:
                outcome = "over_2gb"
            print(
                json.dumps(
                    {"is": outcome, "syntax": mutation.seed.syntax, "kind": mutation.kind}
                    | ({"note": note} if note else {})
                ),
                flush=True,
            )
            if outcome == "over_2gb":
                return


def fuzz(count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Outcomes of so many mutations, and a line on each that went wrong.

    The reading process is started anew after a death, behind the file that killed it.
    """
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    done = 0
    while done < count:
        script = f"from bench import fuzz_dicom as f; f._work({count}, {seed}, {done})"
        with subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
        ) as worker:
            begun = ""
            for line in worker.stdout or ():
                told = json.loads(line)
                if "at" in told:
                    begun = line.strip()
                    continue
                outcomes[told["is"]] += 1
                done += 1
                begun = ""
                if told["is"] in ("silent_wrong", "crash", "hang", "over_2gb"):
                    wrong.append(f"{done - 1}: {line.strip()}")
        if begun:
            outcomes["crash"] += 1
            wrong.append(f"{done}: killed reading {begun}")
            done += 1
        elif worker.returncode:
            raise RuntimeError(f"the reading process ended with {worker.returncode}")
    return outcomes, wrong


def main() -> int:
    """1 when any file was not handled as it should be."""
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz_dicom")
    parser.add_argument("--count", type=int, default=20_000, help="damaged files")
    parser.add_argument("--seed", type=int, default=1, help="source of all chance")
    options = parser.parse_args()
    outcomes, wrong = fuzz(options.count, options.seed)
    for line in wrong[:50]:
        print(line)
    print(json.dumps({"files": options.count, **dict(sorted(outcomes.items()))}))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
