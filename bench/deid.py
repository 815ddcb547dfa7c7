"""De-identification: planted values that are found anywhere outside private/, and text in pixels.

Elements: every element of the profile, private ones, sequences three deep, overlays and curves, in
files that go through `casebook import dicom`; the checker searches whatever the workspace holds
outside private/ (pictures with their text chunks, JSON, SQLite) and the stripped header written as
DICOM. Pixels: text drawn on phantoms of a seed that served nowhere else. Development used Pillow's
own font, DejaVu Sans, Sans Mono and Serif, at 10, 14, 20 and 28 px, 6 px from a corner or anywhere,
at ±80, ±140 and full contrast; here stand STIX, Computer Modern and strokes of our own, at other
sizes, places and contrasts. Where matplotlib (extra dev) is absent, the strokes alone are used.

`recall` is the share of planted values found nowhere; `pixel_text_recall` the share of pictures
with text that were refused or whose every pixel of ink was painted over; `over_masked_fraction` the
mean share of a text-free picture that was painted over; `refused_fraction` the share of text-free
pictures held for a person.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from angio.burned_text import TextBox, find_text
from angio.deident import key_of, pseudonym, remapped_uid, shift_days
from angio.dicom.identity import strip
from angio.dicom.read import open_dataset, read_cine
from angio.dicom_folder import import_dicom
from angio.phantoms.study import write_study
from angio.rendering import render_frame
from bench.harness import run
from bench.planted import Planted, plant
from casebook.home import Home

NAME = "deid"
AIMS = {"recall": ">= 1.0", "pixel_text_recall": ">= 0.99"}
SEED = 7301
FONTS = ("STIXGeneral", "STIXGeneralBol", "cmr10", "cmss10", "cmtt10", "cmb10")
SIZES_PX = (11, 13, 17, 24, 36)
CONTRASTS = (95, -95, 120, -120, 170, -170)
WORDS = (
    "QUILL^ZEBEDEE", "1948-11-30", "MRN 90210-7", "VAN DER BERG, K", "General Infirmary",
    "F 71Y", "30.11.1948 09:41", "Okonkwo", "Prof. Lindqvist", "Acc 5521-03",
)  # fmt: skip
SEGMENTS = {
    "0": "abcdef", "1": "bc", "2": "abged", "3": "abgcd", "4": "fgbc", "5": "afgcd",
    "6": "afgedc", "7": "abc", "8": "abcdefg", "9": "abfgcd", "-": "g",
}  # fmt: skip
"""Seven strokes of a digit: a top, b and c right, d bottom, e and f left, g middle."""
_ENDS = {
    "a": ((0, 0), (1, 0)), "b": ((1, 0), (1, 1)), "c": ((1, 1), (1, 2)), "d": ((0, 2), (1, 2)),
    "e": ((0, 1), (0, 2)), "f": ((0, 0), (0, 1)), "g": ((0, 1), (1, 1)),
}  # fmt: skip


def fonts() -> tuple[Path, ...]:
    """The fonts of the evaluation that are here."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        return ()
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    return tuple(path for name in FONTS if (path := folder / f"{name}.ttf").exists())


