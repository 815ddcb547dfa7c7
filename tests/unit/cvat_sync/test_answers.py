"""CVAT's JSON becomes values, and damaged JSON an error that says so."""

import pytest

from casebook.errors import RemoteError
from cvat_sync import answers
from cvat_sync.remote import RemoteAnnotations, RemoteShape, RemoteTag

JOB = {
    "id": 9,
    "task_id": 3,
    "start_frame": 0,
    "stop_frame": 4,
    "stage": "annotation",
    "state": "new",
    "assignee": {"id": 12, "username": "dr.name"},
    "created_date": "2026-01-01T10:00:00.5Z",
    "updated_date": "2026-01-01T10:02:00Z",
}


def test_a_job_knows_its_annotator_by_number_only() -> None:
    job = answers.job(JOB)
    assert job.annotator == "annotator-12"
    assert "dr.name" not in repr(job)


def test_annotations_survive_the_way_to_cvat_and_back() -> None:
    drawn = RemoteAnnotations(
        (RemoteShape(None, 2, 5, "mask", [0, 4, 1, 1, 2, 2], "auto", 0.5, {8: "87"}),),
        (RemoteTag(None, 1, 6, {9: "too dark"}),),
    )
    body = answers.annotations_body(drawn)
    import json

    assert answers.annotations(json.dumps(body).encode()) == drawn


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b'{"shapes": [{}], "tags": []}', b"<html>"])
def test_an_answer_that_is_not_cvats_is_an_error(payload: bytes) -> None:
    with pytest.raises(RemoteError, match="cannot be read"):
        answers.annotations(payload)


def test_working_times_add_up_by_job_and_tell_when_simulated() -> None:
    table = (
        b"scope,duration,job_id,payload\n"
        b"send:working_time,1500,1,\n"
        b"send:working_time,500,1,\n"
        b'send:working_time,9000,2,"{""simulated"": true}"\n'
        b"click:element,9999,1,\n"
        b"send:working_time,7,,\n"
        b"send:working_time,,1,not json\n"
    )
    found = {time.job_id: time for time in answers.working_times(table)}
    assert {number: time.seconds for number, time in found.items()} == {1: 2.0, 2: 9.0}
    assert {number: time.is_simulated for number, time in found.items()} == {1: False, 2: True}
