"""The catalogue: lossless frames, one split a patient, a case visible only when whole."""

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from casebook.annotations import AnnotationSet
from casebook.cases import Case, FrameRef, PixelSpacing, Split, View
from casebook.catalogue import Catalogue, png_bytes, read_png
from casebook.documents import sha256_of
from casebook.errors import DataError, StateError, TooLargeError
from casebook.home import Home

PIXELS = np.arange(48, dtype=np.uint8).reshape(6, 8)
SPACING = PixelSpacing(row_mm=0.2, col_mm=0.3, source="calibrated")
VIEW = View(primary_deg=-30, secondary_deg=20)
PNG = png_bytes(PIXELS, SPACING, VIEW)


def case(case_id: str = "c1", **changes: Any) -> Case:
    values: dict[str, Any] = {
        "case_id": case_id,
        "patient": f"p-{case_id}",
        "split": Split.TRAIN,
        "source": "images",
        "frame": 0,
        "n_frames": 1,
        "height_px": 6,
        "width_px": 8,
        "image_sha256": sha256_of(PNG),
    }
    return Case(**{**values, **changes})


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue(Home(tmp_path))


def test_a_frame_comes_back_losslessly_with_its_geometry() -> None:
    frame = read_png(PNG)
    assert np.array_equal(frame.pixels, PIXELS)
    assert (frame.spacing, frame.view) == (SPACING, VIEW)


def test_a_plain_image_has_no_geometry() -> None:
    frame = read_png(png_bytes(PIXELS))
    assert (frame.spacing, frame.view) == (None, None)


def test_colour_becomes_luma() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4, 4), 90, dtype=np.uint8), "RGBA").save(stream, "PNG")
    assert (read_png(stream.getvalue()).pixels == 90).all()


def chunked(name: str, text: str) -> bytes:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(name, text)
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG", pnginfo=chunks)
    return stream.getvalue()


def in_format(name: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, name)
    return stream.getvalue()


def broken_checksum() -> bytes:
    stored = bytearray(PNG)
    at = stored.index(b"IDAT")
    stored[at + 6] ^= 0xFF
    return bytes(stored)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not a readable image"),
        (b"no image", "not a readable image"),
        (PNG[:70], "not a readable image"),
        (broken_checksum(), "not a readable image"),
        (in_format("EPS"), "not a readable image"),
        (png_bytes(PIXELS.astype(np.uint16)), "8 bits"),
        (chunked("angioloop:spacing", "{}"), "spacing text"),
        (chunked("angioloop:view", "LAO"), "view text"),
    ],
    ids=["empty", "text", "torn", "checksum", "eps", "16 bits", "spacing", "view"],
)
def test_what_is_no_frame_is_refused(payload: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read_png(payload)


def claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size it does not have."""
    stored = bytearray(PNG)
    stored[16:24] = struct.pack(">II", width, height)
    stored[29:33] = struct.pack(">I", zlib.crc32(stored[12:29]))
    return bytes(stored)


@pytest.mark.parametrize("size", [(5000, 5000), (12_000, 12_000), (60_000, 60_000)])
def test_an_image_that_claims_too_many_pixels_is_refused_unread(size: tuple[int, int]) -> None:
    with pytest.raises(TooLargeError, match="px"):
        read_png(claiming(*size))


def test_a_case_with_its_frames_and_annotations_reads_back(catalogue: Catalogue) -> None:
    stored = png_bytes(PIXELS.astype(np.uint16))
    catalogue.add(case(), {0: PNG}, stored={0: stored}, annotations=AnnotationSet())
    assert catalogue.get("c1") == case()
    assert np.array_equal(catalogue.frame(case().ref).pixels, PIXELS)
    assert catalogue.stored_path(case().ref).read_bytes() == stored
    assert catalogue.expert_annotations("c1") == AnnotationSet()
    assert catalogue.count() == 1


def test_a_case_replaces_itself(catalogue: Catalogue) -> None:
    catalogue.add(case(), {0: PNG})
    catalogue.add(case(vessel="RCA"), {0: PNG})
    assert catalogue.get("c1").vessel == "RCA"
    assert catalogue.expert_annotations("c1") is None
    assert catalogue.count() == 1


@pytest.mark.parametrize("frames", [{}, {1: PNG}, {0: PNG + b"x"}])
def test_a_case_without_its_very_frame_is_refused(
    catalogue: Catalogue, frames: dict[int, bytes]
) -> None:
    with pytest.raises(DataError, match="missing or has another hash"):
        catalogue.add(case(), frames)
    assert catalogue.count() == 0


def test_a_patient_stays_in_one_split(catalogue: Catalogue) -> None:
    catalogue.add(case("c1", patient="p"), {0: PNG})
    with pytest.raises(DataError, match="patient p is in split train already, not test"):
        catalogue.add(case("c2", patient="p", split=Split.TEST), {0: PNG})
    catalogue.add(case("c1", patient="p", split=Split.TEST), {0: PNG})


def test_cases_are_listed_by_split_and_annotation_however_many(catalogue: Catalogue) -> None:
    catalogue.add(case("a"), {0: PNG}, annotations=AnnotationSet())
    catalogue.add(case("b", split=Split.VAL), {0: PNG})
    catalogue.add(case("c"), {0: PNG})
    assert [found.case_id for found in catalogue.cases()] == ["a", "b", "c"]
    assert [found.case_id for found in catalogue.cases(split=Split.TRAIN)] == ["a", "c"]
    assert [found.case_id for found in catalogue.cases(annotated=True)] == ["a"]
    both = catalogue.cases(split=Split.TRAIN, annotated=False)
    assert [found.case_id for found in both] == ["c"]


def test_what_is_not_there_is_said(catalogue: Catalogue) -> None:
    with pytest.raises(StateError, match="case gone is not in the catalogue"):
        catalogue.get("gone")
    with pytest.raises(StateError, match="frame 7 of case c1 is not kept"):
        catalogue.frame(FrameRef(case_id="c1", frame=7))


def test_the_bytes_a_function_receives_are_the_bytes_stored(catalogue: Catalogue) -> None:
    catalogue.add(case(), {0: PNG})
    sent = base64.b64encode(catalogue.frame_path(case().ref).read_bytes())
    assert read_png(base64.b64decode(sent)).spacing == SPACING


def test_several_cases_come_in_the_order_asked_for(catalogue: Catalogue) -> None:
    for case_id in ("c1", "c2", "c3"):
        catalogue.add(case(case_id), {0: PNG})
    assert [one.case_id for one in catalogue.several(["c3", "c1", "c3"])] == ["c3", "c1", "c3"]
    assert catalogue.several(["c2"]) == (catalogue.get("c2"),)
    assert catalogue.several([]) == ()
    with pytest.raises(StateError, match="case c9 is not in the catalogue"):
        catalogue.several(["c1", "c9"])
