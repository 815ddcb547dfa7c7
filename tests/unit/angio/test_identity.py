"""Whatever a header holds, and wherever, nothing of it that names anybody survives."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.filebase import DicomBytesIO

from angio.dicom.identity import KEPT, strip
from angio.phantoms.truth import StudyTruth

NAMES = st.from_regex(r"ZQ[A-Z]{4,10}", fullmatch=True)
WORDS = sorted(KEPT & {"ImageType", "RadiationSetting", "PositionerMotion", "Modality"})


def _written(ds: FileDataset) -> bytes:
    """The stripped header as a DICOM file, without its pixels."""
    clean = strip(
        ds, pseudonym="p1", remap_uid=lambda uid: f"2.25.{abs(hash(uid))}", shift_days=9
    ).dataset
    clean.pop("PixelData", None)
    stream = DicomBytesIO()
    clean.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@pytest.fixture(scope="module")
def source(study: tuple[Path, StudyTruth]) -> Path:
    """A phantom's file."""
    return sorted(study[0].rglob("*.dcm"))[0]


@settings(max_examples=60, deadline=None)
@given(
    name=NAMES,
    groups=st.lists(st.integers(0x0009, 0x7FDF), min_size=1, max_size=12, unique=True),
    element=st.integers(0x0010, 0x00FF),
    depth=st.integers(0, 4),
    word=st.sampled_from(WORDS),
)
def test_a_name_planted_anywhere_is_gone(
    source: Path, name: str, groups: list[int], element: int, depth: int, word: str
) -> None:
    ds = dcmread(source)
    ds.PatientName = name
    ds.file_meta.SourceApplicationEntityTitle = name
    for group in groups:
        inner = Dataset()
        inner.PatientName = name
        for _ in range(depth):
            outer = Dataset()
            outer.add_new(0x00081140, "SQ", [inner])
            inner = outer
        ds.add(DataElement((group, 0x1000 + element), "SQ", [inner]))
        ds.add(DataElement((group, 0x2000 + element), "LO", name))
    tag = tag_for_keyword(word)
    assert tag is not None
    ds.add(DataElement(tag, "CS", name))
    assert name.encode() in ds.to_json().encode()
    assert name.encode() not in _written(ds)


def test_kept_words_and_numbers_stay(source: Path) -> None:
    ds = dcmread(source)
    clean = strip(ds, pseudonym="p1", remap_uid=lambda uid: "2.25.1", shift_days=9)
    present = {element.keyword for element in ds if element.keyword in KEPT}
    assert len(present) > 15
    assert set(clean.kept) == present
