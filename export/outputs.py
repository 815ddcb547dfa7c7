"""What `angioinfer run` writes: mask and overlay PNGs, COCO, the QCA table as CSV and JSON."""

import csv
import io
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw
from pydantic import Field
from scipy import ndimage

from casebook import masks
from casebook.annotations import AnnotationSetBuilder, Origin, write_annotations
from casebook.cases import FrameRef
from casebook.documents import Document, write_bytes, write_document
from casebook.labels import LabelSet
from export.infer import Analysis, FrameResult, VesselResult

TREE_RGB, VESSEL_RGB, MARK_RGB = (0, 158, 115), (230, 159, 0), (240, 228, 66)
"""Okabe and Ito's colours, which the colour-blind tell apart."""
COLUMNS = (
    "file",
    "frame",
    "vessel",
    "prompt",
    "score",
    "mld",
    "rvd",
    "length",
    "unit",
    "spacing_source",
    "stenosis_pct",
    "problem",
)


class FileProblem(Document):
    """A file that was left out, and why."""

    file: str
    message: str


class InferReport(Document):
    """What a run did."""

    model_id: str
    bundle: str
    providers: tuple[str, ...]
    results: tuple[FrameResult, ...] = ()
    problems: tuple[FileProblem, ...] = ()
    seconds: float = Field(default=0.0, ge=0)
    intended_use: str = "Research use; not a medical device."


def _png(pixels: UInt8[np.ndarray, "..."]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=3)
    return stream.getvalue()


def _edge(bitmap: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    return np.asarray(bitmap & ~ndimage.binary_erosion(bitmap))


def overlay(analysis: Analysis) -> UInt8[np.ndarray, "h w 3"]:
    """The frame with outlines, the narrowest place and its figures."""
    shown = np.repeat(analysis.pixels[..., None], 3, axis=2)
    if analysis.tree is not None:
        shown[_edge(analysis.tree)] = TREE_RGB
    for bitmap in analysis.vessels:
        shown[_edge(bitmap)] = VESSEL_RGB
    image = Image.fromarray(shown)
    draw = ImageDraw.Draw(image)
    for vessel in analysis.result.vessels:
        if vessel.lesion is None:
            continue
        x, y = vessel.lesion.mld_xy
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), outline=MARK_RGB)
        text = (
            f"{vessel.number}: MLD {vessel.lesion.mld_text}  {vessel.lesion.stenosis_pct:.0f} %DS"
        )
        width = draw.textlength(text)
        left = min(max(x + 10, 0), max(image.width - width - 2, 0))
        draw.text((left, min(max(y - 14, 0), image.height - 12)), text, fill=MARK_RGB)
    return np.asarray(image)


def write_pictures(analysis: Analysis, folder: Path) -> tuple[str, ...]:
    """Mask and overlay PNGs of one file; their names come back."""
    result = analysis.result
    stem = f"{result.case_id}.f{result.frame:05d}"
    pictures = {f"{stem}.overlay.png": overlay(analysis)}
    if analysis.tree is not None:
        pictures[f"{stem}.tree.png"] = masks.to_grey(analysis.tree)
    for vessel, bitmap in zip(result.vessels, analysis.vessels, strict=True):
        pictures[f"{stem}.vessel-{vessel.number}.png"] = masks.to_grey(bitmap)
    for name, pixels in pictures.items():
        write_bytes(folder / name, _png(pixels))
    return tuple(pictures)


class CocoWriter:
    """Collects the masks of all files of a run."""

    def __init__(self, labels: LabelSet, model_id: str) -> None:
        self._builder = AnnotationSetBuilder(labels, {"model": model_id})
        lesions, trees = labels.of_role("lesion"), labels.of_role("tree")
        self._vessel = (lesions or labels.masks)[0].name
        self._tree = trees[0].name if trees else None
        self._model_id = model_id

    def add(self, analysis: Analysis) -> None:
        """One file's masks, as proposals nobody has reviewed."""
        result = analysis.result
        at = FrameRef(case_id=result.case_id, frame=result.frame)
        image = self._builder.add_image(at, (result.height_px, result.width_px))
        if analysis.tree is not None and self._tree is not None and analysis.tree.any():
            self._add(image, self._tree, analysis.tree, result.tree_score or 0.0, "concept")
        for vessel, bitmap in zip(result.vessels, analysis.vessels, strict=True):
            if bitmap.any():
                self._add(image, self._vessel, bitmap, vessel.score, vessel.prompt)

    def _add(
        self, image: int, label: str, bitmap: Bool[np.ndarray, "h w"], score: float, source: str
    ) -> None:
        self._builder.add_mask(
            image,
            label,
            masks.encode(bitmap),
            Origin.MODEL,
            model_id=self._model_id,
            score=score,
            prompt_source=source,
        )

    def write(self, path: Path) -> None:
        """The finished COCO file."""
        write_annotations(path, self._builder.build())


def _row(result: FrameResult, vessel: VesselResult) -> dict[str, str]:
    row = dict.fromkeys(COLUMNS, "")
    row |= {
        "file": result.file,
        "frame": str(result.frame),
        "vessel": str(vessel.number),
        "prompt": vessel.prompt,
        "score": f"{vessel.score:.3f}",
        "problem": vessel.problem or "",
    }
    lesion = vessel.lesion
    if lesion is None:
        return row
    in_mm = lesion.mld_mm is not None and lesion.rvd_mm is not None and lesion.length_mm is not None
    lengths = (
        (lesion.mld_mm, lesion.rvd_mm, lesion.length_mm)
        if in_mm
        else (lesion.mld_px, lesion.rvd_px, lesion.length_px)
    )
    for name, value in zip(("mld", "rvd", "length"), lengths, strict=True):
        row[name] = f"{value:.3f}"
    row["unit"] = "mm" if in_mm else "px"
    row["spacing_source"] = lesion.spacing.source if in_mm and lesion.spacing else ""
    row["stenosis_pct"] = f"{lesion.stenosis_pct:.1f}"
    return row


def _tame(text: str) -> str:
    """A cell no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def write_tables(report: InferReport, folder: Path) -> None:
    """The QCA table as CSV, and everything as JSON."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for result in report.results:
        for vessel in result.vessels:
            row = _row(result, vessel)
            writer.writerow(row | {"file": _tame(row["file"])})
    write_bytes(folder / "qca.csv", stream.getvalue().encode())
    write_document(folder / "qca.json", report)
