"""Expert and model outlines on a picture, cropped to what is of interest."""

import io

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from scipy import ndimage

from casebook import masks
from casebook.catalogue import Catalogue
from casebook.errors import StateError
from casebook.protocols import Prompt, Segmenter

EXPERT_RGB, MODEL_RGB = (0, 114, 178), (230, 159, 0)
"""Okabe and Ito's blue and orange."""
_MARGIN_PX = 24
_SIDE_PX = 480
_DASH_PX = 9
"""The model's outline is dashed, so that the two differ by more than their colour."""


def overlay_png(
    teacher: Segmenter, catalogue: Catalogue, case_id: str, labels: tuple[str, ...]
) -> bytes:
    """A PNG of a case with the expert's outlines, and the model's when given their boxes."""
    case = catalogue.get(case_id)
    given = catalogue.expert_annotations(case_id)
    if given is None:
        raise StateError(f"case {case_id} lost its expert annotations; import it again")
    frame = catalogue.frame(case.ref)
    truth, answer = np.zeros(frame.hw, dtype=bool), np.zeros(frame.hw, dtype=bool)
    embedding = teacher.embed(frame)
    shown = {image.id for image in given.images if image.ref == case.ref}
    for entry in given.annotations:
        if entry.image_id not in shown or given.label_of(entry) not in labels:
            continue
        bitmap = masks.decode(entry.mask)
        truth |= bitmap
        x1, y1, x2, y2 = masks.box_of(bitmap)
        box = (float(x1), float(y1), float(x2), float(y2))
        for found in teacher.predict(embedding, Prompt(box_xyxy=box, view=frame.view))[:1]:
            answer |= found.bitmap
    return draw(frame.pixels, truth, answer)


def draw(
    pixels: UInt8[np.ndarray, "h w"],
    truth: Bool[np.ndarray, "h w"],
    answer: Bool[np.ndarray, "h w"],
) -> bytes:
    """The outlines of two masks on an image, the model's dashed, cropped around them, enlarged."""
    window = _window(truth | answer)
    scale = max(1, round(_SIDE_PX / max(pixels[window].shape)))
    grey = np.kron(pixels[window], np.ones((scale, scale), dtype=np.uint8))
    canvas = np.repeat(grey[:, :, None], 3, axis=2)
    rows, columns = np.mgrid[: grey.shape[0], : grey.shape[1]]
    dashes = (rows + columns) // _DASH_PX % 2 == 0
    for bitmap, rgb, shown in ((truth, EXPERT_RGB, True), (answer, MODEL_RGB, dashes)):
        large = np.kron(bitmap[window], np.ones((scale, scale), dtype=bool))
        canvas[large & ~ndimage.binary_erosion(large, iterations=3) & shown] = rgb
    stream = io.BytesIO()
    Image.fromarray(canvas).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _window(bitmap: Bool[np.ndarray, "h w"]) -> tuple[slice, slice]:
    if not bitmap.any():
        return slice(None), slice(None)
    x1, y1, x2, y2 = masks.box_of(bitmap)
    margin = max(_MARGIN_PX, (x2 - x1) // 4, (y2 - y1) // 4)
    return (
        slice(max(y1 - margin, 0), y2 + margin + 1),
        slice(max(x1 - margin, 0), x2 + margin + 1),
    )
