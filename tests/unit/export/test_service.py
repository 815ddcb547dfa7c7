import asyncio
import base64
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from fastapi import FastAPI

from casebook import masks
from casebook.catalogue import png_bytes
from casebook.errors import ConfigError
from export.cli import main
from export.runtime import load_graphs, segmenter_of
from export.serve_command import TOKEN, is_local, token_for
from export.service import Rules, create_app
from tests.unit.export.conftest import Workshop
from tests.unit.export.workshop import SIDE_PX, draw_tube, write_run

ROOT = Path(__file__).parents[3]
SECRET = "a token of some length"
ASKED = {"pos_points": [[80, 80]], "neg_points": [], "obj_bbox": [[40, 50], [115, 110]]}


@dataclass(frozen=True)
class Asker:
    """Asks an application in this process."""

    app: FastAPI

    def _ask(self, method: str, path: str, **sent: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as asker:
                return await asker.request(method, path, **sent)

        return asyncio.run(ask())

    def get(self, path: str) -> httpx.Response:
        return self._ask("GET", path)

    def post(self, path: str, **sent: Any) -> httpx.Response:
        return self._ask("POST", path, **sent)


def client(workshop: Workshop, **rules: object) -> Asker:
    graphs = load_graphs(workshop.folder, 1)
    app = create_app(
        segmenter_of(workshop.bundle, graphs),
        workshop.bundle,
        graphs,
        Rules.model_validate(rules),
    )
    return Asker(app)


def picture() -> str:
    return base64.b64encode(png_bytes(draw_tube(3).pixels)).decode()


@pytest.mark.parametrize("path", ["/", "/interactor"])
def test_cvats_interactor_gets_its_answer(workshop: Workshop, path: str) -> None:
    reply = client(workshop).post(path, json={"image": picture(), **ASKED})
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-model-id"] == workshop.bundle.version
    for shape in reply.json()["shapes"]:
        assert masks.from_cvat(shape["points"], (SIDE_PX, SIDE_PX)).any()
    assert list(reply.json()) == ["shapes"]


def test_a_whole_file_is_analysed(workshop: Workshop, tmp_path: Path) -> None:
    payload = write_run(tmp_path / "DOE^JANE.dcm").read_bytes()
    reply = client(workshop).post(
        "/analyse?box=40,50,115,110&segment=tube",
        content=payload,
        headers={"Content-Type": "application/dicom"},
    )
    assert reply.status_code == 200, reply.text
    result = reply.json()["result"]
    assert (result["frame"], result["file"]) == (2, "upload.dcm")
    assert result["vessels"][0]["cass"] == 13
    drawn = reply.json()["masks"]["annotations"]
    assert sum(one["area"] for one in drawn) > 0 or result["tree_area_px"] == 0


@pytest.mark.parametrize(
    ("path", "content", "kind", "status", "said"),
    [
        pytest.param("/", b"{", "application/json", 400, "not JSON", id="half json"),
        pytest.param("/", b"{}", "text/plain", 415, "expected application/json", id="text"),
        pytest.param("/", b"x" * 5000, "application/json", 413, "more than 4096", id="too long"),
        pytest.param(
            "/analyse", b"no angiogram", "application/dicom", 422, "DICOM", id="not dicom"
        ),
        pytest.param("/analyse?box=1,2", b"", "application/dicom", 400, "expected x1", id="box"),
        pytest.param(
            "/analyse?box=1,2,3,4&segment=toe", b"", "application/dicom", 422, "toe", id="segment"
        ),
        pytest.param(
            "/analyse?segment=tube",
            b"",
            "application/dicom",
            400,
            "give its box",
            id="segment of nothing",
        ),
        pytest.param(
            "/analyse?outside=3,4",
            b"",
            "application/dicom",
            400,
            "give its box",
            id="outside of nothing",
        ),
        pytest.param("/analyse?point=3", b"", "application/dicom", 400, "expected x,y", id="point"),
        pytest.param("/analyse?frame=x", b"", "application/dicom", 400, "frame: Input", id="frame"),
        pytest.param(
            "/analyse?frame=-1",
            b"",
            "application/dicom",
            400,
            "frame: Input",
            id="frame before the first",
        ),
        pytest.param(
            "/analyse",
            b"x" * 5000,
            "application/dicom",
            413,
            "more than 4096",
            id="a file too long",
        ),
    ],
)
def test_a_bad_request_is_told_why(
    workshop: Workshop, path: str, content: bytes, kind: str, status: int, said: str
) -> None:
    reply = client(workshop, max_body_bytes=4096).post(
        path, content=content, headers={"Content-Type": kind}
    )
    assert reply.status_code == status, reply.text
    assert said in reply.json()["error"]


def test_points_show_the_vessel_as_a_box_does(workshop: Workshop, tmp_path: Path) -> None:
    payload = write_run(tmp_path / "run.dcm").read_bytes()
    reply = client(workshop).post(
        "/analyse?point=70,80&point=80,85&outside=10,10&frame=1",
        content=payload,
        headers={"Content-Type": "application/dicom"},
    )
    assert reply.status_code == 200, reply.text
    result = reply.json()["result"]
    assert (result["frame"], result["frame_chosen"]) == (1, False)
    assert [one["prompt"] for one in result["vessels"]] == ["given"]


def test_without_the_token_nobody_is_answered(workshop: Workshop) -> None:
    guarded = client(workshop, token=SECRET)
    body = {"image": picture(), **ASKED}
    assert guarded.post("/", json=body).status_code == 401
    assert guarded.post("/", json=body, headers={"Authorization": "Bearer x"}).status_code == 401
    given = {"Authorization": f"Bearer {SECRET}"}
    assert guarded.post("/", json=body, headers=given).status_code == 200
    assert guarded.get("/healthz").json()["model_id"] == workshop.bundle.version


def test_the_api_describes_itself(workshop: Workshop) -> None:
    paths = client(workshop).get("/openapi.json").json()["paths"]
    assert set(paths) == {"/", "/interactor", "/analyse", "/healthz"}
    asked = {one["name"]: one for one in paths["/analyse"]["post"]["parameters"]}
    assert set(asked) == {"box", "point", "outside", "frame", "segment"}
    assert all(one["description"] for one in asked.values())
    assert {"200", "400", "401", "413", "415", "422"} <= set(paths["/analyse"]["post"]["responses"])
    open_to_all = client(workshop).get("/openapi.json").json()
    assert "securitySchemes" not in open_to_all["components"]
    guarded = client(workshop, token=SECRET).get("/openapi.json").json()
    assert guarded["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert guarded["paths"]["/analyse"]["post"]["security"] == [{"HTTPBearer": []}]
    schema = paths["/"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"image", "pos_points", "neg_points", "obj_bbox"} <= set(schema["properties"])


def test_two_askers_at_once_get_the_answers_of_one(workshop: Workshop) -> None:
    served = client(workshop)
    bodies = [
        {"image": base64.b64encode(png_bytes(draw_tube(seed).pixels)).decode(), **ASKED}
        for seed in range(4)
    ]
    alone = [served.post("/", json=body).text for body in bodies]
    fresh = client(workshop)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda body: fresh.post("/", json=body).text, bodies)) == alone


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("pc-7", False)],  # noqa: S104
)
def test_an_open_address_needs_a_token(
    host: str, local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_local(host) is local
    monkeypatch.delenv(TOKEN, raising=False)
    assert token_for(host, is_open=True) is None
    if local:
        assert token_for(host, is_open=False) is None
    else:
        with pytest.raises(ConfigError, match="can be reached by others"):
            token_for(host, is_open=False)
    monkeypatch.setenv(TOKEN, "short")
    with pytest.raises(ConfigError, match="expected 16"):
        token_for(host, is_open=True)
    monkeypatch.setenv(TOKEN, SECRET)
    assert token_for(host, is_open=False) == SECRET


def test_the_command_serves_and_a_taken_port_is_told(workshop: Workshop) -> None:
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "export.cli", "serve", "--port", "0"),
            *("--bundle", str(workshop.folder), "--threads", "1"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", TOKEN: SECRET},
    ) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            url = said.split(" on ")[1].split(" ")[0]
            transport = httpx.HTTPTransport(retries=20)
            with httpx.Client(transport=transport, timeout=60) as asker:
                health = asker.get(f"{url}healthz").json()
                assert (health["providers"], health["threads"]) == (["CPUExecutionProvider"], 1)
                assert asker.post(url, json={}).status_code == 401
            port = url.rstrip("/").rpartition(":")[2]
            refused = CliRunner().invoke(
                main, ["serve", "--port", port, "--bundle", str(workshop.folder)]
            )
            assert refused.exit_code == ConfigError.exit_code
            assert "cannot be listened on" in refused.output
        finally:
            process.terminate()
