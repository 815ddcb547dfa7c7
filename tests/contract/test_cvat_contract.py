"""Push and pull against a CVAT: the stand-in always, a live server where one is given.

The environment names a live server (see conftest.py); what the tests make there is deleted.
"""

import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from casebook import masks
from casebook.annotations import Origin, read_annotations
from casebook.documents import read_document
from casebook.errors import AccessError, DataError, DeidError, StateError, UnreachableError
from casebook.labels import Label
from casebook.rounds import RoundFolder
from cvat_sync import gateway as module
from cvat_sync.gateway import CvatGateway, retrying
from cvat_sync.plan import PushPlan, plan_push
from cvat_sync.proposals import Proposals
from cvat_sync.push import push
from cvat_sync.pushed import Pushed
from cvat_sync.remote import RemoteAnnotations, RemoteTag
from cvat_sync.settings import Access, ExchangeConfig
from tests.contract.cvat_rounds import (
    CONFIG,
    call,
    complete,
    credentials,
    end_state,
    place_of,
    pull_it,
    push_it,
    shape,
    with_shapes,
)
from tests.contract.cvat_servers import PASSWORD, TOKEN, USER, standin
from tests.fakes.cvat_round import HW, LABELS, bar, make_round, ref

_TEXT = {"mutable": True, "input_type": "text", "values": [""], "default_value": ""}


def original(access: Access, task_id: int, frame: int) -> bytes:
    """A frame as CVAT gives it to serverless functions."""
    url = f"{access.url}/api/tasks/{task_id}/data/?type=frame&number={frame}&quality=original"
    asked = urllib.request.Request(  # noqa: S310
        url, headers={"Authorization": credentials(access)}
    )
    with urllib.request.urlopen(asked) as answer:  # noqa: S310
        payload: bytes = answer.read()
    return payload


