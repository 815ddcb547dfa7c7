"""Reading a folder of angiograms, against a plain loop of pydicom and Pillow that does the same.

`frames_per_s_ratio_vs_naive`: frames a second from files on disk to the rendered 8-bit frames that
the catalogue would keep (one and its two neighbours, of runs of 48), over those of the plain loop:
`dcmread`, `pixel_array`, percentiles, scaling. Both give the same pixels, in one process and one
thread; times are of the processor. The other figures say where it comes from: `…_all_frames` when
every frame is wanted, `…_to_png` when both also write PNG, `ratio_…` of one syntax alone.
`rss_100k_over_1k`: peak memory of importing and listing 100 000 rows over that of 1 000.
`frame_choice_in_plateau`: share of whole injections whose chosen frame is a filled one, on phantoms
that development did not see; `frame_choice_still`: share chosen with the heart at rest.
"""

import io
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import process_time

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image
from pydicom import dcmread

from angio.dicom.read import cine_of, n_frames_of, open_dataset
from angio.dicom.write import Syntax, XaHeader, write_xa
from angio.frames import choose_frame
from angio.phantoms.bolus import draw_bolus
from angio.phantoms.render import render_cine
from angio.rendering import HIGH_PCT, LOW_PCT, render_frame
from bench.growth import rss_ratio
from bench.harness import run
from casebook.catalogue import png_bytes

AIMS = {"frames_per_s_ratio_vs_naive": ">= 3", "rss_100k_over_1k": "<= 1.1"}
SYNTAXES: tuple[Syntax, ...] = ("raw", "jpeg-ls", "rle", "jpeg-2000", "deflated")
"""Those that both sides decode with the packages of `pip install angioloop`."""
FIRST_HELD_OUT = 1000
"""Seeds below were looked at during development."""
STILL = 0.1
"""Contraction up to which the heart counts as at rest."""

Picture = UInt8[np.ndarray, "h w"]


def _header(number: int) -> XaHeader:
    return XaHeader(
        study_uid="2.25.1", series_uid="2.25.2", instance_uid=f"2.25.{number + 10}",
        patient_name="Bench^Ada", patient_id=str(number), birth_date="19500101", sex="F",
        study_date="20200101", study_time="101010", accession="A1", institution="I",
        physician="P", station="S", series_number=1, primary_deg=30.0, secondary_deg=-20.0,
        source_detector_mm=1000.0, source_patient_mm=750.0, imager_spacing_mm=0.3, frame_ms=66.7,
    )  # fmt: skip


def _runs(count: int, n_frames: int) -> Iterator[UInt16[np.ndarray, "t h w"]]:
    """Runs of 12 bits, 512 px: a few phantom frames each, repeated to the length of a real run."""
    for number in range(count):
        rng = np.random.default_rng([3, number])
        bolus = draw_bolus(rng, 8)
        few = render_cine(rng, bolus.scene)
        yield np.concatenate([few] * -(-n_frames // len(few)))[:n_frames]


def _kept(n_frames: int, *, every: bool) -> range:
    middle = n_frames // 2
    return range(n_frames) if every else range(middle - 1, middle + 2)


def plain(path: Path, *, every: bool) -> list[Picture]:
    """The loop that anybody would write first."""
    pixels = dcmread(path).pixel_array
    shown = []
    for frame in _kept(len(pixels), every=every):
        low, high = np.percentile(pixels[frame], [LOW_PCT, HIGH_PCT])
        scaled = (pixels[frame].astype(np.float32) - np.float32(low)) * np.float32(
            255.0 / (high - low)
        )
        shown.append(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
    return shown


def ours(path: Path, *, every: bool) -> list[Picture]:
    """What an import does."""
    ds = open_dataset(path)
    cine = cine_of(ds, path.name, _kept(n_frames_of(ds, path.name), every=every))
    return [render_frame(cine, position) for position in range(len(cine.frames))]


def _pillow_png(picture: Picture) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def _each(encode: Callable[[Picture], bytes], pictures: list[Picture]) -> None:
    for picture in pictures:
        encode(picture)


def _cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """Least processor seconds of one call: what a busy machine disturbs least."""
    work()
    spent = []
    for _ in range(repeats):
        start = process_time()
        work()
        spent.append(process_time() - start)
    return min(spent)


def _speed(quick: bool) -> dict[str, float | None]:
    n_frames, repeats = (9, 1) if quick else (48, 3)
    total = dict.fromkeys(("plain", "ours", "plain all", "ours all", "plain png", "ours png"), 0.0)
    alone: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, pixels in enumerate(_runs(len(SYNTAXES), n_frames)):
            path = Path(folder) / f"{number}.dcm"
            write_xa(path, _header(number), pixels, syntax=SYNTAXES[number])
            theirs, own = plain(path, every=True), ours(path, every=True)
            if not all(np.array_equal(a, b) for a, b in zip(theirs, own, strict=True)):
                raise AssertionError(f"{SYNTAXES[number]}: the two do not render the same")
            for every, suffix in ((False, ""), (True, " all")):
                for name, read in (("plain", plain), ("ours", ours)):
                    spent = _cpu_seconds(partial(read, path, every=every), repeats)
                    total[name + suffix] += spent
                    alone[f"{name}{suffix} {SYNTAXES[number]}"] = spent
            three = own[: len(_kept(n_frames, every=False))]
            for name, encode in (("plain png", _pillow_png), ("ours png", png_bytes)):
                total[name] += _cpu_seconds(partial(_each, encode, three), repeats)
    return {
        "frames_per_s_ratio_vs_naive": total["plain"] / total["ours"],
        "frames_per_s_ratio_all_frames": total["plain all"] / total["ours all"],
        "frames_per_s_ratio_to_png": (total["plain"] + total["plain png"])
        / (total["ours"] + total["ours png"]),
        "frames_per_cpu_s": 3 * len(SYNTAXES) / total["ours"],
        **{f"ratio_{name}": alone[f"plain {name}"] / alone[f"ours {name}"] for name in SYNTAXES},
    }


def _choice(quick: bool) -> dict[str, float | None]:
    count = 2 if quick else 50
    inside = still = 0
    for seed in range(FIRST_HELD_OUT, FIRST_HELD_OUT + count):
        bolus = draw_bolus(np.random.default_rng([8, seed]), 30)
        run_pixels = render_cine(np.random.default_rng([9, seed]), bolus.scene)
        chosen = choose_frame(run_pixels).frame
        inside += chosen in bolus.plateau
        still += bool(bolus.contraction[chosen] <= STILL)
    return {"frame_choice_in_plateau": inside / count, "frame_choice_still": still / count}


def measure(quick: bool) -> dict[str, float | None]:
    """All figures; small counts when quick."""
    return {**_speed(quick), "rss_100k_over_1k": rss_ratio(quick), **_choice(quick)}


if __name__ == "__main__":
    run("ingest", measure, AIMS)
