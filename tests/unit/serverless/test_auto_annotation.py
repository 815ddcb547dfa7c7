"""The detector as `cvat-cli task auto-annotate` calls it."""

import io

import cvat_sdk.auto_annotation as cvataa
import imagecodecs
import numpy as np
import PIL.Image
import pytest

from casebook import masks
from casebook.cases import PixelSpacing
from casebook.catalogue import png_bytes, read_png
from casebook.errors import DataError, ModelError
from casebook.handler import Handler
from casebook.labels import Label, LabelSet
from casebook.protocols import Frame, Segmenter
from serverless import auto_annotation
from serverless.auto_annotation import Detector
from serverless.live import LiveModel
from tests.fakes.threshold_model import DarkPixels, ThresholdSegmenter

LABELS = LabelSet(
    name="one", labels=(Label(name="mid RCA", role="segment"), Label(name="no", kind="tag"))
)
SPACING = PixelSpacing(row_mm=0.2, col_mm=0.2, source="calibrated")
PIXELS = np.full((40, 60), 200, dtype=np.uint8)
PIXELS[10:20, 5:50] = 20


class Context(cvataa.DetectionFunctionContext):
    def __init__(self, threshold: float | None = None, polygons: bool = False) -> None:
        self._threshold, self._polygons = threshold, polygons

    @property
    def frame_name(self) -> str:
        return "case.f00001.png"

    @property
    def conf_threshold(self) -> float | None:
        return self._threshold

    @property
    def conv_mask_to_poly(self) -> bool:
        return self._polygons


class Spaced(ThresholdSegmenter):
    """Remembers the spacing of what it is shown."""

    def embed(self, frame: Frame) -> DarkPixels:
        assert frame.spacing == SPACING
        return super().embed(frame)


def detector(segmenter: Segmenter, labels: LabelSet = LABELS) -> Detector:
    handler = Handler(segmenter, labels)
    return Detector(labels, LiveModel(lambda: None, lambda model_id: handler, lambda *line: None))


def picture() -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(png_bytes(PIXELS, SPACING)))


def test_masks_come_with_score_model_and_confidence() -> None:
    found = detector(Spaced("round-02"))
    (shape,) = found.detect(Context(), picture())
    assert shape.type.value == "mask"
    assert np.array_equal(masks.from_cvat(shape.points, (40, 60)), PIXELS < 100)
    assert shape.score == pytest.approx(0.9)
    (label,) = found.spec.labels
    assert (label.id, label.name) == (shape.label_id, "mid RCA")
    names = {attribute.id: attribute.name for attribute in label.attributes}
    values = {names[entry.spec_id]: entry.value for entry in shape.attributes}
    assert values == {"model_id": "round-02", "confidence": "90"}


def test_polygons_and_thresholds_are_obeyed() -> None:
    found = detector(ThresholdSegmenter())
    (shape,) = found.detect(Context(polygons=True), picture())
    assert shape.type.value == "polygon"
    assert len(shape.points) >= 8
    assert found.detect(Context(threshold=0.95), picture()) == []


def test_a_model_that_fails_stops_with_the_frame_and_the_reason() -> None:
    labels = LabelSet(name="gone", labels=(Label(name="gone"),))
    found = detector(ThresholdSegmenter(), labels)
    with pytest.raises(ModelError, match=r"case\.f00001\.png: .*weights are gone"):
        found.detect(Context(), picture())


def test_an_image_without_text_chunks_is_sent_as_well() -> None:
    plain = PIL.Image.fromarray(PIXELS)
    payload = auto_annotation.encoded(plain)
    assert np.array_equal(read_png(payload).pixels, PIXELS)


def stored(pixels: np.ndarray, form: str, mode: str | None = None) -> PIL.Image.Image:
    """A picture as it is read back from a file, not decoded yet."""
    image, stream = PIL.Image.fromarray(pixels), io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, form)
    return PIL.Image.open(stream)


@pytest.mark.parametrize(
    ("form", "mode"),
    [("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"), ("TIFF", "CMYK")],
)
def test_frames_in_other_colours_are_answered_as_grey_ones(form: str, mode: str) -> None:
    found = detector(ThresholdSegmenter())
    (shape,) = found.detect(Context(), stored(PIXELS, form, mode))
    assert np.array_equal(masks.from_cvat(shape.points, (40, 60)), PIXELS < 100)


def test_a_torn_frame_is_refused_by_its_name() -> None:
    torn = PIL.Image.open(io.BytesIO(png_bytes(PIXELS)[:80]))
    with pytest.raises(DataError, match=r"frame case\.f00001\.png: not a readable image: .*again"):
        detector(ThresholdSegmenter()).detect(Context(), torn)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colours"])
def test_a_frame_of_16_bits_is_refused_by_its_name(channels: int) -> None:
    deep = np.stack([PIXELS.astype(np.uint16) * 257] * channels, axis=-1).squeeze()
    image = PIL.Image.open(io.BytesIO(imagecodecs.png_encode(deep)))
    with pytest.raises(DataError, match=r"frame case\.f00001\.png: image is deeper than 8 bits"):
        detector(ThresholdSegmenter()).detect(Context(), image)
