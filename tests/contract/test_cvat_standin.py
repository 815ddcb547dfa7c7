"""The stand-in has CVAT's manners: what docs/cvat.md lists as observed on a live server."""

import base64
import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cvat_sdk import models
from cvat_sdk.api_client.exceptions import ApiException, ServiceException
from cvat_sdk.core import uploading
from cvat_sdk.core.client import AccessTokenCredentials, Client, Config
from cvat_sdk.core.exceptions import BackgroundRequestException
from cvat_sdk.masks import encode_mask
from PIL import Image, PngImagePlugin

from cvat_sync.settings import Access
from demo.standin.__main__ import listening
from tests.contract.cvat_servers import PASSWORD, TOKEN, USER, SaidFunction, said_function, standin

HW = (24, 32)


@pytest.fixture(scope="module")
def function() -> Iterator[SaidFunction]:
    with said_function() as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, function: SaidFunction) -> Iterator[Access]:
    options = []
    for kind in ("interactor", "detector", "tracker"):
        options += ["--function", f"test-{kind}={function.url}"]
    options += ["--function", "dead-interactor=http://127.0.0.1:9"]
    with standin(tmp_path_factory.mktemp("standin"), *options) as access:
        yield access


@pytest.fixture
def client(server: Access) -> Iterator[Client]:
    with connected(server) as opened:
        opened.login(AccessTokenCredentials(TOKEN))
        yield opened


def connected(server: Access) -> Client:
    return Client(server.url, config=Config(status_check_period=0.1), check_server_version=False)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = []
    for i in range(5):
        text = PngImagePlugin.PngInfo()
        text.add_text("angioloop:test", f"frame {i}")
        paths.append(tmp_path / f"frame-{i}.png")
        Image.fromarray(np.full(HW, 40 * i, np.uint8)).save(paths[-1], pnginfo=text)
    return paths


@pytest.fixture
def project(client: Client) -> Any:
    confidence = models.AttributeRequest(
        name="confidence",
        mutable=True,
        input_type="number",
        values=["0", "100", "1"],
        default_value="0",
    )
    labels = [
        models.PatchedLabelRequest(name="vessel", type="mask", attributes=[confidence]),
        models.PatchedLabelRequest(name="rejected", type="tag", attributes=[]),
    ]
    return client.projects.create(models.ProjectWriteRequest(name="one name", labels=labels))


def new_task(client: Client, project: Any, files: list[Path], **options: Any) -> Any:
    spec = models.TaskWriteRequest(name="one name", project_id=project.id, segment_size=2)
    return client.tasks.create_from_data(spec, files, **options)


def label_ids(project: Any) -> dict[str, int]:
    return {label.name: label.id for label in project.get_labels()}


def mask_shape(project: Any, frame: int, points: list[float] | None = None) -> Any:
    bitmap = np.zeros(HW, bool)
    bitmap[3:6, 4:12] = True
    return models.LabeledShapeRequest(
        type="mask",
        label_id=label_ids(project)["vessel"],
        frame=frame,
        points=points or [float(number) for number in encode_mask(bitmap)],
        source="auto",
        score=0.5,
    )


def test_it_says_what_it_is(server: Access) -> None:
    with connected(server) as client:
        about, response = client.api_client.server_api.retrieve_about()
    assert "stand-in" in about.name
    assert response.headers["Server"] == "angioloop-standin"


def test_a_password_logs_in_and_out(server: Access) -> None:
    with connected(server) as client:
        client.login((USER, PASSWORD))
        assert client.users.retrieve_current_user().username == USER
        client.logout()
        with pytest.raises(ApiException):
            client.users.retrieve_current_user()


def test_names_may_repeat_and_jobs_come_in_descending_order(
    client: Client, project: Any, files: list[Path]
) -> None:
    first, second = (new_task(client, project, files) for _ in range(2))
    assert first.name == second.name
    jobs = [(job.start_frame, job.stop_frame) for job in second.get_jobs()]
    assert jobs == [(4, 4), (2, 3), (0, 1)]
    assert {task.id for task in project.get_tasks()} == {first.id, second.id}


def test_the_default_quality_is_70_and_the_original_is_kept(
    client: Client, project: Any, files: list[Path]
) -> None:
    task = new_task(client, project, files, data_params={"no_such_setting": 1})
    assert task.image_quality == 70
    assert task.get_frame(2, quality="original").read() == files[2].read_bytes()
    assert Image.open(task.get_frame(2)).format == "JPEG"


def test_two_files_of_one_name_are_a_server_error(
    client: Client, project: Any, files: list[Path], tmp_path: Path
) -> None:
    twin = tmp_path / "other" / files[0].name
    twin.parent.mkdir()
    twin.write_bytes(files[0].read_bytes())
    with pytest.raises(ServiceException, match="IntegrityError"):
        new_task(client, project, [files[0], twin])


