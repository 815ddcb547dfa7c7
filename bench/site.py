"""`angioinfer run` over a long folder: memory that does not grow, and a run that goes on.

A small untaught student (what grows does not depend on what it has learnt) takes folders of files
with one small frame each, pictures, SEG, records and tables included. Each command is a process of
its own and says its own peak (VmHWM, Linux). `rss_2000_over_200`: peak of 2 000 files over that of
200 (quick: 40 over 10). `files_per_s`: of the longer run. `resumed_share`: the same command once
more, when all is done, over the first time.
"""

import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from angio.dicom.write import XaHeader, write_xa
from bench.harness import run
from bench.student import command
from casebook.documents import sha256_of_file, write_document
from casebook.labels import Label, LabelSet
from casebook.registry import ModelCard
from export import windows
from export.bundle import MANIFEST, Bundle
from export.onnx import OPSET, export_student
from export.student import Student, StudentConfig

AIMS = {"rss_2000_over_200": "<= 1.1", "resumed_share": "<= 0.1"}
FILES, QUICK_FILES = (200, 2_000), (10, 40)
SIDE_PX = 64
LABELS = LabelSet(
    name="bench",
    labels=(Label(name="stenosis", role="lesion"), Label(name="tree", role="tree")),
)


def make_bundle(folder: Path) -> Path:
    """A whole bundle of a small student nobody taught."""
    torch.manual_seed(0)
    config = StudentConfig(
        side_px=SIDE_PX, whole_px=SIDE_PX, widths=(8, 8, 16, 16), blocks=(1, 1, 1, 1)
    )
    student = Student(config)
    # It answers with vessels, right or wrong, for all files: what only they need (DICOM SEG) is
    # then part of the short run as well as of the long one.
    student.automatic.masks.state_dict()["bias"].zero_()
    graphs = export_student(student, folder)
    now = datetime.now(UTC)
    card = ModelCard(
        model_id="untaught",
        kind="student",
        architecture="promptable U-shape, export/student.py",
        created=now,
        n_params=student.n_params,
        licence="Apache-2.0",
    )
    gates = {
        "max_abs": 0.0, "max_abs_allowed": 1e-3, "mask_iou": 1.0, "mask_iou_required": 0.999,
        "parity_prompts": 0, "iou_ratio_required": 0.95, "n_params": student.n_params,
    }  # fmt: skip
    bundle = Bundle.model_validate(
        {
            "version": "untaught",
            "created": now,
            "opset": OPSET,
            "graphs": graphs,
            "side_px": SIDE_PX,
            "whole_px": SIDE_PX,
            "window": {
                "box_margin": windows.BOX_MARGIN,
                "smallest_px": windows.SMALLEST_PX,
                "click_px": windows.CLICK_PX,
                "step_px": windows.STEP_PX,
            },
            "labels": LABELS,
            "maps": ({"label": "tree", "role": "tree"},),
            "card": card,
            "gates": gates,
            "files": {graph.file: sha256_of_file(folder / graph.file) for graph in graphs},
            "licence": card.licence,
        }
    )
    write_document(folder / MANIFEST, bundle)
    return folder


def write_files(folder: Path, count: int) -> Path:
    """So many files of one small frame each, all different."""
    folder.mkdir()
    rng = np.random.default_rng(8)
    for number in range(count):
        header = XaHeader(
            study_uid="2.25.1", series_uid="2.25.2", instance_uid=f"2.25.{100 + number}",
            patient_name="GENERATED", patient_id="0", birth_date="19000101", sex="O",
            study_date="20260101", study_time="000000", accession="0", institution="",
            physician="", station="", series_number=1, primary_deg=30.0, secondary_deg=-20.0,
            source_detector_mm=1000.0, source_patient_mm=750.0, imager_spacing_mm=0.4,
            frame_ms=66.0,
        )  # fmt: skip
        pixels = rng.integers(500, 3500, (1, SIDE_PX, SIDE_PX), dtype=np.uint16)
        write_xa(folder / f"frame{number:05d}.dcm", header, pixels, syntax="raw")
    return folder


def growth(bundle: Path, counts: tuple[int, int]) -> dict[str, float | None]:
    """The figures for a short and a long folder."""
    figures: dict[str, float | None] = dict.fromkeys((*AIMS, "files_per_s", "peak_mb"))
    with tempfile.TemporaryDirectory() as place:
        peaks: list[float | None] = []
        for count in counts:
            folder = write_files(Path(place) / f"in{count}", count)
            out = Path(place) / f"out{count}"
            given = ("run", folder, "--out", out, "--bundle", bundle, "--threads", "1")
            spent, peak = command(*given)
            kept = sum(1 for _ in (out / "records").glob("*.json"))
            if kept != count:
                raise AssertionError(f"{kept} of {count} files have a record")
            peaks.append(peak)
        few, many = peaks
        again, _ = command(*given)
    figures["files_per_s"] = counts[1] / spent
    figures["resumed_share"] = again / spent
    if few is not None and many is not None:
        figures["rss_2000_over_200"], figures["peak_mb"] = many / few, many
    return figures


def measure(quick: bool) -> dict[str, float | None]:
    """The figures, at full or quick counts."""
    with tempfile.TemporaryDirectory() as place:
        return growth(make_bundle(Path(place)), QUICK_FILES if quick else FILES)


if __name__ == "__main__":
    run("site", measure, AIMS)
