"""A project's labels are compared with the label set; nothing is taken away."""

import pytest

from casebook.errors import DataError
from cvat_sync.labels import check_renamed, label_changes, label_specs
from cvat_sync.remote import RemoteLabel
from tests.fakes.cvat_round import LABELS


def whole(**types: str) -> list[RemoteLabel]:
    found = []
    for number, spec in enumerate(label_specs(LABELS), start=1):
        attributes = spec["attributes"]
        assert isinstance(attributes, list)
        names = {str(one["name"]): 10 * number + i for i, one in enumerate(attributes)}
        name = str(spec["name"])
        found.append(RemoteLabel(number, name, names, types.get(name, str(spec["type"]))))
    return found


def test_a_whole_project_needs_nothing() -> None:
    assert label_changes(LABELS, whole()).specs == ()


def test_a_label_that_takes_any_shape_will_do() -> None:
    assert label_changes(LABELS, whole(LAD="any")).specs == ()


def test_an_empty_project_gets_all_labels_in_order() -> None:
    changes = label_changes(LABELS, [])
    assert list(changes.specs) == label_specs(LABELS)
    assert changes.words == tuple(f"label {label.name!r}" for label in LABELS.labels)


def test_an_attribute_that_is_missing_is_added_to_the_label_by_its_id() -> None:
    there = whole()
    there[0] = RemoteLabel(1, "LAD", {"model_id": 10, "own": 99}, "mask")
    (spec,) = label_changes(LABELS, there).specs
    assert (spec["id"], spec["name"]) == (1, "LAD")
    attributes = spec["attributes"]
    assert isinstance(attributes, list)
    assert [one["name"] for one in attributes] == ["confidence", "stenosis_pct", "mld"]


@pytest.mark.parametrize(
    ("label", "kind", "says"),
    [
        pytest.param("RCA", "polygon", "'RCA' takes polygon and must take mask", id="a mask's"),
        pytest.param("rejected", "mask", "'rejected' takes mask and must take tag", id="a tag's"),
    ],
)
def test_another_type_is_named(label: str, kind: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        label_changes(LABELS, whole(**{label: kind}))


def test_a_label_is_missed_under_its_name_only_where_its_id_is_still_there() -> None:
    check_renamed({"LAD": 1, "gone": 77}, whole())
    with pytest.raises(DataError, match="'left main' is called 'LAD'"):
        check_renamed({"left main": 1}, whole())
