"""What goes wrong at a site, by the real command in a process of its own."""

import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread

from casebook.documents import read_document
from casebook.errors import DataError, ModelError
from export.outputs import InferReport
from tests.unit.export.conftest import Workshop
from tests.unit.export.workshop import write_run

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
PLAIN = ("--no-gif", "--no-seg", "--threads", "1")


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "export.cli", "run", *(str(one) for one in arguments)]


def angioinfer(
    *arguments: str | Path, before: Callable[[], None] | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(*arguments),
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False,
        preexec_fn=before,
    )  # fmt: skip


def without_spacing(path: Path) -> Path:
    ds = dcmread(path)
    for name in ("ImagerPixelSpacing", "DistanceSourceToDetector", "DistanceSourceToPatient"):
        delattr(ds, name)
    ds.save_as(path)
    return path


def of_modality(path: Path, modality: str) -> Path:
    ds = dcmread(path)
    ds.Modality = modality
    ds.save_as(path)
    return path


def test_a_damaged_bundle_and_a_newer_one_run_nothing(workshop: Workshop, tmp_path: Path) -> None:
    path, out = write_run(tmp_path / "run.dcm"), tmp_path / "out"
    damaged = Path(shutil.copytree(workshop.folder, tmp_path / "damaged"))
    payload = bytearray((damaged / "automatic.onnx").read_bytes())
    payload[len(payload) // 2] ^= 1
    (damaged / "automatic.onnx").write_bytes(bytes(payload))
    done = angioinfer(path, "--out", out, "--bundle", damaged)
    assert (done.returncode, done.stdout) == (ModelError.exit_code, "")
    assert "automatic.onnx is damaged (hash differs); copy the bundle again" in done.stderr
    newer = Path(shutil.copytree(workshop.folder, tmp_path / "newer"))
    manifest = json.loads((newer / "manifest.json").read_text())
    (newer / "manifest.json").write_text(json.dumps({**manifest, "schema": 99}))
    done = angioinfer(path, "--out", out, "--bundle", newer)
    assert (done.returncode, done.stdout) == (ModelError.exit_code, "")
    assert "install a newer angioloop" in done.stderr
    assert not out.exists()


def test_files_that_cannot_be_used_are_named_and_the_others_measured(
    workshop: Workshop, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_run(folder / "good.dcm")
    without_spacing(write_run(folder / "bare.dcm", 1))
    of_modality(write_run(folder / "other.dcm", 2), "MR")
    write_run(folder / "black.dcm", black=True)
    done = angioinfer(folder, "--out", out, "--bundle", workshop.folder, *PLAIN)
    assert done.returncode == DataError.exit_code
    assert "2 of 4 files" in done.stdout
    report = read_document(out / "qca.json", InferReport)
    assert [one.file for one in report.results] == ["bare.dcm", "good.dcm"]
    why = {one.file: one.message for one in report.problems}
    assert "expected XA, an X-ray angiogram; leave it out" in why["other.dcm"]
    assert "one grey value" in why["black.dcm"]
    assert "lengths are in px" in report.results[0].notes[0]
    assert report.results[1].spacing is not None
    for name in why:
        assert f"{name}: left out:" in done.stdout


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_read(
    workshop: Workshop, tmp_path: Path
) -> None:
    path = write_run(tmp_path / "run.dcm")
    (tmp_path / "file").write_text("in the way")
    done = angioinfer(path, "--out", tmp_path / "file", "--bundle", workshop.folder, *PLAIN)
    assert done.returncode == DataError.exit_code
    assert "cannot be written" in done.stderr

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, 2**15))

    done = angioinfer(
        path, "--out", tmp_path / "full", "--bundle", workshop.folder, *PLAIN, before=no_room
    )
    assert done.returncode == DataError.exit_code
    assert "free some space or give another --out" in done.stderr
    assert not list((tmp_path / "full").glob("qca.*"))


def until(seen: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    ends = time.monotonic() + 240
    while not seen():
        assert process.poll() is None, "the watch ended"
        assert time.monotonic() < ends, "nothing came of it"
        time.sleep(0.01)


def test_a_file_that_vanishes_while_another_is_measured_does_not_end_the_watch(
    workshop: Workshop, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_run(folder / "a.dcm", frames=60)
    gone = write_run(folder / "b.dcm", 1)
    given = ("--watch", folder, "--settle", "0.2", "--out", out, "--bundle", workshop.folder)
    said = tmp_path / "said.txt"
    with (
        said.open("w") as told,
        subprocess.Popen(
            command(*given, "--no-seg"), cwd=ROOT, env=ENVIRONMENT, text=True,
            stdout=told, stderr=subprocess.STDOUT,
        ) as watch,
    ):  # fmt: skip
        try:
            until(lambda: any(out.glob("a.*.overlay.png")), watch)  # its film takes longer
            gone.unlink()
            until(lambda: "b.dcm vanished before it was read" in said.read_text(), watch)
            write_run(folder / "c.dcm", 2)
            until(lambda: "c.dcm frame" in said.read_text(), watch)
            watch.send_signal(signal.SIGTERM)
            assert watch.wait(timeout=240) == 0
        finally:
            watch.kill()
    report = read_document(out / "qca.json", InferReport)
    assert sorted(one.file for one in report.results) == ["a.dcm", "c.dcm"]
    assert len(list((out / "records").iterdir())) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_terminal_sees_how_far_a_folder_is(workshop: Workshop, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(3):
        write_run(folder / f"run{seed}.dcm", seed)
    mine, theirs = pty.openpty()
    with os.fdopen(mine, "rb", buffering=0) as screen:
        done = subprocess.run(
            command(folder, "--out", tmp_path / "out", "--bundle", workshop.folder, *PLAIN),
            cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=theirs, timeout=300,
            check=False,
        )  # fmt: skip
        os.close(theirs)
        shown = screen.read(65536).decode()
    assert done.returncode == 0, shown
    assert "angiograms" in shown
    assert "3/3" in shown