def _ink(
    hw: tuple[int, int], rng: np.random.Generator, faces: tuple[Path, ...]
) -> Float32[np.ndarray, "h w"]:
    """How much of every pixel a text covers, 0 to 1."""
    picture = Image.new("L", (hw[1], hw[0]), 0)
    pen = ImageDraw.Draw(picture)
    size = int(rng.choice(SIZES_PX))
    face = int(rng.integers(len(faces) + 1))
    if face == len(faces):
        text = "1948-11-30" if rng.random() < 0.5 else "90210-7744"
        wide = 0.75 * size * len(text)
    else:
        font = ImageFont.truetype(str(faces[face]), size)
        text = str(rng.choice(WORDS))
        wide = font.getlength(text)
    edge = rng.random() < 0.75
    x = float(rng.uniform(2, max(3, hw[1] - wide - 4)))
    y = float(rng.uniform(2, hw[0] - 1.4 * size - 4))
    if edge:
        y = float(rng.uniform(2, 30)) if rng.random() < 0.5 else hw[0] - 1.4 * size - 4
    if face == len(faces):
        for place, digit in enumerate(text):
            left = x + 0.75 * size * place
            for stroke in SEGMENTS[digit]:
                ends = [(left + 0.5 * size * a, y + 0.5 * size * b) for a, b in _ENDS[stroke]]
                pen.line(ends, fill=255, width=max(1, size // 9))
    else:
        pen.text((x, y), text, fill=255, font=font)
    return np.asarray(picture, dtype=np.float32) / 255


def _with_text(
    cine: UInt8[np.ndarray, "t h w"], rng: np.random.Generator, faces: tuple[Path, ...]
) -> tuple[UInt8[np.ndarray, "t h w"], Bool[np.ndarray, "h w"]]:
    """A run with text on every frame, and where its ink is."""
    share = _ink((cine.shape[1], cine.shape[2]), rng, faces)
    ground = float(np.median(cine[:, share > 0.5])) if (share > 0.5).any() else 128.0
    level = ground + float(rng.choice(CONTRASTS))
    if not 0 <= level <= 255:
        level = 2 * ground - level
    drawn = cine * (1 - share) + float(np.clip(level, 0, 255)) * share
    return np.rint(drawn).astype(np.uint8), share > 0.15


def _painted(found: Sequence[TextBox], hw: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    inside = np.zeros(hw, dtype=bool)
    for entry in found:
        x1, y1, x2, y2 = entry.box_xyxy
        inside[y1 : y2 + 1, x1 : x2 + 1] = True
    return inside


def _cines(folder: Path) -> list[UInt8[np.ndarray, "t h w"]]:
    found = []
    for path in sorted(folder.rglob("*.dcm")):
        cine = read_cine(path)
        middle = cine.n_frames // 2
        frames = range(max(0, middle - 1), min(cine.n_frames, middle + 2))
        found.append(np.stack([render_frame(cine, frame) for frame in frames]))
    return found


def pixel_figures(folder: Path, repeats: int) -> dict[str, float | None]:
    """The figures of text in pixels."""
    rng = np.random.default_rng(SEED)
    faces = fonts()
    print(f"fonts: {', '.join(p.stem for p in faces) or 'none'}, strokes", file=sys.stderr)
    safe = texts = refused = 0
    over = []
    cines = _cines(folder)
    for cine in cines:
        hw = (cine.shape[1], cine.shape[2])
        found = find_text(cine)
        held = any(not entry.certain for entry in found)
        refused += held
        over.append(0.0 if held else float(_painted(found, hw).mean()))
        for _ in range(repeats):
            drawn, ink = _with_text(cine, rng, faces)
            found = find_text(drawn)
            held = any(not entry.certain for entry in found)
            texts += 1
            safe += held or (bool(found) and bool(_painted(found, hw)[ink].all()))
    return {
        "texts": float(texts),
        "pixel_text_recall": safe / texts,
        "over_masked_fraction": float(np.mean(over)),
        "refused_fraction": refused / len(cines),
    }


def outside_private(root: Path) -> dict[str, bytes]:
    """Every file a workspace holds outside private/, its name included; PNG text unpacked."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not name.startswith("private/"):
            chunks = b""
            if path.suffix == ".png":
                with Image.open(path) as picture:
                    chunks = repr(getattr(picture, "text", {})).encode()
            found[name] = name.encode() + b"\n" + path.read_bytes() + b"\n" + chunks
    return found


def leaks(planted: list[Planted], payloads: dict[str, bytes]) -> list[tuple[str, str]]:
    """Which planted values are in which file."""
    return [
        (value.where, name)
        for value in planted
        for name, payload in payloads.items()
        if len(value.text) >= 6 and value.text.encode() in payload
    ]


def element_figures(source: Path, folder: Path, patients: int) -> dict[str, float | None]:
    """The figures of elements: planted, and the share found nowhere."""
    folder.mkdir()
    home = Home(folder / "home")
    key = key_of(home)
    paths = sorted(source.rglob("*.dcm"))[:patients]
    planted: list[Planted] = []
    kept: set[str] = set()
    payloads = {}
    (folder / "in").mkdir()
    for number, path in enumerate(paths):
        target = folder / "in" / f"zq{number}.dcm"
        _, values = plant(path, target, start=10000 * (number + 1))
        planted += values
        clean = strip(
            open_dataset(target),
            pseudonym=pseudonym(key, str(number)),
            remap_uid=lambda uid: remapped_uid(key, uid),
            shift_days=shift_days(key, str(number)),
        ).dataset
        clean.pop("PixelData", None)
        written = folder / f"clean{number}.dcm"
        clean.save_as(written, enforce_file_format=True)
        payloads[written.name] = written.read_bytes()
        kept |= {f"({e.tag.group:04X},{e.tag.element:04X})={e.value}" for e in clean.iterall()}
    report = import_dicom(folder / "in", home)
    if report.imported != len(paths):
        raise RuntimeError(f"{report.imported} of {len(paths)} imported: {report.problems[:3]}")
    payloads.update(outside_private(home.root))
    found = {where for where, _ in leaks(planted, payloads)}
    found |= {value.where for value in planted if f"{value.where}={value.text}" in kept}
    for where in sorted(found):
        print(f"leaked: {where}", file=sys.stderr)
    lost = sum(value.where in found for value in planted)
    return {"elements": float(len(planted)), "recall": 1 - lost / len(planted)}


def measure(quick: bool) -> dict[str, float | None]:
    """All figures."""
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        write_study(study, seed=SEED, patients=3 if quick else 12, unseen=1, workers=1)
        return {
            **element_figures(study, Path(folder) / "elements", 2 if quick else 6),
            **pixel_figures(study, 1 if quick else 8),
        }


if __name__ == "__main__":
    run(NAME, measure, AIMS)