def test_dicom_is_no_media(client: Client, project: Any, tmp_path: Path) -> None:
    path = tmp_path / "cine.dcm"
    path.write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(BackgroundRequestException, match="No media data found"):
        new_task(client, project, [path])


def test_large_files_come_in_chunks(
    client: Client, project: Any, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading.DataUploader.__init__, "__kwdefaults__", {"max_request_size": 10})
    monkeypatch.setattr(uploading, "TUS_CHUNK_SIZE", 64)
    task = new_task(client, project, files)
    assert task.size == len(files)
    assert task.get_frame(4, quality="original").read() == files[4].read_bytes()


def test_put_replaces_ids_and_patch_keeps_them(
    client: Client, project: Any, files: list[Path]
) -> None:
    task = new_task(client, project, files)
    data = models.LabeledDataRequest(shapes=[mask_shape(project, 0), mask_shape(project, 3)])
    task.set_annotations(data)
    first = task.get_annotations().shapes
    assert [shape.frame for shape in first] != sorted(shape.frame for shape in first)
    assert {(shape.source, shape.score) for shape in first} == {("auto", 0.5)}
    task.set_annotations(data)
    second = task.get_annotations().shapes
    assert {shape.id for shape in first}.isdisjoint(shape.id for shape in second)
    changed = models.LabeledShapeRequest(**{**second[0].to_dict(), "source": "semi-auto"})
    task.update_annotations(models.PatchedLabeledDataRequest(shapes=[changed]))
    third = task.get_annotations().shapes
    assert {shape.id for shape in third} == {shape.id for shape in second}
    assert sorted(shape.source for shape in third) == ["auto", "semi-auto"]


def test_frames_out_of_range_are_dropped_by_tasks_and_kept_by_jobs(
    client: Client, project: Any, files: list[Path]
) -> None:
    task = new_task(client, project, files)
    data = models.LabeledDataRequest(shapes=[mask_shape(project, 99)])
    task.set_annotations(data)
    assert task.get_annotations().shapes == []
    job = task.get_jobs()[0]
    job.set_annotations(data)
    assert [shape.frame for shape in job.get_annotations().shapes] == [99]


def test_runs_that_fill_no_box_are_accepted(
    client: Client, project: Any, files: list[Path]
) -> None:
    task = new_task(client, project, files)
    damaged = mask_shape(project, 0, [1.0, 2.0, 500.0, 500.0, 9.0, 9.0])
    task.set_annotations(models.LabeledDataRequest(shapes=[damaged]))
    assert task.get_annotations().shapes[0].points == [1.0, 2.0, 500.0, 500.0, 9.0, 9.0]


def test_a_number_attribute_with_a_fraction_is_a_server_error(
    client: Client, project: Any, files: list[Path]
) -> None:
    task = new_task(client, project, files)
    spec = next(label for label in project.get_labels() if label.name == "vessel").attributes[0]
    shape = mask_shape(project, 0)
    shape["attributes"] = [models.AttributeValRequest(spec_id=spec.id, value="0.91")]
    with pytest.raises(ServiceException):
        task.set_annotations(models.LabeledDataRequest(shapes=[shape]))
    assert task.get_annotations().shapes == []


def test_a_list_has_ten_results_a_page(client: Client) -> None:
    for _ in range(12):
        client.projects.create(models.ProjectWriteRequest(name="many"))
    page, _ = client.api_client.projects_api.list(name="many")
    assert len(page.results) == 10
    assert page.count >= 12
    assert page.next


def test_everything_outlives_a_restart(tmp_path: Path, files: list[Path]) -> None:
    with standin(tmp_path) as access, connected(access) as client:
        client.login((USER, PASSWORD))
        labels = [models.PatchedLabelRequest(name="vessel", type="mask")]
        made = client.projects.create(models.ProjectWriteRequest(name="kept", labels=labels))
        task = new_task(client, made, files)
        task.set_annotations(models.LabeledDataRequest(shapes=[mask_shape(made, 1)]))
    with standin(tmp_path) as access, connected(access) as client:
        client.login(AccessTokenCredentials(TOKEN))
        again = client.tasks.retrieve(task.id)
        assert len(again.get_annotations().shapes) == 1
        assert again.get_frame(1, quality="original").read() == files[1].read_bytes()


def invoke(client: Client, name: str, body: dict[str, Any]) -> Any:
    rest = client.api_client.rest_client
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    url = f"{client.api_map.host}/api/lambda/functions/{name}"
    answer = rest.POST(url, headers=headers, body=body, _check_status=False)
    return answer.status, json.loads(answer.data)