def test_a_pushed_round_has_its_frames_lossless_and_its_proposals_scored(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    pushed = push_it(folder, plan, gateway, access)
    assert read_document(folder.file("pushed.json"), Pushed) == pushed
    assert [task.masks for task in pushed.tasks] == [2, 2, 0]
    task_id, frame = place_of(pushed, 3)
    sent = (folder.home.cases / "case-003" / "00003.png").read_bytes()
    assert original(access, task_id, frame) == sent
    drawn = [one for one in gateway.task_annotations(task_id).shapes if one.frame == frame]
    assert len(drawn) == 1
    assert (drawn[0].source, drawn[0].score) == ("auto", pytest.approx(0.87))
    assert (masks.from_cvat(drawn[0].points, HW) == bar(10)).all()
    labels = {label.name: label for label in gateway.labels(pushed.project_id)}
    assert drawn[0].attributes[labels["LAD"].attributes["model_id"]] == "round-01-abc"
    assert drawn[0].attributes[labels["LAD"].attributes["confidence"]] == "87"
    assert len(gateway.jobs(task_id)) == 2


def test_what_experts_did_comes_back_mask_by_mask(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    pushed = push_it(folder, plan, gateway, access)
    refined = bar(10)
    refined[10:14, 5:15] = False
    with_shapes(
        gateway,
        pushed,
        1,
        lambda frame, labels: RemoteAnnotations(
            (
                shape(frame, labels["LAD"], masks.to_cvat(refined)),
                shape(frame, labels["RCA"], masks.to_cvat(bar(25))),
            )
        ),
    )
    with_shapes(gateway, pushed, 2, lambda _frame, _labels: RemoteAnnotations())
    reason = gateway.labels(pushed.project_id)
    spec = next(label for label in reason if label.name == "rejected").attributes["reason"]
    with_shapes(
        gateway,
        pushed,
        3,
        lambda frame, labels: RemoteAnnotations(
            (), (RemoteTag(None, frame, labels["rejected"], {spec: "unusable frame"}),)
        ),
    )
    task_id, frame = place_of(pushed, 0)
    job = next(job for job in gateway.jobs(task_id) if job.start_frame <= frame <= job.stop_frame)
    issue = {"frame": frame, "position": [3, 4], "job": job.id, "message": "is this the LAD?"}
    call(access, "POST", "/api/issues", issue)
    complete(access, gateway, pushed)
    result = pull_it(folder, pushed, gateway)
    corrections = result.corrections
    assert {
        outcome: corrections.count(outcome)
        for outcome in ("accepted", "refined", "added", "deleted")
    } == {"accepted": 1, "refined": 1, "added": 1, "deleted": 1}
    assert corrections.rejected == (ref(3),)
    change = next(one for one in corrections.changes if one.outcome == "refined")
    assert change.iou == pytest.approx(20 / 30)
    assert change.changed_px == 40
    sealed = read_annotations(folder.file("annotations.coco.json"))
    status = {image.case_id: image.status for image in sealed.images}
    assert status == {
        "case-000": "ok",
        "case-001": "corrected",
        "case-002": "corrected",
        "case-003": "rejected",
        "case-004": "ok",
    }
    images = {image.case_id: image for image in sealed.images}
    assert images["case-000"].notes == ("is this the LAD?",)
    assert images["case-003"].reason == "unusable frame"
    accepted = sealed.of_image(images["case-000"].id)[0]
    assert (accepted.origin, accepted.model_id) == (Origin.MODEL_REVIEWED, "round-01-abc")
    assert {one.origin for one in sealed.of_image(images["case-001"].id)} == {Origin.HUMAN}
    assert result.effort.cases == 5


def test_pull_refuses_unfinished_jobs_and_keeps_the_finished_ones(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    pushed = push_it(folder, plan, gateway, access)
    complete(access, gateway, pushed, keep_open=2)
    with pytest.raises(StateError, match="2 of 5 jobs are not completed"):
        pull_it(folder, pushed, gateway)
    assert len(list(folder.file("pull").glob("job-*.json"))) == 3
    assert not folder.has("annotations.coco.json")
    assert not folder.has("corrections.json")
    result = pull_it(folder, pushed, gateway, allow_incomplete=True)
    assert len(result.left_out) == 2
    sealed = read_annotations(folder.file("annotations.coco.json"))
    assert sum(image.status == "pending" for image in sealed.images) == 2


@pytest.mark.parametrize(
    ("points", "says"),
    [
        pytest.param([3, 5, 2, 2, 5, 5], "add up", id="runs do not fill the box"),
        pytest.param([0, 16, 46, 38, 49, 41], "outside", id="box outside the image"),
        pytest.param([16, 2, 2, 5, 5], "empty", id="nothing set"),
    ],
)
def test_a_damaged_mask_is_named_and_the_rest_goes_on(
    folder: RoundFolder,
    plan: PushPlan,
    gateway: CvatGateway,
    access: Access,
    points: list[int],
    says: str,
) -> None:
    pushed = push_it(folder, plan, gateway, access)
    with_shapes(
        gateway,
        pushed,
        1,
        lambda frame, labels: RemoteAnnotations((shape(frame, labels["RCA"], points),)),
    )
    complete(access, gateway, pushed)
    with pytest.raises(DataError, match=rf"case-001\.f00003\.png, RCA .*{says}"):
        pull_it(folder, pushed, gateway)
    assert len(list(folder.file("pull").glob("job-*.json"))) == 5
    result = pull_it(folder, pushed, gateway, allow_incomplete=True)
    assert len(result.refused) == 1
    assert result.corrections.count("accepted") == 3


class Dying:
    """A gateway whose process dies at the n-th call that changes CVAT, before or after it."""

    def __init__(self, gateway: CvatGateway, at: int, *, after: bool) -> None:
        self._gateway, self._left, self._after = gateway, at, after
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._gateway, name)
        if name not in {"create_project", "create_task", "replace_annotations", "delete_task"}:
            return method

        def call_or_die(*args: Any, **options: Any) -> Any:
            with self._lock:
                self._left -= 1
                is_last = self._left == 0
            if is_last and not self._after:
                raise KeyboardInterrupt
            answer = method(*args, **options)
            if is_last:
                raise KeyboardInterrupt
            return answer

        return call_or_die


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_a_killed_push_resumes_to_the_same_end(
    folder: RoundFolder,
    plan: PushPlan,
    gateway: CvatGateway,
    access: Access,
    at: int,
    after: bool,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        push_it(folder, plan, Dying(gateway, at, after=after), access)
    assert not folder.has("pushed.json")
    pushed = push_it(folder, plan, gateway, access)
    expected = {task.key: (len(task.frames), task.masks) for task in plan.tasks}
    assert end_state(gateway, pushed.project_id) == expected
    assert len(gateway.tasks(pushed.project_id)) == len(plan.tasks)
    ours = [project for project in gateway.projects() if project.name == plan.project]
    assert len(ours) == 1


def test_what_people_drew_survives_a_push_that_was_killed_late(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    first = push_it(folder, plan, gateway, access)
    with_shapes(
        gateway,
        first,
        0,
        lambda frame, labels: RemoteAnnotations(
            (shape(frame, labels["RCA"], masks.to_cvat(bar(30))),)
        ),
    )
    folder.file("pushed.json").unlink()
    again = push_it(folder, plan, gateway, access)
    assert again.tasks == first.tasks
    task_id, frame = place_of(again, 0)
    drawn = [one for one in gateway.task_annotations(task_id).shapes if one.frame == frame]
    assert [(masks.from_cvat(one.points, HW) == bar(30)).all() for one in drawn] == [True]


def test_nothing_is_sent_without_proof_of_deidentification(
    tmp_path: Path, gateway: CvatGateway, access: Access
) -> None:
    folder = make_round(tmp_path, deid=None)
    proposals = Proposals(folder.file("proposals.coco.json"))
    plan = plan_push(
        folder.manifest(), folder.manifest_sha256(), proposals, ExchangeConfig(project="never")
    )
    with pytest.raises(DeidError, match="5 cases have no de-identification record"):
        push_it(folder, plan, gateway, access)
    assert [project for project in gateway.projects() if project.name == "never"] == []


def test_frames_that_need_several_requests_arrive_as_from_one(
    folder: RoundFolder,
    plan: PushPlan,
    gateway: CvatGateway,
    access: Access,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_FORM_BYTES", 1)
    pushed = push_it(folder, plan, gateway, access)
    assert [task.frames for task in pushed.tasks] == [task.frames for task in plan.tasks]
    for case in folder.manifest().cases:
        sent = (folder.home.cases / case.at.case_id / "00003.png").read_bytes()
        assert original(access, *place_of(pushed, int(case.at.case_id[-3:]))) == sent


def test_a_frame_changed_since_the_selection_is_not_sent(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    path = folder.home.cases / "case-002" / "00003.png"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"1 frames are missing or changed .*case-002.*no frame"):
        push_it(folder, plan, gateway, access)
    assert [
        gateway.tasks(project.id) for project in gateway.projects() if project.name == plan.project
    ] == [()]  # the project is made while frames are looked at; tasks only after


def test_labels_are_brought_to_the_schema_and_a_persons_own_label_stays(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    fewer = LABELS.with_(labels=tuple(one for one in LABELS.labels if one.name != "RCA"))
    made = gateway.create_project(plan.project, plan.project_key, fewer)
    own = {"name": "calcium", "type": "polygon", "attributes": []}
    gateway.change_labels(made.id, [own])
    lad = next(label for label in gateway.labels(made.id) if label.name == "LAD")
    attributes = [{"id": lad.attributes["mld"], "name": "diameter"}]
    change = {**_TEXT, **attributes[0]}
    gateway.change_labels(made.id, [{"id": lad.id, "name": "LAD", "attributes": [change]}])
    told: list[str] = []
    pushed = push(
        folder,
        plan,
        folder.manifest(),
        Proposals(folder.file("proposals.coco.json")),
        gateway,
        url=access.url,
        retrying=retrying,
        parallel=1,
        tell=told.append,
    )
    labels = {label.name: label for label in gateway.labels(made.id)}
    assert set(labels) == {*(one.name for one in LABELS.labels), "calcium"}
    assert {"mld", "diameter", "model_id"} <= set(labels["LAD"].attributes)
    assert pushed.labels == {one.name: labels[one.name].id for one in LABELS.labels}
    assert sorted(line.partition("gets the ")[2] for line in told) == [
        "attribute 'mld' of label 'LAD'",
        "label 'RCA'",
    ]


def test_a_label_of_another_type_is_named_before_anything_is_sent(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    fewer = LABELS.with_(labels=tuple(one for one in LABELS.labels if one.name != "RCA"))
    made = gateway.create_project(plan.project, plan.project_key, fewer)
    gateway.change_labels(made.id, [{"name": "RCA", "type": "polygon", "attributes": []}])
    with pytest.raises(DataError, match="'RCA' takes polygon and must take mask"):
        push_it(folder, plan, gateway, access)
    assert gateway.tasks(made.id) == ()


def test_a_project_renamed_in_cvat_is_found_again(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    made = gateway.create_project(plan.project, plan.project_key, LABELS)
    call(access, "PATCH", f"/api/projects/{made.id}", {"name": f"{plan.project} renamed"})
    try:
        assert push_it(folder, plan, gateway, access).project_id == made.id
    finally:
        call(access, "PATCH", f"/api/projects/{made.id}", {"name": plan.project})


def test_all_pages_of_a_long_list_are_read(
    plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    many = LABELS.with_(labels=tuple(Label(name=f"label {i:03d}") for i in range(120)))
    project = gateway.create_project(plan.project, plan.project_key, many)
    assert len(gateway.labels(project.id)) == 120


def test_a_wrong_token_is_refused_in_one_line(access: Access) -> None:
    with (
        pytest.raises(AccessError, match="refused the credentials"),
        CvatGateway(access.with_(token="wrong", user=None, password=None)) as gateway,
    ):
        gateway.projects()


def test_a_wrong_password_is_refused_in_one_line(standin_access: Access) -> None:
    with (
        pytest.raises(AccessError, match="refused the credentials"),
        CvatGateway(Access(url=standin_access.url, user=USER, password="wrong")) as gateway,
    ):
        gateway.projects()


def test_a_password_logs_in(standin_access: Access) -> None:
    with CvatGateway(Access(url=standin_access.url, user=USER, password=PASSWORD)) as gateway:
        assert gateway.about().endswith(f"as user {USER}")


def test_a_server_that_is_not_there_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cvat_sync.gateway.ATTEMPTS", 1)
    with (
        pytest.raises(UnreachableError, match="no answer from CVAT"),
        CvatGateway(Access(url="http://127.0.0.1:9", token=TOKEN)) as gateway,
    ):
        gateway.projects()


def test_a_push_through_a_bad_network_ends_as_a_good_one(
    folder: RoundFolder, tmp_path: Path
) -> None:
    proposals = Proposals(folder.file("proposals.coco.json"))
    plan = plan_push(folder.manifest(), folder.manifest_sha256(), proposals, CONFIG)
    with (
        standin(tmp_path / "server", "--fault-rate", "0.15", "--fault-seed", "3") as access,
        CvatGateway(access) as gateway,
    ):
        pushed = push_it(folder, plan, gateway, access)
        expected = {task.key: (len(task.frames), task.masks) for task in plan.tasks}
        assert end_state(gateway, pushed.project_id) == expected
        assert len(gateway.tasks(pushed.project_id)) == len(plan.tasks)
