"""Invented patients for bench/deid.py: a value for every element of the profile, wherever it hides.

The list of elements is dicom-anonymizer's table of DICOM PS3.15 Table E.1-1 (2026c).
"""

from dataclasses import dataclass
from pathlib import Path

from dicomanonymizer.simpledicomanonymizer import (  # type: ignore[import-untyped]
    initialize_actions,
)
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

PROFILE = "dicomfields_2026c"
DEPTH = 3
"""Sequences are planted this deep."""
PRIVATE_GROUP = 0x0099
STUDY_DATE = (0x0008, 0x0020)
"""It is shifted: its year is one that no shift turns into another planted date."""


@dataclass(frozen=True)
class Planted:
    """A value that says who somebody is, and where it was put."""

    where: str
    text: str


def profile_tags() -> list[tuple[int, int]]:
    """Every single element of the profile; repeating groups are planted as their first two.

    Without those of commands and of the file's own header, which a data set cannot hold.
    """
    found = []
    for tag in initialize_actions(PROFILE):
        if len(tag) == 2:
            found.append((tag[0], tag[1]))
        elif tag[0] in (0x6000, 0x5000):
            found += [(tag[0], tag[1] or 0x3000), (tag[0] + 2, tag[1] or 0x3000)]
    return [tag for tag in dict.fromkeys(found) if tag[0] not in (0x0000, 0x0002)]


def _text(vr: str, number: int) -> str:
    """A value of this form that occurs nowhere else."""
    if vr == "UI":
        return f"1.2.826.0.1.3680043.10.543.{700000 + number}"
    day = f"19{10 + number % 20:02d}{1 + number % 12:02d}{1 + number % 28:02d}"
    if vr == "DA":
        return day
    if vr == "DT":
        return f"{day}0101{number % 60:02d}"
    if vr == "TM":
        return f"{number % 24:02d}{number % 60:02d}{number % 59:02d}.{100000 + number}"
    if vr in ("DS", "IS"):
        return str(70000000 + number)
    if vr == "AS":
        return f"{100 + number % 800}Y"
    if vr == "PN":
        return f"Zebedee{number}^Quill{number}"
    return f"ZQ{number}PHI"


def _value(vr: str, text: str, number: int) -> object:
    if vr in ("OB", "OW", "UN", "OB or OW", "OF", "OD", "OL", "OV"):
        return text.encode().ljust(16, b" ")
    if vr in ("US", "SS", "US or SS"):
        return 40000 + number % 20000 if vr != "SS" else 20000 + number % 9000
    if vr in ("UL", "SL", "UV", "SV"):
        return 700000000 + number
    if vr in ("FL", "FD"):
        return 7000000.5 + number
    if vr == "AT":
        return 0x00100010
    return text


def _nested(text: str) -> Dataset:
    """A data set with a name three sequences down."""
    inner = Dataset()
    inner.PatientName = text
    for _ in range(DEPTH - 1):
        outer = Dataset()
        outer.add_new(0x00081140, "SQ", [inner])
        inner = outer
    return inner


def plant(source: Path, target: Path, start: int) -> tuple[Dataset, list[Planted]]:
    """A copy of a DICOM file with a value planted in every element, in private ones, and nested.

    Args:
        source: A phantom's file.
        target: Where the copy goes.
        start: First number of the values, so that each patient has its own.
    """
    ds = dcmread(source)
    planted = []
    for offset, tag in enumerate(profile_tags()):
        number = start + offset
        try:
            vr = dictionary_VR(Tag(tag))
        except KeyError:
            vr = "LO"
        where = f"({tag[0]:04X},{tag[1]:04X})"
        if vr == "SQ":
            text = f"Zebedee{number}^Quill{number}"
            ds.add(DataElement(Tag(tag), "SQ", [_nested(text)]))
        else:
            vr = {"OB or OW": "OB", "US or SS": "US"}.get(vr, vr)
            text = "19801130" if tag == STUDY_DATE else _text(vr, number)
            value = _value(vr, text, number)
            text = text if value == text or isinstance(value, bytes) else str(value)
            ds.add(DataElement(Tag(tag), vr, value))
        planted.append(Planted(where, text))
    number = start + 5000
    block = ds.private_block(PRIVATE_GROUP, "MAKER", create=True)
    block.add_new(0x01, "LO", f"ZQ{number}PHI")
    block.add_new(0x02, "SQ", [_nested(f"Zebedee{number}^Quill{number}")])
    planted += [
        Planted("private", f"ZQ{number}PHI"),
        Planted("private, nested", f"Zebedee{number}^Quill{number}"),
    ]
    for group in (0x6000, 0x6002):  # what overlays need to be valid
        ds.add_new((group, 0x0010), "US", 8)
        ds.add_new((group, 0x0011), "US", 8)
    ds.save_as(target, enforce_file_format=True)
    return ds, planted
