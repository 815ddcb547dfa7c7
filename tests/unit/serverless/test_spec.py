"""How labels are described to CVAT."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

from casebook.labels import read_labels
from serverless.spec import spec_json

ROOT = Path(__file__).resolve().parents[3]
LABELS = ROOT / "conf" / "labels" / "coronary.yaml"


def test_the_detectors_yaml_holds_every_mask_label_of_the_shipped_set() -> None:
    expected = json.loads(spec_json(read_labels(LABELS)))
    assert len(expected) == 16
    for name in ("function.yaml", "function-gpu.yaml"):
        document = yaml.safe_load((ROOT / "serverless" / "detector" / name).read_text())
        assert json.loads(document["metadata"]["annotations"]["spec"]) == expected


def test_tags_are_not_for_detectors_and_numbers_are_whole() -> None:
    entries = json.loads(spec_json(read_labels(LABELS)))
    assert "rejected" not in {entry["name"] for entry in entries}
    for entry in entries:
        kinds = {each["name"]: each["input_type"] for each in entry["attributes"]}
        assert kinds["confidence"] == "number"
        assert kinds["mld"] == "text"


def test_the_command_prints_what_the_yaml_holds() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "serverless.spec", str(LABELS)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout == spec_json(read_labels(LABELS))
