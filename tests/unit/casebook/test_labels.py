"""Label sets."""

from pathlib import Path

import pytest

from casebook.errors import ConfigError, DataError
from casebook.labels import Label, LabelSet, read_labels

ROOT = Path(__file__).resolve().parents[3]
LABELS = LabelSet(
    name="two",
    labels=(
        Label(name="mid RCA", role="segment", aliases=("mRCA",)),
        Label(name="rejected", kind="tag", role="reject"),
    ),
)


@pytest.mark.parametrize("name", ["mid RCA", "MID_RCA", "mrca", " mid   rca "])
def test_a_label_is_found_however_it_is_written(name: str) -> None:
    assert LABELS.find(name).name == "mid RCA"


def test_an_unknown_label_is_answered_with_the_known_ones() -> None:
    with pytest.raises(DataError, match="it has: mid RCA, rejected"):
        LABELS.find("LAD")


def test_labels_by_kind_role_and_number() -> None:
    assert [label.name for label in LABELS.masks] == ["mid RCA"]
    assert [label.name for label in LABELS.of_role("reject")] == ["rejected"]
    assert LABELS.category_id("rejected") == 2


def test_repeated_names_are_refused() -> None:
    with pytest.raises(ValueError, match="repeated: a"):
        LabelSet(name="x", labels=(Label(name="a"), Label(name="a")))


def test_every_shipped_set_can_be_read(tmp_path: Path) -> None:
    paths = sorted((ROOT / "conf" / "labels").glob("*.yaml"))
    assert {path.stem for path in paths} >= {"coronary", "arcade"}
    for path in paths:
        labels = read_labels(path)
        known = {label.name for label in labels.labels}
        assert all(set(label.confusable) <= known for label in labels.labels)
    with pytest.raises(ConfigError):
        read_labels(tmp_path / "gone.yaml")
