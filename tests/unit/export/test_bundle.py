import json
import shutil
from pathlib import Path

import pytest

from casebook.errors import ModelError
from export.bundle import SCHEMA, read_bundle
from export.gates import Gates
from export.runtime import load_student
from tests.unit.export.conftest import Workshop


@pytest.fixture
def copy(workshop: Workshop, tmp_path: Path) -> Path:
    return Path(shutil.copytree(workshop.folder, tmp_path / "bundle"))


def test_a_whole_bundle_is_read(copy: Path, workshop: Workshop) -> None:
    assert read_bundle(copy) == workshop.bundle


def test_one_changed_byte_is_refused(copy: Path) -> None:
    payload = bytearray((copy / "decoder.onnx").read_bytes())
    payload[len(payload) // 2] ^= 1
    (copy / "decoder.onnx").write_bytes(bytes(payload))
    with pytest.raises(ModelError, match=r"decoder\.onnx is damaged"):
        load_student(copy)


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "encoder.onnx").unlink()
    with pytest.raises(ModelError, match=r"encoder\.onnx is missing"):
        read_bundle(copy)


def _edit(copy: Path, **changes: object) -> None:
    path = copy / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"schema": SCHEMA + 1}, "install a newer angioloop", id="newer schema"),
        pytest.param({"side_px": -1}, "side_px", id="wrong value"),
        pytest.param({"surprise": 1}, "surprise", id="unknown field"),
        pytest.param({"files": {"../x.onnx": "0"}}, "leaves the bundle", id="path that leaves"),
        pytest.param({"files": {}}, "lists no automatic.onnx", id="file not listed"),
    ],
)
def test_a_manifest_that_cannot_be_trusted_is_refused(
    copy: Path, changes: dict[str, object], message: str
) -> None:
    _edit(copy, **changes)
    with pytest.raises(ModelError, match=message):
        read_bundle(copy)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no manifest\.json"):
        read_bundle(tmp_path)


def test_text_that_is_no_json_is_no_manifest(copy: Path) -> None:
    (copy / "manifest.json").write_text("half a man")
    with pytest.raises(ModelError, match="not a bundle's manifest"):
        read_bundle(copy)


def test_a_manifest_of_schema_1_is_read_without_the_newer_gates(copy: Path) -> None:
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    for newer in ("iou_without_teacher", "cldice_ratio_required", "vessels", "qca"):
        del manifest["gates"][newer]
    path.write_text(json.dumps({**manifest, "schema": 1}))
    gates = read_bundle(copy).gates
    assert (gates.vessels, gates.qca, gates.cldice_ratio_required) == ((), None, 0.0)


_VESSEL = {"vessel": "LAD", "cases": 5, "iou_student": 0.5, "iou_teacher": 0.7, "behind": -0.01}
_QCA = {
    "lesions": 9, "measured_student": 8, "measured_teacher": 9, "compared": 8, "is_judged": True,
    "ds_error_student": 6.0, "ds_error_teacher": 5.5, "ds_worse_allowed": 1.0,
    "mld_error_student_mm": 0.20, "mld_error_teacher_mm": 0.18, "mld_worse_allowed_mm": 0.05,
}  # fmt: skip


def _gates(**changes: object) -> Gates:
    values: dict[str, object] = {
        "max_abs": 1e-5,
        "max_abs_allowed": 1e-3,
        "mask_iou": 1.0,
        "mask_iou_required": 0.999,
        "parity_prompts": 2,
        "iou_ratio": 0.97,
        "iou_ratio_required": 0.95,
        "n_params": 10,
    }
    return Gates.model_validate({**values, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({}, None, id="all met"),
        pytest.param({"max_abs": 0.01}, "logits differ by 0.01", id="logits"),
        pytest.param({"mask_iou": 0.99}, "masks overlap by 0.9900", id="masks"),
        pytest.param({"iou_ratio": 0.94}, "0.940 of the teacher's IoU", id="below the teacher"),
        pytest.param({"iou_ratio": None}, "no annotated validation case", id="nothing to compare"),
        pytest.param(
            {"cldice_ratio": 0.93, "cldice_ratio_required": 0.95},
            "0.930 of the teacher's clDice",
            id="centrelines",
        ),
        pytest.param(
            {"vessels": [{**_VESSEL, "is_judged": True}]},
            "vessel LAD is significantly worse",
            id="a vessel",
        ),
        pytest.param({"vessels": [{**_VESSEL, "is_judged": False}]}, None, id="too few cases"),
        pytest.param(
            {"vessels": [{**_VESSEL, "behind": 0.01, "is_judged": True}]}, None, id="may be chance"
        ),
        pytest.param({"qca": _QCA}, None, id="as good at measuring"),
        pytest.param(
            {"qca": {**_QCA, "ds_error_student": 6.6}}, "%DS is off by 6.6 points", id="stenosis"
        ),
        pytest.param(
            {"qca": {**_QCA, "ds_error_student": 6.6, "is_judged": False}},
            None,
            id="too few lesions",
        ),
        pytest.param(
            {"qca": {**_QCA, "mld_error_student_mm": 0.24}}, "MLD is off by 0.24 mm", id="lumen"
        ),
        pytest.param(
            {"qca": {**_QCA, "mld_error_student_mm": None, "mld_error_teacher_mm": None}},
            None,
            id="no spacing",
        ),
    ],
)
def test_each_gate_says_what_is_outside(changes: dict[str, object], message: str | None) -> None:
    failures = _gates(**changes).failures()
    if message is None:
        assert failures == ()
    else:
        assert len(failures) == 1
        assert message in failures[0]
