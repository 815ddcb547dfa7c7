"""A round that stops early: on the frozen validation cases, told in its candidate."""

import numpy as np
import pytest

from casebook.cases import Split
from casebook.documents import read_document
from casebook.errors import StateError
from casebook.rounds import RoundFolder
from tests.unit.trainer.workspace import make_conf, make_workspace, picture
from trainer.results import Candidate
from trainer.samples import validation_set
from trainer.tasks import run_step
from trainer.work import Work

STOP = "train.stop={every: 1, patience: 2, min_gain: 0.99}"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    root = tmp_path_factory.mktemp("stopping")
    home, conf = make_workspace(root), make_conf(root, steps=20)
    asked = Work(RoundFolder(home, 1), conf, (STOP,))
    run_step("select", asked)
    return asked


def test_a_round_stops_early_and_says_so(work: Work) -> None:
    run_step("train", work)
    found = read_document(work.folder.file("candidate.json"), Candidate)
    assert found.steps == 3
    assert found.figures["val_step"] == 1
    told = [event.values for event in work.folder.events() if event.step == "train"]
    assert len([values for values in told if "step" in values]) == 3
    assert work.registry.card(found.model_id).config["stop"] == {
        "every": 1,
        "patience": 2,
        "min_gain": 0.99,
    }


def test_what_a_training_is_stopped_by_are_the_experts_masks_of_the_validation_cases(
    work: Work,
) -> None:
    manifest = work.folder.manifest()
    found = validation_set(manifest, work.catalogue)
    assert [sample.name for sample in found] == [line.at.file_name for line in manifest.val]
    for sample, line in zip(found, manifest.val, strict=True):
        _, bitmap = picture(int(line.at.case_id.removeprefix("case-")))
        assert [mask.label for mask in sample.masks] == ["tube"]
        np.testing.assert_array_equal(sample.masks[0].bitmap, bitmap)
    of_vessel = validation_set(manifest, work.catalogue, "RCA")
    wanted = [case for case in work.catalogue.cases(split=Split.VAL) if case.vessel == "RCA"]
    assert len(of_vessel) == len(wanted) > 0


def test_a_validation_case_without_its_masks_is_named(work: Work) -> None:
    line = work.folder.manifest().val[0]
    unannotated = next(iter(work.catalogue.cases(split=Split.TRAIN, annotated=False)))
    changed = work.folder.manifest().with_(val=(line.with_(at=unannotated.ref),))
    with pytest.raises(StateError, match=f"case {unannotated.case_id} lost its expert"):
        validation_set(changed, work.catalogue)
