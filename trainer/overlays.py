"""Expert and model outlines on a picture, cropped to what is of interest."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from casebook import masks
from casebook.catalogue import Catalogue
from casebook.errors import StateError
from casebook.protocols import Prompt, Segmenter

Bitmap = Bool[np.ndarray, "h w"]
Rgb = tuple[int, int, int]

EXPERT_RGB, MODEL_RGB = (0, 114, 178), (230, 159, 0)
"""Okabe and Ito's blue and orange, where there is one mask."""
SEVERAL_RGB: tuple[Rgb, ...] = (
    (86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
"""A colour for each mask where there are several, again from the first after six; their numbers
tell them apart. Source: Okabe and Ito, Color Universal Design (2008)."""
_LIGHTER = 0.5
"""How far the model's dashes are from the mask's colour towards white."""
_MARGIN_PX = 24
_SIDE_PX = 480
_DASH_PX = 9
"""The model's outline is dashed, so that the two differ by more than their colour."""
_FONT_PX = 22


@dataclass(frozen=True)
class Pair:
    """One mask as the expert drew it and as the model answers to its box."""

    label: str
    expert: Bitmap
    model: Bitmap


def pairs_of(
    teacher: Segmenter, catalogue: Catalogue, case_id: str, labels: tuple[str, ...]
) -> tuple[UInt8[np.ndarray, "h w"], tuple[Pair, ...]]:
    """A case's picture, and each mask with these labels apart, in the order of the annotations."""
    case = catalogue.get(case_id)
    given = catalogue.expert_annotations(case_id)
    if given is None:
        raise StateError(f"case {case_id} lost its expert annotations; import it again")
    frame = catalogue.frame(case.ref)
    embedding = teacher.embed(frame)
    shown = {image.id for image in given.images if image.ref == case.ref}
    pairs = []
    for entry in given.annotations:
        label = given.label_of(entry)
        if entry.image_id not in shown or label not in labels:
            continue
        bitmap = masks.decode(entry.mask)
        x1, y1, x2, y2 = masks.box_of(bitmap)
        box = (float(x1), float(y1), float(x2), float(y2))
        found = teacher.predict(embedding, Prompt(box_xyxy=box, view=frame.view))
        answer = found[0].bitmap if found else np.zeros(frame.hw, dtype=bool)
        pairs.append(Pair(label, bitmap, answer))
    return frame.pixels, tuple(pairs)


def colours(count: int) -> list[tuple[Rgb, Rgb]]:
    """The expert's and the model's colour of each mask."""
    if count == 1:
        return [(EXPERT_RGB, MODEL_RGB)]
    own = [SEVERAL_RGB[index % len(SEVERAL_RGB)] for index in range(count)]
    return [(rgb, _lighter(rgb)) for rgb in own]


def _lighter(rgb: Rgb) -> Rgb:
    red, green, blue = (round(value + (255 - value) * _LIGHTER) for value in rgb)
    return red, green, blue


def draw(pixels: UInt8[np.ndarray, "h w"], pairs: Sequence[Pair]) -> bytes:
    """A PNG of the outlines, the model's dashed, cropped around them and enlarged.

    Where there are several masks each has a colour and its number, from 1.
    """
    total = np.zeros(pixels.shape, dtype=bool)
    for pair in pairs:
        total |= pair.expert | pair.model
    window = _window(total)
    scale = max(1, round(_SIDE_PX / max(pixels[window].shape)))
    grey = np.kron(pixels[window], np.ones((scale, scale), dtype=np.uint8))
    canvas = np.repeat(grey[:, :, None], 3, axis=2)
    rows, columns = np.mgrid[: grey.shape[0], : grey.shape[1]]
    dashes = (rows + columns) // _DASH_PX % 2 == 0
    for pair, (ours, theirs) in zip(pairs, colours(len(pairs)), strict=True):
        for bitmap, rgb, shown in ((pair.expert, ours, True), (pair.model, theirs, dashes)):
            large = np.kron(bitmap[window], np.ones((scale, scale), dtype=bool))
            canvas[large & ~ndimage.binary_erosion(large, iterations=3) & shown] = rgb
    picture = Image.fromarray(canvas)
    if len(pairs) > 1:
        _number(picture, [pair.expert[window] for pair in pairs], scale)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _number(picture: Image.Image, bitmaps: Sequence[Bitmap], scale: int) -> None:
    """Write each mask's number on its thickest place."""
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=_FONT_PX)
    for number, (bitmap, (rgb, _)) in enumerate(
        zip(bitmaps, colours(len(bitmaps)), strict=True), start=1
    ):
        if not bitmap.any():
            continue
        depth = ndimage.distance_transform_edt(np.pad(bitmap, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        at = ((float(column) + 0.5) * scale, (float(row) + 0.5) * scale)
        pen.text(at, str(number), rgb, font, anchor="mm", stroke_width=3, stroke_fill=(0, 0, 0))


def _window(bitmap: Bitmap) -> tuple[slice, slice]:
    if not bitmap.any():
        return slice(None), slice(None)
    x1, y1, x2, y2 = masks.box_of(bitmap)
    margin = max(_MARGIN_PX, (x2 - x1) // 4, (y2 - y1) // 4)
    return (
        slice(max(y1 - margin, 0), y2 + margin + 1),
        slice(max(x1 - margin, 0), x2 + margin + 1),
    )
