"""DICOM SEG read back by highdicom and pydicom: the same masks, coded, of nobody."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pytest
from click.testing import CliRunner
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes

from angio.cli import main
from angio.datasets import Phase, Selection
from angio.dicom.seg import CID_3014
from angio.seg_files import write_segs
from casebook.annotations import Origin, write_annotations
from casebook.cases import PixelSpacing
from casebook.catalogue import Catalogue
from casebook.errors import ConfigError, StateError
from casebook.home import Home
from tests.unit.angio.small_study import CORONARY, bar, drawn, study

EXPERT = Selection(Phase.EXPERT, CORONARY)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return study(tmp_path / "home")


def masks_in(path: Path) -> dict[str, np.ndarray]:
    """The masks of a segmentation, by label, through highdicom alone."""
    seg = highdicom.seg.segread(path)
    (_, _, image_uid), *_ = seg.get_source_image_uids()
    planes = seg.get_pixels_by_source_instance([image_uid])[0]
    return {
        seg.get_segment_description(number).segment_label: planes[..., number - 1].astype(bool)
        for number in seg.segment_numbers
    }


def test_every_code_is_the_standards_own() -> None:
    context = codes.cid3014
    known = {getattr(context, name).value: getattr(context, name).meaning for name in context.dir()}
    assert len(CID_3014) == 27
    for value, meaning in CID_3014.values():
        assert known[value] == meaning
    used = {label.code for label in CORONARY.of_role("segment")}
    assert used <= set(CID_3014)


def test_masks_come_back_equal_and_refer_to_the_frame_beside_them(
    home: Home, tmp_path: Path
) -> None:
    out = tmp_path / "seg"
    manifest = write_segs(home, out, EXPERT)
    assert (manifest.frames, manifest.segments) == (4, 7)
    found = masks_in(out / "all.f00000.seg.dcm")
    rows = {"proximal RCA": 2, "mid RCA": 10, "D1": 30}
    assert set(found) == set(rows)
    for name, row in rows.items():
        assert np.array_equal(found[name], bar(row))
    overlapping = masks_in(out / "val.f00000.seg.dcm")
    assert np.array_equal(overlapping["stenosis"], overlapping["proximal LCX"])
    frame = dcmread(out / "all.f00000.dcm")
    seg = dcmread(out / "all.f00000.seg.dcm")
    (reference,) = seg.ReferencedSeriesSequence
    assert reference.SeriesInstanceUID == frame.SeriesInstanceUID
    (instance,) = reference.ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == frame.SOPInstanceUID
    assert seg.StudyInstanceUID == frame.StudyInstanceUID
    pixels = Catalogue(home).frame(Catalogue(home).get("all").ref).pixels
    assert np.array_equal(frame.pixel_array, pixels)
    assert [float(side) for side in frame.PixelSpacing] == [0.3, 0.2]
    assert frame.PixelSpacingCalibrationType == "FIDUCIAL"


@pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy (package dicom3tools) is not installed"
)
def test_an_independent_checker_finds_no_error(home: Home, tmp_path: Path) -> None:
    write_segs(home, tmp_path / "seg", EXPERT)
    paths = sorted((tmp_path / "seg").glob("*.dcm"))
    assert len(paths) == 8
    for path in paths:
        told = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in told.stdout + told.stderr


def test_segments_are_coded_and_say_who_made_them(home: Home, tmp_path: Path) -> None:
    case = Catalogue(home).get("val")
    made = drawn(case, {"proximal LCX": 8, "stenosis": 8, "coronary artery": 3}, Origin.HUMAN)
    by_model = made.annotations[0].with_(origin="model_reviewed", model_id="round-02-a")
    again = made.annotations[1].with_(id=9)
    entries = (by_model, *made.annotations[1:], again)
    write_annotations(
        Catalogue(home).folder("val") / "expert.coco.json", made.with_(annotations=entries)
    )
    write_segs(home, tmp_path / "seg", EXPERT, ("val",))
    seg = dcmread(tmp_path / "seg" / "val.f00000.seg.dcm")
    segments = {one.SegmentLabel: one for one in seg.SegmentSequence}
    assert set(segments) == {"proximal LCX", "stenosis", "coronary artery", "stenosis 2"}
    kinds = {
        name: one.SegmentedPropertyTypeCodeSequence[0].CodeValue for name, one in segments.items()
    }
    assert kinds["proximal LCX"] == "52433000"
    assert kinds["stenosis"] == kinds["stenosis 2"] == "415582006"
    assert kinds["coronary artery"] == "41801008"
    model = segments["proximal LCX"]
    assert model.SegmentAlgorithmType == "SEMIAUTOMATIC"
    identified = model.SegmentationAlgorithmIdentificationSequence[0]
    assert identified.AlgorithmName == "round-02-a"
    assert segments["stenosis"].SegmentAlgorithmType == "MANUAL"
    assert "SegmentationAlgorithmIdentificationSequence" not in segments["stenosis"]


def test_nothing_but_the_pseudonym_identifies_anybody(home: Home, tmp_path: Path) -> None:
    write_segs(home, tmp_path / "seg", EXPERT)
    private_key = (home.private / "key").read_text().strip()
    paths = sorted((tmp_path / "seg").glob("*.dcm"))
    assert len(paths) == 8

    def texts(ds: Dataset) -> list[str]:
        return [str(element.value) for element in ds.iterall() if element.VR not in {"OB", "OW"}]

    for path in paths:
        ds = dcmread(path)
        case_id = path.name.split(".")[0]
        assert str(ds.PatientID) == str(ds.PatientName) == f"p-{case_id}"
        assert ds.PatientIdentityRemoved == "YES"
        for keyword in (
            "PatientBirthDate",
            "PatientSex",
            "StudyDate",
            "AccessionNumber",
            "StudyID",
        ):
            assert not ds.get(keyword)
        assert not any(element.tag.is_private for element in ds.iterall())
        assert not any(private_key in text or case_id == text for text in texts(ds))


def test_the_same_masks_have_the_same_uids_and_others_others(home: Home, tmp_path: Path) -> None:
    def uids(name: str) -> tuple[str, str]:
        write_segs(home, tmp_path / name, EXPERT, ("one",))
        return (
            dcmread(tmp_path / name / "one.f00000.dcm").SOPInstanceUID,
            dcmread(tmp_path / name / "one.f00000.seg.dcm").SOPInstanceUID,
        )

    first = uids("a")
    assert uids("b") == first
    case = Catalogue(home).get("one")
    changed = drawn(case, {"mid LAD": 5}, Origin.HUMAN)
    write_annotations(Catalogue(home).folder("one") / "expert.coco.json", changed)
    third = uids("c")
    assert third[0] == first[0]
    assert third[1] != first[1]


def test_a_spacing_of_the_detector_is_not_given_out_as_the_vessels(
    home: Home, tmp_path: Path
) -> None:
    catalogue = Catalogue(home)
    case = catalogue.get("one")
    spacing = PixelSpacing(row_mm=0.3, col_mm=0.2, source="detector")
    payload = catalogue.frame_path(case.ref).read_bytes()
    catalogue.add(
        case.with_(spacing=spacing), {0: payload},
        annotations=catalogue.expert_annotations("one"),
    )  # fmt: skip
    write_segs(home, tmp_path / "seg", EXPERT, ("one",))
    ds = dcmread(tmp_path / "seg" / "one.f00000.dcm")
    assert "PixelSpacing" not in ds
    assert [float(side) for side in ds.ImagerPixelSpacing] == [0.3, 0.2]


def test_refusals_leave_nothing_behind(home: Home, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="is not in the catalogue"):
        write_segs(home, tmp_path / "seg", EXPERT, ("nobody",))
    with pytest.raises(StateError, match="no frame has a mask for phase tree"):
        write_segs(home, tmp_path / "seg", replace(EXPERT, phase=Phase.TREE), ("val",))
    assert not (tmp_path / "seg").exists()
    write_segs(home, tmp_path / "seg", EXPERT)
    with pytest.raises(ConfigError, match="is there already"):
        write_segs(home, tmp_path / "seg", EXPERT)


def test_the_command_says_what_it_wrote(home: Home, tmp_path: Path) -> None:
    labels = Path(__file__).parents[3] / "conf" / "labels" / "coronary.yaml"
    options = ["export", "seg", "--home", str(home.root), "--labels", str(labels), "--case", "all"]
    told = CliRunner().invoke(main, [*options, "--out", str(tmp_path / "a")])
    assert told.stdout.endswith("3 segments of 1 frames\n")
    told = CliRunner().invoke(main, [*options, "--out", str(tmp_path / "b"), "--json"])
    assert '"segments": 3' in told.stdout