def test_an_interactor_receives_the_original_image_and_the_prompt_alone(
    client: Client, project: Any, files: list[Path], function: SaidFunction
) -> None:
    task = new_task(client, project, files)
    function.asked.clear()
    function.status, function.answer = 200, {"shapes": []}
    prompt = {"pos_points": [[1, 2]], "neg_points": [], "obj_bbox": [[1, 2], [9, 9]]}
    assert invoke(client, "test-interactor", {"task": task.id, "frame": 2, **prompt}) == (
        200,
        {"shapes": []},
    )
    (asked,) = function.asked
    assert asked.pop("type") == "application/json"
    sent = base64.b64decode(asked.pop("image"))
    assert sent == files[2].read_bytes()
    assert Image.open(io.BytesIO(sent)).text["angioloop:test"] == "frame 2"
    assert asked == prompt


def test_a_detector_loses_labels_the_task_has_not(
    client: Client, project: Any, files: list[Path], function: SaidFunction
) -> None:
    task = new_task(client, project, files)
    found = {"type": "mask", "mask": [1, 0, 0, 0, 0], "confidence": "0.9"}
    attributes = [{"name": "confidence", "value": "90"}, {"name": "unknown", "value": "x"}]
    function.status = 200
    function.answer = [
        {"label": "vessel", **found, "attributes": attributes},
        {"label": "kidney", **found},
    ]
    status, answer = invoke(client, "test-detector", {"task": task.id, "frame": 0})
    assert status == 200
    assert [entry["label"] for entry in answer] == ["vessel"]
    assert answer[0]["attributes"] == [{"name": "confidence", "value": "90"}]


def test_tracker_states_are_signed_and_a_forged_one_is_refused(
    client: Client, project: Any, files: list[Path], function: SaidFunction
) -> None:
    task = new_task(client, project, files)
    function.asked.clear()
    function.status = 200
    function.answer = {"shapes": [{"type": "rectangle", "points": [1, 1, 5, 5]}], "states": ["k1"]}
    body = {"task": task.id, "frame": 0, "shapes": [{"type": "rectangle", "points": [1, 1, 5, 5]}]}
    _, first = invoke(client, "test-tracker", body)
    assert first["states"] != ["k1"]
    follow = {"task": task.id, "frame": 1, "shapes": [None], "states": first["states"]}
    invoke(client, "test-tracker", follow)
    assert function.asked[-1]["states"] == ["k1"]
    forged = {**follow, "states": [first["states"][0][:-1] + "x"]}
    assert invoke(client, "test-tracker", forged)[0] == 400


@pytest.mark.parametrize(
    ("name", "status", "expected"),
    [
        pytest.param("test-interactor", 422, 422, id="the status passes through"),
        pytest.param("dead-interactor", 200, 503, id="no connection"),
        pytest.param("no-such-interactor", 200, 404, id="no such function"),
    ],
)
def test_a_failing_function_keeps_its_status_and_loses_its_body(
    client: Client,
    project: Any,
    files: list[Path],
    function: SaidFunction,
    name: str,
    status: int,
    expected: int,
) -> None:
    task = new_task(client, project, files)
    function.status, function.answer = status, {"error": "secret detail"}
    prompt = {"task": task.id, "frame": 0, "pos_points": [], "neg_points": []}
    answered, body = invoke(client, name, prompt)
    assert answered == expected
    assert "secret detail" not in json.dumps(body)


def test_working_time_is_exported_as_it_was_sent(
    client: Client, project: Any, files: list[Path]
) -> None:
    task = new_task(client, project, files)
    job = task.get_jobs()[0]
    stamp = "2026-01-01T10:00:00Z"
    event = {
        "scope": "send:working_time",
        "timestamp": stamp,
        "duration": 61_000,
        "job_id": job.id,
        "task_id": task.id,
        "payload": '{"simulated": true}',
    }
    body = {"events": [event], "timestamp": stamp}
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    rest = client.api_client.rest_client
    rest.POST(f"{client.api_map.host}/api/events", headers=headers, body=body)
    url = f"{client.api_map.host}/api/events/export?task_id={task.id}"
    rq_id = json.loads(rest.POST(url, headers=headers).data)["rq_id"]
    request, _ = client.wait_for_completion(rq_id)
    table = rest.GET(request.result_url, headers=headers).data.decode()
    assert "send:working_time" in table
    assert "61000" in table


def test_the_server_holds_no_part_of_an_answer_back() -> None:
    with listening("127.0.0.1", 0) as listener:  # asyncio asks for the protocol it was made with
        assert listener.proto == socket.IPPROTO_TCP
