"""Import of the lab's CSV: what is kept, what is refused row by row, and a second run."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from angio.deident import read_relink
from angio.importing import import_csv
from angio.intake import ImportReport
from angio.lab_csv import CsvOptions, parse_row, patient_of
from angio.lab_masks import read_mask, read_pseudo_label
from angio.phantoms.truth import CaseTruth, StudyTruth
from casebook.annotations import Origin
from casebook.cases import Split
from casebook.catalogue import Catalogue
from casebook.errors import DataError
from casebook.home import Home
from casebook.labels import LabelSet
from casebook.masks import decode
from casebook.metrics import iou

Row = dict[str, str]


def _rows(folder: Path) -> list[Row]:
    with (folder / "cases.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def _import(
    folder: Path, rows: list[Row], tmp_path: Path, labels: LabelSet, **options: object
) -> tuple[ImportReport, Catalogue]:
    """Import some rows of a study, from a CSV beside its files."""
    path = folder / f"{tmp_path.name}.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    home = Home(tmp_path / "home")
    report = import_csv(path, home, labels, CsvOptions.model_validate(options))
    return report, Catalogue(home)


def _truths(study: tuple[Path, StudyTruth]) -> dict[str, CaseTruth]:
    return {case.row_id: case for case in study[1].cases}


def test_annotated_cases_carry_the_experts_mask(
    workspace: Catalogue, study: tuple[Path, StudyTruth], tmp_path: Path
) -> None:
    folder, _ = study
    truths = _truths(study)
    table = read_relink(Home(workspace.folder("x").parents[1]))
    checked = 0
    for case in workspace.cases(annotated=True):
        truth = truths[table[case.case_id].source_row]
        annotations = workspace.expert_annotations(case.case_id)
        assert annotations is not None
        assert truth.annotated
        segment = next(e for e in annotations.annotations if e.origin is Origin.HUMAN)
        drawn = np.asarray(Image.open(folder / truth.segment)) > 0
        assert iou(decode(segment.mask), drawn) > 0.99
        assert annotations.label_of(segment) == case.segment
        assert float(segment.attributes["diameter_stenosis_pct"]) == pytest.approx(
            truth.lesion.stenosis_pct, abs=0.1
        )
        checked += 1
    assert checked == 9


def test_cases_know_geometry_round_and_the_readers_box(
    workspace: Catalogue, study: tuple[Path, StudyTruth]
) -> None:
    truths = _truths(study)
    table = read_relink(Home(workspace.folder("x").parents[1]))
    cases = list(workspace.cases())
    assert len(cases) == 12
    for case in cases:
        truth = truths[table[case.case_id].source_row]
        assert case.split is Split(truth.split)
        assert case.round == (truth.round or None)
        assert case.frame == truth.frame
        assert case.frame in case.stored_frames
        assert 2 <= len(case.stored_frames) <= 3
        assert case.spacing is not None
        assert case.spacing.mean_mm == pytest.approx(truth.spacing_mm, rel=1e-3)
        assert case.spacing.source == ("calibrated" if truth.annotated else "isocentre")
        assert case.view is not None
        assert case.view.primary_deg == pytest.approx(truth.primary_deg, abs=0.05)
        assert case.deid is not None
        assert case.deid.removed_elements > 20
        assert case.lesion_box_xyxy is not None
        frame = workspace.frame(case.ref)
        assert frame.spacing == case.spacing
        assert frame.view is not None
        assert workspace.stored_path(case.ref).exists()


def test_a_second_import_changes_nothing(
    study: tuple[Path, StudyTruth], tmp_path: Path, coronary: LabelSet
) -> None:
    rows = _rows(study[0])[:2]
    first, _ = _import(study[0], rows, tmp_path, coronary)
    again, catalogue = _import(study[0], rows, tmp_path, coronary)
    assert (first.imported, again.imported, again.unchanged) == (2, 0, 2)
    assert catalogue.count() == 2


def test_rows_that_are_there_are_not_read_again_when_only_new_ones_are_wanted(
    study: tuple[Path, StudyTruth], tmp_path: Path, coronary: LabelSet
) -> None:
    rows = _rows(study[0])[:3]
    _import(study[0], rows[:2], tmp_path, coronary)
    path, home = study[0] / f"{tmp_path.name}.csv", Home(tmp_path / "home")
    gone = {**rows[0], "dicom_path": "dicom/gone.dcm", "row_id": rows[0]["row_id"]}
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows([gone, *rows[1:]])
    report = import_csv(path, home, coronary, new_only=True)
    assert (report.imported, report.not_read, report.problems) == (1, 2, ())
    read_all = import_csv(path, home, coronary)
    assert (read_all.imported, read_all.unchanged, read_all.left_out) == (0, 2, 1)
    fresh = import_csv(path, Home(tmp_path / "other"), coronary, new_only=True, dry_run=True)
    assert (fresh.imported, fresh.not_read, fresh.left_out) == (2, 0, 1)


def test_cases_read_side_by_side_are_filed_in_the_order_of_the_rows(
    study: tuple[Path, StudyTruth], tmp_path: Path, coronary: LabelSet
) -> None:
    rows = _rows(study[0])[:4]
    mixed = [rows[0], {**rows[1], "frame_index": "99"}, rows[2], {**rows[3], "frame_index": "99"}]
    seen: list[int] = []
    path = study[0] / f"{tmp_path.name}.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(mixed)
    home = Home(tmp_path / "home")
    report = import_csv(path, home, coronary, progress=lambda done, _: seen.append(done))
    assert [problem.where for problem in report.problems] == ["line 3", "line 5"]
    assert seen == [1, 2, 3, 4]
    table = (home.private / "relink.csv").read_text(encoding="utf-8")
    assert table.index(rows[0]["row_id"]) < table.index(rows[2]["row_id"])


def test_bad_rows_are_reported_and_the_rest_goes_on(
    study: tuple[Path, StudyTruth], tmp_path: Path, coronary: LabelSet
) -> None:
    folder = study[0]
    good, *others = _rows(folder)
    broken = {
        "patient_id": ("", "patient_id is empty"),
        "dicom_path": ("dicom/absent.dcm", "is not there"),
        "frame_index": ("99", "correct frame_index"),
        "split": ("holdout", "expected train, val or test"),
        "lesion_box": ("5 5 1 1", "x1 y1 x2 y2"),
        "primary_angle": ("steep", "expected degrees"),
    }
    rows = [good]
    for number, (column, (value, _)) in enumerate(broken.items()):
        rows.append({**others[0], "row_id": f"bad{number}", column: value})
    rows.append({**good})
    report, catalogue = _import(folder, rows, tmp_path, coronary)
    assert (report.imported, catalogue.count()) == (1, 1)
    messages = {problem.where: problem.message for problem in report.problems}
    assert len(messages) == len(broken) + 1
    for line, (_, expected) in enumerate(broken.values(), start=3):
        assert expected in messages[f"line {line}"]
    assert "repeats an earlier row" in messages[f"line {len(rows) + 1}"]
    patient = patient_of(others[0]["patient_id"])
    assert all(patient not in message for message in messages.values())


def test_a_truncated_file_leaves_nothing_behind(
    study: tuple[Path, StudyTruth], tmp_path: Path, coronary: LabelSet
) -> None:
    folder = study[0]
    row = _rows(folder)[0]
    whole = (folder / row["dicom_path"]).read_bytes()
    (folder / "dicom" / "torn.dcm").write_bytes(whole[: len(whole) // 2])
    report, catalogue = _import(
        folder, [{**row, "dicom_path": "dicom/torn.dcm"}], tmp_path, coronary
    )
    assert (report.imported, len(report.problems)) == (0, 1)
    assert list(catalogue.folder("x").parent.glob("c*/*")) == []


def test_a_patient_in_two_splits_is_refused(
    study: tuple[Path, StudyTruth], tmp_path: Path, coronary: LabelSet
) -> None:
    first, second, *rest = _rows(study[0])
    assert first["patient_id"].endswith(patient_of(second["patient_id"]))
    other = next(row for row in rest if patient_of(row["patient_id"]) not in first["patient_id"])
    rows = [{**first, "split": "train"}, {**second, "split": "test"}, other]
    report, _ = _import(study[0], rows, tmp_path, coronary)
    assert report.imported == 1
    assert [problem.where for problem in report.problems] == ["line 2", "line 3"]


def test_without_a_split_column_patients_are_split_by_hash(
    study: tuple[Path, StudyTruth], tmp_path: Path, coronary: LabelSet
) -> None:
    rows = [{**row, "split": ""} for row in _rows(study[0])[:4]]
    report, catalogue = _import(study[0], rows, tmp_path, coronary)
    assert report.imported == 4
    assert "split by keyed hash" in report.notes[0]
    assert len({case.split for case in catalogue.cases()}) == 1


def test_opposite_angle_signs_are_reported_and_the_header_kept(
    study: tuple[Path, StudyTruth], tmp_path: Path, coronary: LabelSet
) -> None:
    row = max(_rows(study[0]), key=lambda row: abs(float(row["primary_angle"])))
    wrong, _ = _import(study[0], [row], tmp_path / "a", coronary, angle_sign="rao-positive")
    flipped = {**row, "primary_angle": str(-float(row["primary_angle"]))}
    right, catalogue = _import(
        study[0], [flipped], tmp_path / "b", coronary, angle_sign="rao-positive"
    )
    assert "opposite sign" in wrong.notes[0]
    assert right.notes == ()
    view = next(iter(catalogue.cases())).view
    assert view is not None
    assert view.primary_deg == pytest.approx(float(row["primary_angle"]), abs=0.05)


def test_windows_paths_are_remapped_and_refused_without(
    study: tuple[Path, StudyTruth], tmp_path: Path, coronary: LabelSet
) -> None:
    row = _rows(study[0])[0]
    windows = {**row, "dicom_path": "E:\\study\\" + row["dicom_path"].replace("/", "\\")}
    report, _ = _import(study[0], [windows], tmp_path / "a", coronary)
    assert "--path-map" in report.problems[0].message
    report, _ = _import(
        study[0], [windows], tmp_path / "b", coronary, path_map=[["E:\\study", "."]]
    )
    assert report.imported == 1


def test_a_dry_run_writes_nothing(
    study: tuple[Path, StudyTruth], tmp_path: Path, coronary: LabelSet
) -> None:
    home = Home(tmp_path / "home")
    report = import_csv(study[0] / "cases.csv", home, coronary, dry_run=True)
    assert (report.imported, report.dry_run) == (12, True)
    assert not home.root.exists()


def test_array_cines_are_accepted(tmp_path: Path, coronary: LabelSet) -> None:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:64, :64] / 64
    smooth = 0.3 + 0.3 * x * y + rng.uniform(0, 0.01, (4, 64, 64))
    np.save(tmp_path / "cine.npy", smooth)
    np.save(tmp_path / "bad.npy", smooth * 3)
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[20:40, 30:36] = 1
    np.save(tmp_path / "mask.npy", mask)
    base = {"patient_id": "1", "frame_index": "1", "cass_segment": "2", "split": "train",
            "medis_mask_path": "mask.npy"}  # fmt: skip
    rows = [
        {**base, "cine_path": "cine.npy"},
        {**base, "cine_path": "bad.npy"},
        {**base, "cine_path": "absent.npy"},
    ]
    (tmp_path / "x").mkdir()
    report, catalogue = _import(tmp_path, rows, tmp_path / "x", coronary)
    assert report.imported == 1
    assert ["0..1" in p.message or "not there" in p.message for p in report.problems] == [True] * 2
    case = next(iter(catalogue.cases()))
    assert (case.n_frames, case.stored_frames, case.segment) == (4, (0, 1, 2), "mid RCA")
    annotations = catalogue.expert_annotations(case.case_id)
    assert annotations is not None
    np.testing.assert_array_equal(decode(annotations.annotations[0].mask), mask > 0)


def test_pseudo_labels_of_another_size_are_fitted_and_experts_masks_never(tmp_path: Path) -> None:
    small = np.zeros((32, 32), dtype=np.uint8)
    small[8:16, 8:16] = 1
    Image.fromarray(small).save(tmp_path / "m.png")
    fitted = read_pseudo_label(tmp_path / "m.png", (64, 64))
    np.testing.assert_array_equal(fitted, small.repeat(2, axis=0).repeat(2, axis=1) > 0)
    with pytest.raises(DataError, match="proportions"):
        read_pseudo_label(tmp_path / "m.png", (64, 32))
    with pytest.raises(DataError, match="size of the image"):
        read_mask(tmp_path / "m.png", (64, 64))
    assert read_mask(tmp_path / "m.png", (32, 32)).sum() == 64
    (tmp_path / "n.png").write_bytes(b"no")
    with pytest.raises(DataError, match="cannot be read"):
        read_mask(tmp_path / "n.png", (64, 64))


def test_a_csv_without_patients_is_refused(tmp_path: Path, coronary: LabelSet) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="patient_id"):
        import_csv(path, Home(tmp_path / "h"), coronary)
    with pytest.raises(DataError, match="not there"):
        import_csv(tmp_path / "absent.csv", Home(tmp_path / "h"), coronary)


def test_a_number_and_words_that_disagree_are_told(tmp_path: Path, coronary: LabelSet) -> None:
    values = {"patient_id": "1", "dicom_path": "a.dcm", "cass_segment": "13",
              "vessel_pattern": "MID RCA"}  # fmt: skip
    row = parse_row(values, 2, tmp_path, coronary, CsvOptions())
    assert (row.segment, len(row.remarks)) == ("mid LAD", 1)
    row = parse_row({**values, "cass_segment": "99"}, 2, tmp_path, coronary, CsvOptions())
    assert (row.segment, len(row.remarks)) == ("mid RCA", 1)
    row = parse_row({**values, "cass_segment": "2"}, 2, tmp_path, coronary, CsvOptions())
    assert (row.segment, row.remarks) == ("mid RCA", ())


def test_a_validation_csv_puts_its_patients_into_validation(
    tmp_path: Path, coronary: LabelSet
) -> None:
    down, along = np.mgrid[:48, :48]
    np.save(tmp_path / "cine.npy", (70 + (down + along) // 2).astype(np.uint8))
    head = "row_id,patient_id,cine_path,split\n"
    (tmp_path / "a.csv").write_text(head + "1,A,cine.npy,\n2,B,cine.npy,train\n3,C,cine.npy,\n")
    (tmp_path / "b.csv").write_text(
        head + "4,ALL RISE A,cine.npy,\n5,B,cine.npy,\n6,D,cine.npy,test\n"
    )
    home = Home(tmp_path / "home")
    report = import_csv(tmp_path / "a.csv", home, coronary, validation=tmp_path / "b.csv")
    told = {problem.where: problem.message for problem in report.problems}
    assert set(told) == {"line 3", "validation line 3", "validation line 4"}
    assert "two splits" in told["line 3"]
    assert "in the validation CSV" in told["validation line 4"]
    table = read_relink(home)
    splits = {table[c.case_id].source_row: c.split for c in Catalogue(home).cases()}
    assert splits["1"] is splits["4"] is Split.VAL


def test_pseudo_labels_of_rows_nobody_annotated_are_kept_apart(
    tmp_path: Path, coronary: LabelSet
) -> None:
    down, along = np.mgrid[:48, :48]
    np.save(tmp_path / "cine.npy", (70 + (down + along) // 2).astype(np.uint8))
    label = np.zeros((24, 24), dtype=np.uint8)
    label[4:8, 2:20] = 255
    Image.fromarray(label).save(tmp_path / "p.png")
    (tmp_path / "a.csv").write_text(
        "row_id,patient_id,cine_path,deepsa_pseudo_label_path\n1,A,cine.npy,p.png\n"
        "2,B,cine.npy,gone.png\n"
    )
    home = Home(tmp_path / "home")
    report = import_csv(tmp_path / "a.csv", home, coronary)
    assert (report.imported, report.annotated, report.left_out) == (2, 0, 0)
    assert [(p.where, p.part) for p in report.problems] == [("line 3", True)]
    catalogue = Catalogue(home)
    assert list(catalogue.cases(annotated=True)) == []
    found = [catalogue.pseudo_annotations(case.case_id) for case in catalogue.cases()]
    drawn = next(one for one in found if one is not None)
    assert drawn.images[0].status == "pending"
    assert drawn.annotations[0].origin is Origin.PSEUDO
    np.testing.assert_array_equal(
        decode(drawn.annotations[0].mask), label.repeat(2, axis=0).repeat(2, axis=1) > 0
    )
    assert import_csv(tmp_path / "a.csv", home, coronary).unchanged == 2


def test_problems_are_grouped_by_kind(tmp_path: Path, coronary: LabelSet) -> None:
    rows = [f"{n},,x.npy" for n in range(4)] + ["4,A,gone.npy", "5,B,also.npy"]
    (tmp_path / "a.csv").write_text("row_id,patient_id,cine_path\n" + "\n".join(rows) + "\n")
    report = import_csv(tmp_path / "a.csv", Home(tmp_path / "h"), coronary, dry_run=True)
    assert [(group.count, len(group.examples)) for group in report.groups] == [(4, 3), (2, 2)]
    assert report.groups[0].kind.startswith("patient_id is empty")
    assert not (tmp_path / "h").exists()
