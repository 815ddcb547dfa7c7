import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pydicom import dcmread

from casebook.annotations import read_annotations
from casebook.documents import read_document
from casebook.errors import BusyError, ConfigError, DataError, ModelError, PromptError
from casebook.home import locked
from export.cli import main
from export.outputs import InferReport
from export.records import RecordBook
from export.run_command import _take
from export.runs import DropFolder, Run, Wish, find_files
from export.runtime import load_graphs, segmenter_of
from export.signature import make_key, read_key, sign
from tests.unit.export.conftest import Workshop
from tests.unit.export.workshop import write_run

BOX = "40,50,115,110"
ROOT = Path(__file__).parents[3]


def invoke(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def report_of(out: Path) -> InferReport:
    return read_document(out / "qca.json", InferReport)


def times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "records").iterdir()}


def test_a_run_goes_on_where_it_was(workshop: Workshop, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for seed in range(3):
        write_run(folder / f"run{seed}.dcm", seed)
    given = ("--out", out, "--bundle", workshop.folder, "--no-gif", "--no-seg")
    assert invoke("run", folder / "run0.dcm", folder / "run1.dcm", *given)[0] == 0
    before = times(out)
    code, said = invoke("run", folder, *given)
    assert (code, "2 files were done before" in said) == (0, True)
    after = times(out)
    assert len(after) == 3
    assert before.items() <= after.items()
    assert len(report_of(out).results) == 3
    found = read_annotations(out / "annotations.coco.json")
    assert [image.id for image in found.images] == [1, 2, 3]
    assert [one.id for one in found.annotations] == list(range(1, len(found.annotations) + 1))
    assert len({image.case_id for image in found.images}) == 3


def test_a_changed_file_or_wish_is_done_again(workshop: Workshop, tmp_path: Path) -> None:
    path, out = write_run(tmp_path / "run.dcm"), tmp_path / "out"
    given = ("run", path, "--out", out, "--bundle", workshop.folder, "--no-gif", "--no-seg")
    invoke(*given)
    assert (out / "run.f00002.overlay.png").is_file()
    assert "done before" not in invoke(*given, "--frame", "1")[1]
    assert (out / "run.f00001.overlay.png").is_file()
    assert not (out / "run.f00002.overlay.png").exists()
    write_run(path, 1, frames=7)
    assert "done before" not in invoke(*given, "--frame", "1")[1]
    assert report_of(out).results[0].n_frames == 7


def test_a_torn_record_counts_as_none(workshop: Workshop, tmp_path: Path) -> None:
    path, out = write_run(tmp_path / "run.dcm"), tmp_path / "out"
    given = ("run", path, "--out", out, "--bundle", workshop.folder, "--no-gif", "--no-seg")
    invoke(*given)
    record = next((out / "records").iterdir())
    record.write_text(record.read_text()[:40])
    code, said = invoke(*given)
    assert (code, "done before" in said) == (0, False)
    assert len(report_of(out).results) == 1


def test_seg_and_film_show_what_was_found(workshop: Workshop, tmp_path: Path) -> None:
    path, out = write_run(tmp_path / "run.dcm"), tmp_path / "out"
    code, said = invoke(
        *("run", path, "--out", out, "--bundle", workshop.folder),
        *("--box", BOX, "--segment", "tube"),
    )
    assert code == 0, said
    vessel = report_of(out).results[0].vessels[0]
    assert (vessel.label, vessel.cass) == ("tube", 13)
    row = next(csv.DictReader((out / "qca.csv").read_text().splitlines()))
    assert (row["label"], row["cass"]) == ("tube", "13")
    seg = highdicom.seg.segread(out / "run.f00002.seg.dcm")
    named = [seg.get_segment_description(n) for n in seg.segment_numbers]
    assert "Mid Left Anterior Descending" in named[-1].segmented_property_type.meaning
    assert seg.pixel_array.any()
    frame = dcmread(out / "run.f00002.dcm")
    assert frame.SOPInstanceUID in str(seg.ReferencedSeriesSequence)
    assert "GENERATED" not in str(seg) + str(frame)
    with Image.open(out / "run.cine.gif") as film:
        assert film.n_frames == report_of(out).results[0].n_frames
        assert film.info["duration"] in (60, 70)


def test_films_and_measurements_are_the_same_with_one_thread_and_with_three(
    workshop: Workshop, tmp_path: Path
) -> None:
    path = write_run(tmp_path / "run.dcm", frames=11)
    shown = []
    for threads in (1, 3):
        out = tmp_path / f"out{threads}"
        given = ("--out", out, "--bundle", workshop.folder, "--no-seg", "--box", BOX)
        assert invoke("run", path, *given, "--threads", str(threads))[0] == 0
        with Image.open(out / "run.cine.gif") as film:
            assert film.n_frames == 11
        shown.append([(out / name).read_bytes() for name in ("run.cine.gif", "qca.csv")])
    assert shown[0] == shown[1]


def test_the_film_is_an_mp4_where_that_is_asked_for(workshop: Workshop, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="the extra `video` is not installed")
    path, out = write_run(tmp_path / "run.dcm", frames=7), tmp_path / "out"
    given = ("run", path, "--out", out, "--bundle", workshop.folder, "--no-seg")
    assert invoke(*given)[0] == 0
    code, said = invoke(*given, "--mp4")
    assert (code, "done before" in said) == (0, False)
    assert not (out / "run.cine.gif").exists()
    with av.open(str(out / "run.cine.mp4")) as film:
        shown = [frame.to_ndarray(format="gray") for frame in film.decode(video=0)]
    assert len(shown) == report_of(out).results[0].n_frames
    with Image.open(out / "run.f00003.overlay.png") as overlay:
        drawn = np.asarray(overlay.convert("L"), dtype=float)
    assert np.corrcoef(shown[3].ravel(), drawn.ravel())[0, 1] > 0.95


def test_an_mp4_without_its_extra_is_refused_before_anything_is_read(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    path, out = write_run(tmp_path / "run.dcm"), tmp_path / "out"
    code, said = invoke("run", path, "--out", out, "--bundle", workshop.folder, "--mp4")
    assert code == ConfigError.exit_code
    assert "angioloop[infer,video]" in said
    assert not (out / "records").exists()


def test_points_show_the_vessel_to_measure(workshop: Workshop, tmp_path: Path) -> None:
    path, out = write_run(tmp_path / "run.dcm"), tmp_path / "out"
    given = ("run", path, "--out", out, "--bundle", workshop.folder, "--no-gif", "--no-seg")
    code, said = invoke(*given, "--point", "80,80", "--point", "90,80", "--outside", "80,120")
    assert code == 0, said
    vessel = report_of(out).results[0].vessels[0]
    assert vessel.prompt == "given"
    x1, y1, x2, y2 = vessel.box_xyxy
    assert x1 <= x2
    assert y1 <= y2
    assert "expected x,y" in invoke(*given, "--point", "80")[1]
    assert "give its --box or --point" in invoke(*given, "--outside", "80,120")[1]
    code, said = invoke(*given, "--point", "900,80")
    assert (code, "outside the 160×160 px image" in said) == (DataError.exit_code, True)


def test_a_prompt_is_a_box_or_a_point_by_its_numbers(workshop: Workshop, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.dcm")
    given = ("run", path, "--bundle", workshop.folder, "--no-gif", "--no-seg")
    short = invoke(*given, "--out", tmp_path / "a", "--prompt", BOX, "--prompt", "70,80")
    long = invoke(*given, "--out", tmp_path / "b", "--box", BOX, "--point", "70,80")
    assert (short[0], long[0]) == (0, 0), short[1]
    tables = [(tmp_path / name / "qca.csv").read_text() for name in ("a", "b")]
    assert tables[0] == tables[1]
    assert ",given," in tables[0]
    for wrong, said in ((("--box", BOX), "2 boxes; expected one"), (("--prompt", "7"), "x,y in")):
        code, told = invoke(*given, "--out", tmp_path / "c", "--prompt", BOX, *wrong)
        assert code == PromptError.exit_code
        assert said in told
    assert not (tmp_path / "c").exists()


def test_a_file_of_another_kind_and_one_without_spacing(workshop: Workshop, tmp_path: Path) -> None:
    other, bare = write_run(tmp_path / "other.dcm"), write_run(tmp_path / "bare.dcm")
    ds = dcmread(other)
    ds.Modality = "MR"
    ds.save_as(other)
    ds = dcmread(bare)
    for name in ("ImagerPixelSpacing", "DistanceSourceToDetector", "DistanceSourceToPatient"):
        delattr(ds, name)
    ds.save_as(bare)
    out = tmp_path / "out"
    code, said = invoke(
        "run", other, bare, "--out", out, "--bundle", workshop.folder, "--box", BOX, "--no-gif"
    )
    assert code == DataError.exit_code
    assert "expected XA" in said
    report = report_of(out)
    assert [one.file for one in report.problems] == ["other.dcm"]
    assert report.results[0].spacing is None
    assert "lengths are in px" in report.results[0].notes[0]
    rows = list(csv.DictReader((out / "qca.csv").read_text().splitlines()))
    assert rows
    assert all(row["unit"] in ("", "px") for row in rows)


def test_our_own_results_are_not_taken_for_input(workshop: Workshop, tmp_path: Path) -> None:
    write_run(tmp_path / "run.dcm")
    out = tmp_path / "out"
    given = ("run", tmp_path, "--out", out, "--bundle", workshop.folder, "--no-gif")
    assert invoke(*given)[0] == 0
    assert list(out.glob("*.seg.dcm"))
    assert [path.name for path in find_files((tmp_path,), out)[0]] == ["run.dcm"]


@pytest.mark.parametrize(
    ("arguments", "message", "problem"),
    [
        pytest.param(["--segment", "tube"], "give --box too", ConfigError, id="segment, no box"),
        pytest.param(
            ["--segment", "toe", "--box", BOX], "toe", ConfigError, id="segment nobody knows"
        ),
        pytest.param(["--provider", "tensorrt"], "not installed", ConfigError, id="provider"),
        pytest.param(["--watch", "x"], "one of them", ConfigError, id="files and watch"),
        pytest.param(["--key", "nowhere"], "cannot be read", ConfigError, id="no key"),
    ],
)
def test_a_wish_that_cannot_be_met_is_told(
    workshop: Workshop, tmp_path: Path, arguments: list[str], message: str, problem: type[DataError]
) -> None:
    path = write_run(tmp_path / "run.dcm")
    code, said = invoke(
        "run", path, "--out", tmp_path / "out", "--bundle", workshop.folder, *arguments
    )
    assert message in said
    assert code in (problem.exit_code, DataError.exit_code)
    assert code != 0


def test_two_runs_do_not_write_into_one_folder(workshop: Workshop, tmp_path: Path) -> None:
    path, out = write_run(tmp_path / "run.dcm"), tmp_path / "out"
    out.mkdir()
    with locked(out / ".lock", "this folder of results"):
        code, _ = invoke("run", path, "--out", out, "--bundle", workshop.folder)
    assert code == BusyError.exit_code


def test_a_vanished_file_leaves_nothing(workshop: Workshop, tmp_path: Path) -> None:
    graphs = load_graphs(workshop.folder, 1)
    segmenter = segmenter_of(workshop.bundle, graphs)
    work = Run.open(segmenter, workshop.bundle, graphs, tmp_path, Wish())
    assert _take(work, tmp_path / "gone.dcm") is None
    assert not (tmp_path / "records").exists()


def test_names_stay_with_their_files(tmp_path: Path) -> None:
    book = RecordBook(tmp_path, "x")
    first, second = tmp_path / "a" / "run.dcm", tmp_path / "b" / "run.dcm"
    names = book.name_of(first), book.name_of(second)
    assert names[0] == "run"
    assert names[1].startswith("run-")
    assert (book.name_of(first), book.name_of(second)) == names


def test_a_file_is_given_out_once_it_stands_still(tmp_path: Path) -> None:
    drop = DropFolder(tmp_path, tmp_path / "out", settle_s=3.0)
    path = tmp_path / "run.dcm"
    path.write_bytes(b"half")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "own.dcm").write_bytes(b"")
    (tmp_path / ".part.dcm").write_bytes(b"")
    assert drop.ready(0.0) == []
    assert drop.ready(2.9) == []
    path.write_bytes(b"half and more")
    assert drop.ready(3.1) == []
    assert drop.ready(6.0) == []
    assert drop.ready(6.2) == [path]
    assert drop.ready(60.0) == []
    path.unlink()
    assert drop.ready(61.0) == []
    path.write_bytes(b"again")
    assert drop.ready(62.0) == []
    assert drop.ready(66.0) == [path]


def test_a_folder_that_is_away_is_told_and_its_files_are_not_given_again(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "run.dcm").write_bytes(b"x")
    drop = DropFolder(folder, tmp_path / "out", settle_s=1.0)
    assert drop.ready(0.0) == []
    assert len(drop.ready(2.0)) == 1
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="cannot be listed now"):
        drop.ready(3.0)
    (tmp_path / "elsewhere").rename(folder)
    assert drop.ready(9.0) == []


def _watching(workshop: Workshop, folder: Path, out: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "export.cli", "run", "--watch", str(folder)),
            *("--settle", "0.1", "--out", str(out), "--bundle", str(workshop.folder)),
            *("--no-gif", "--no-seg"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )


def _read_until(process: "subprocess.Popen[str]", start: str) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(start):
            return lines
    raise AssertionError(f"{start!r} was not said, but {lines}")


def test_a_watch_survives_a_kill_and_takes_no_file_twice(
    workshop: Workshop, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_run(folder / "one.dcm", 1)
    (folder / "text.dcm").write_text("no angiogram")
    with _watching(workshop, folder, out) as first:
        try:
            _read_until(first, "text.dcm: left out")
        finally:
            first.kill()
    before = times(out)
    assert len(before) == 2
    write_run(folder / "two.dcm", 2)
    with _watching(workshop, folder, out) as second:
        try:
            said = _read_until(second, "two.dcm frame")
            assert not any(line.startswith(("one.dcm", "text.dcm")) for line in said)
            second.send_signal(signal.SIGTERM)
            assert second.wait(timeout=120) == 0
        finally:
            second.kill()
    assert before.items() <= times(out).items()
    report = report_of(out)
    assert sorted(one.file for one in report.results) == ["one.dcm", "two.dcm"]
    assert [one.file for one in report.problems] == ["text.dcm"]


def test_a_signed_bundle_is_known_by_its_key(workshop: Workshop, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(workshop.folder, tmp_path / "bundle"))
    make_key(tmp_path / "key")
    make_key(tmp_path / "other")
    with pytest.raises(ConfigError, match="never written over"):
        make_key(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
    code, said = invoke("verify", bundle, "--key", tmp_path / "key")
    assert (code, "no manifest.sig" in said) == (ModelError.exit_code, True)
    sign(bundle, read_key(tmp_path / "key"))
    code, said = invoke("verify", bundle, "--key", tmp_path / "key")
    assert (code, "signed with the key given" in said) == (0, True)
    assert invoke("verify", bundle, "--key", tmp_path / "other")[0] == ModelError.exit_code
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "threshold": 0.5}))
    code, said = invoke("verify", bundle, "--key", tmp_path / "key")
    assert (code, "signature is not of this key" in said) == (ModelError.exit_code, True)
    (tmp_path / "short").write_text("abcd")
    assert invoke("verify", bundle, "--key", tmp_path / "short")[0] == ConfigError.exit_code
