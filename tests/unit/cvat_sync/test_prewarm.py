"""The frames that come next, shown to a function that remembers what it saw."""

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from casebook.catalogue import Catalogue
from casebook.errors import ConfigError, StateError, UnreachableError
from casebook.rounds import RoundFolder
from cvat_sync.prewarm import Coming, Warmer, coming, follow, plan_prewarm
from cvat_sync.pushed import PushedTask
from cvat_sync.remote import RemoteAnnotations, RemoteJob, RemoteShape, RemoteTag
from tests.fakes.cvat_memory import WHEN, MemoryCvat, pushed_round
from tests.fakes.cvat_round import make_round

FILES = tuple(f"case-{n}.f00000.png" for n in range(6))
TASK = PushedTask(key="k", task_id=11, name="t", frames=FILES, masks=0)
JOB = RemoteJob(
    id=5,
    task_id=11,
    start_frame=1,
    stop_frame=4,
    stage="annotation",
    state="in progress",
    annotator="7",
    created=WHEN,
    updated=WHEN,
)


def shape(frame: int, source: str) -> RemoteShape:
    return RemoteShape(id=1, frame=frame, label_id=1, type="mask", points=(), source=source)


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        pytest.param(RemoteAnnotations(), (1, 2), id="nothing yet: the job's first"),
        pytest.param(RemoteAnnotations((shape(3, "auto"),)), (1, 2), id="proposals do not count"),
        pytest.param(RemoteAnnotations((shape(1, "semi-auto"),)), (2, 3), id="a corrected mask"),
        pytest.param(
            RemoteAnnotations((shape(2, "manual"),), (RemoteTag(1, 1, 9),)), (3, 4), id="the last"
        ),
        pytest.param(RemoteAnnotations((), (RemoteTag(1, 3, 9),)), (4,), id="a rejected frame"),
        pytest.param(RemoteAnnotations((shape(4, "manual"),)), (), id="the job is at its end"),
    ],
)
def test_what_comes_next_lies_behind_the_last_frame_a_person_touched(
    drawn: RemoteAnnotations, expected: tuple[int, ...]
) -> None:
    assert coming(JOB, drawn, TASK, 2).files == tuple(FILES[n] for n in expected)


class UnderWay(MemoryCvat):
    """The first job of each task is being worked on."""

    def jobs(self, task_id: int) -> tuple[RemoteJob, ...]:
        first, *others = super().jobs(task_id)
        return (replace(first, state="in progress"), *others)


@pytest.fixture
def folder(tmp_path: Path) -> RoundFolder:
    return make_round(tmp_path)


def test_only_jobs_under_way_are_looked_at(folder: RoundFolder) -> None:
    cvat = UnderWay(folder)
    pushed = pushed_round(folder, cvat)
    plan = plan_prewarm(pushed, cvat, 3)
    assert [entry.files for entry in plan] == [task.frames[:1] for task in pushed.tasks]
    assert plan_prewarm(pushed, MemoryCvat(folder), 3) == ()


class Function:
    """An interactor that keeps what it is shown."""

    def __init__(self) -> None:
        self.status = 200
        self.bodies: list[dict[str, object]] = []
        told = self

        class Requests(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                told.bodies.append(json.loads(self.rfile.read(length)))
                self.send_response(told.status)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Requests)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"


@pytest.fixture
def function() -> Iterator[Function]:
    found = Function()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.02,))
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


def test_each_frame_is_shown_once_with_the_bytes_cvat_will_send(
    folder: RoundFolder, function: Function
) -> None:
    cvat, catalogue = UnderWay(folder), Catalogue(folder.home)
    pushed = pushed_round(folder, cvat)
    told: list[str] = []
    looks = iter([True, True, False])
    warmer = Warmer(function.url, catalogue)
    follow(lambda: plan_prewarm(pushed, cvat, 3), warmer, told.append, lambda: next(looks))
    assert told == [task.frames[0] for task in pushed.tasks]
    refs = {case.at.file_name: case.at for case in folder.manifest().cases}
    images = [catalogue.frame_path(refs[name]).read_bytes() for name in told]
    assert [base64.b64decode(str(body["image"])) for body in function.bodies] == images
    assert all(body["prewarm"] is True for body in function.bodies)


def test_a_function_that_refuses_is_named_with_its_status(
    folder: RoundFolder, function: Function
) -> None:
    function.status = 503
    name = folder.manifest().cases[0].at.file_name
    warmer = Warmer(function.url, Catalogue(folder.home))
    with pytest.raises(UnreachableError, match=r"refused to look ahead \(503\)"):
        list(warmer.show((Coming(job_id=1, files=(name,)),)))
    assert warmer.shown == set()


def test_an_address_where_nothing_answers_is_named(folder: RoundFolder) -> None:
    name = folder.manifest().cases[0].at.file_name
    warmer = Warmer("http://127.0.0.1:1/", Catalogue(folder.home))
    with pytest.raises(UnreachableError, match="nothing answers at http://127"):
        list(warmer.show((Coming(job_id=1, files=(name,)),)))


@pytest.mark.parametrize("name", ["case-9.f00007.png", "holiday.png"])
def test_a_frame_that_is_not_kept_is_named(folder: RoundFolder, name: str) -> None:
    warmer = Warmer("http://127.0.0.1:1/", Catalogue(folder.home))
    with pytest.raises(StateError, match=f"frame {name} is not kept here"):
        list(warmer.show((Coming(job_id=1, files=(name,)),)))


@pytest.mark.parametrize("url", ["127.0.0.1:80", "file:///etc/passwd", "http://"])
def test_an_address_that_is_none_is_refused(folder: RoundFolder, url: str) -> None:
    with pytest.raises(ConfigError, match="expected http://HOST:PORT"):
        Warmer(url, Catalogue(folder.home))
