"""What `angioinfer run` draws of one file: masks and overlay as PNG, and as DICOM SEG."""

import io
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw
from scipy import ndimage

from casebook import masks
from casebook.documents import sha256_of, write_bytes
from casebook.labels import LabelSet
from export.infer import Analysis

if TYPE_CHECKING:
    from angio.dicom.seg import Segment

TREE_RGB, VESSEL_RGB, MARK_RGB = (0, 158, 115), (230, 159, 0), (240, 228, 66)
"""Okabe and Ito's colours, which the colour-blind tell apart."""


def _png(pixels: UInt8[np.ndarray, "..."]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=3)
    return stream.getvalue()


def edge_of(bitmap: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """A mask's own outermost pixels."""
    return np.asarray(bitmap & ~ndimage.binary_erosion(bitmap))


def overlay(analysis: Analysis) -> UInt8[np.ndarray, "h w 3"]:
    """The frame with outlines, the narrowest place and its figures."""
    shown = np.repeat(analysis.pixels[..., None], 3, axis=2)
    if analysis.tree is not None:
        shown[edge_of(analysis.tree)] = TREE_RGB
    for bitmap in analysis.vessels:
        shown[edge_of(bitmap)] = VESSEL_RGB
    image = Image.fromarray(shown)
    draw = ImageDraw.Draw(image)
    for vessel in analysis.result.vessels:
        if vessel.lesion is None:
            continue
        x, y = vessel.lesion.mld_xy
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), outline=MARK_RGB)
        known = vessel.label or vessel.artery
        name = f"{vessel.number} {known}" if known else f"{vessel.number}"
        text = f"{name}: MLD {vessel.lesion.mld_text}  {vessel.lesion.stenosis_pct:.0f} %DS"
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


def write_segmentation(analysis: Analysis, labels: LabelSet, folder: Path) -> tuple[str, ...]:
    """The masks as DICOM SEG, beside the frame they are of; nothing where there is no mask.

    Both carry no data of a patient: the UIDs come from a hash of the pixels (ADR 14).
    """
    from angio.dicom.seg import Identity, Segment, write_frame, write_seg  # a second to import

    result = analysis.result
    drawn: list[Segment] = []
    if analysis.tree is not None and analysis.tree.any():
        trees = labels.of_role("tree")
        name = trees[0].name if trees else "tree"
        drawn.append(Segment(name, "tree", None, analysis.tree, "AUTOMATIC", result.model_id))
    for vessel, bitmap in zip(result.vessels, analysis.vessels, strict=True):
        if not bitmap.any():
            continue
        drawn.append(
            Segment(
                name=f"{vessel.label or 'vessel'} {vessel.number}",
                kind="segment" if vessel.cass is not None else "other",
                cass=vessel.cass,
                bitmap=bitmap,
                made="SEMIAUTOMATIC" if vessel.prompt == "given" else "AUTOMATIC",
                model_id=result.model_id,
            )
        )
    if not drawn:
        return ()
    seen = sha256_of(analysis.pixels.tobytes())
    uids = [
        _uid(seen + part)
        for part in ("study", "frames", "frame", "masks", result.model_id + _digest(drawn))
    ]
    identity = Identity(f"angioinfer-{seen[:12]}", *uids)
    stem = f"{result.case_id}.f{result.frame:05d}"
    names = f"{stem}.dcm", f"{stem}.seg.dcm"
    shown = write_frame(folder / f".{names[0]}", analysis.pixels, result.spacing, identity)
    write_seg(folder / f".{names[1]}", shown, tuple(drawn), identity, version("angioloop"))
    for one in names:
        (folder / f".{one}").replace(folder / one)
    return names


def _digest(drawn: "list[Segment]") -> str:
    return sha256_of(b"".join(one.name.encode() + one.bitmap.tobytes() for one in drawn))


def _uid(text: str) -> str:
    """A UID of a text. Source: DICOM PS3.5 B.2 (UUID-derived UIDs)."""
    return f"2.25.{int(sha256_of(text.encode())[:32], 16)}"
