"""What `angioinfer run` draws of one file: masks and overlay as PNG, the run as GIF, DICOM SEG."""

import io
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw
from scipy import ndimage

from angio.dicom.read import cine_of, n_frames_of, open_dataset
from angio.rendering import render_frame
from casebook import masks
from casebook.documents import sha256_of, write_bytes
from casebook.labels import LabelSet
from casebook.protocols import Frame
from export.answers import StudentSegmenter
from export.infer import Analysis, tree_of

if TYPE_CHECKING:
    from angio.dicom.seg import Segment

TREE_RGB, VESSEL_RGB, MARK_RGB = (0, 158, 115), (230, 159, 0), (240, 228, 66)
"""Okabe and Ito's colours, which the colour-blind tell apart."""
GIF_SIDE_PX, GIF_FRAMES = 512, 120
"""A film is not larger nor longer: of a longer run every second, third … frame is shown."""
_GREYS = 250
"""Entries of a film's palette that are grey; the tree and the vessel follow."""
_FRAME_MS = 67.0
_CHUNK = 8


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


def write_film(
    segmenter: StudentSegmenter, path: Path, analysis: Analysis, folder: Path
) -> tuple[str, ...]:
    """The whole run as an animated GIF: the tree in every frame, the vessels in the one measured.

    Nothing is written for a run of one frame.

    Raises:
        DataError: the file cannot be read any more.
    """
    result = analysis.result
    if result.n_frames < 2:
        return ()
    ds = open_dataset(path)
    step = -(-n_frames_of(ds, path.name) // GIF_FRAMES)
    wanted = range(result.frame % step, result.n_frames, step)
    shown: list[Image.Image] = []
    for start in range(0, len(wanted), _CHUNK):
        cine = cine_of(ds, path.name, wanted[start : start + _CHUNK])
        for position, frame in enumerate(cine.frames):
            if frame == result.frame:
                shown.append(_still(analysis.pixels, analysis.tree, analysis.vessels))
                continue
            pixels = render_frame(cine, position)
            tree = None
            if analysis.tree is not None:
                found = tree_of(segmenter, segmenter.embed(Frame(pixels)))
                tree = found.bitmap if found else None
            shown.append(_still(pixels, tree, ()))
    stream = io.BytesIO()
    duration = max(20, round((analysis.frame_ms or _FRAME_MS) * step))
    shown[0].save(stream, "GIF", save_all=True, append_images=shown[1:], duration=duration, loop=0)
    name = f"{result.case_id}.cine.gif"
    write_bytes(folder / name, stream.getvalue())
    return (name,)


def _palette() -> bytes:
    greys = [(value,) * 3 for value in np.linspace(0, 255, _GREYS).round().astype(int).tolist()]
    colours = [*greys, TREE_RGB, VESSEL_RGB]
    return bytes(part for colour in colours for part in colour)


def _still(
    pixels: UInt8[np.ndarray, "h w"],
    tree: Bool[np.ndarray, "h w"] | None,
    vessels: tuple[Bool[np.ndarray, "h w"], ...],
) -> Image.Image:
    """One picture of a film, with its palette."""
    step = -(-max(pixels.shape) // GIF_SIDE_PX)
    kept = np.ascontiguousarray(pixels[::step, ::step])
    shown = (kept.astype(np.uint16) * (_GREYS - 1) // 255).astype(np.uint8)
    for bitmap, colour in [(tree, _GREYS), *((one, _GREYS + 1) for one in vessels)]:
        if bitmap is not None:
            shown[_edge(np.ascontiguousarray(bitmap[::step, ::step]))] = colour
    image = Image.fromarray(shown, "P")
    image.putpalette(_palette())
    return image


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
