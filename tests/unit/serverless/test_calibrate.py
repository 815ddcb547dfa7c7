"""`make calibrate`: the model in use is measured, and the functions take the result up."""

import base64
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from casebook.calibration import Calibration, Curve, read_calibration, write_calibration
from casebook.cases import Split, View
from casebook.catalogue import Catalogue, png_bytes
from casebook.errors import ConfigError
from casebook.home import Home
from casebook.specialists import Specialist, Specialists, write_specialists
from serverless.calibrate import lines, main
from serverless.models import Choice, live_model
from tests.unit.trainer.workspace import add_case, picture

VIEW = View(primary_deg=30, secondary_deg=0)


def fill(home: Home, count: int) -> None:
    catalogue = Catalogue(home)
    for number in range(count):
        add_case(catalogue, number, Split.VAL)


def request(view: View | None = None) -> dict[str, object]:
    pixels, _ = picture(1)
    image = base64.b64encode(png_bytes(pixels, view=view)).decode()
    return {"image": image, "obj_bbox": [[10, 10], [90, 90]]}


def flat(chance_logit: float, model_id: str) -> Calibration:
    curve = Curve(
        slope=0, intercept=chance_logit, masks=20, right=5, brier_score=0.3, brier_curve=0.2
    )
    return Calibration(model_id=model_id, cases=20, box=curve)


def test_the_model_in_use_is_measured_and_the_figures_are_said(home: Home) -> None:
    fill(home, 20)
    result = CliRunner().invoke(main)
    assert result.exit_code == 0, result.output
    found = read_calibration(home, "small")
    assert found is not None
    assert found.box is not None
    assert found.box.masks == 20
    assert "small on 20 validation cases" in result.output
    assert f"{found.box.right} of 20 masks right (IoU 0.5)" in result.output


def test_a_path_without_a_curve_is_named() -> None:
    assert lines(flat(0, "m"))[-1] == (
        "  concept: too few masks with a known truth; shown as before"
    )


@pytest.mark.parametrize(
    ("count", "code", "reason"), [(0, 2, "has no catalogue"), (3, 3, "expected 20 or more")]
)
def test_without_enough_cases_the_reason_is_one_line(
    home: Home, count: int, code: int, reason: str
) -> None:
    if count:
        fill(home, count)
    result = CliRunner().invoke(main)
    assert result.exit_code == code
    assert reason in result.output
    assert len(result.output.splitlines()) == 1
    assert read_calibration(home, "small") is None


def test_a_function_that_runs_takes_a_new_calibration_up(home: Home) -> None:
    live = live_model(lambda message, fields: None)

    def shown() -> str:
        live.handler()
        live.settle()
        reply = live.handler().reply("interactor", request())
        (shape,) = json.loads(reply.body)["shapes"]
        return str(shape["attributes"][0]["value"])

    before = shown()
    write_calibration(home, flat(-1.0, "small"))
    assert shown() == "0.2689" != before
    write_calibration(home, flat(1.0, "small"))
    assert shown() == "0.7311"


def test_a_damaged_calibration_is_refused_and_the_model_serves_on(home: Home) -> None:
    said: list[dict[str, str]] = []
    live = live_model(lambda message, fields: said.append(fields))
    path = write_calibration(home, flat(1.0, "small"))
    path.write_text("{")
    live.handler()
    live.settle()
    assert live.handler().reply("interactor", request()).status == 200
    assert "is not a valid Calibration" in said[-1]["reason"]


def test_a_specialist_is_taken_up_without_a_restart_and_a_missing_one_refused(home: Home) -> None:
    said: list[dict[str, str]] = []
    live = live_model(lambda message, fields: said.append(fields))
    listed = Specialist(model_id="gone", vessel="RCA", primary_deg=(0, 60))
    write_specialists(home, Specialists(specialists=(listed,)))
    live.handler()
    live.settle()
    reply = live.handler().reply("interactor", request(VIEW))
    assert (reply.status, reply.headers["X-Model-Id"]) == (200, "small")
    assert "gone" in said[-1]["reason"]


def test_a_choice_is_named_by_its_model() -> None:
    assert str(Choice("round-02")) == "round-02"
    assert str(Choice(None)) == "the bare base"


def test_tracks_in_redis_need_a_tracker_that_can_leave_its_process(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANGIOLOOP_TRACKS", "redis://127.0.0.1:1/0")
    live = live_model(lambda message, fields: None)
    body = {**request(), "shapes": [{"type": "rectangle", "points": [10, 10, 90, 90]}]}
    del body["obj_bbox"]
    reply = live.handler().reply("tracker", body)
    assert reply.status == 503
    assert "Redis does not answer" in reply.body
    settings = (tmp_path / "conf" / "serving.yaml").read_text()
    (tmp_path / "conf" / "serving.yaml").write_text(f"{settings}tracker: memory\n")
    with pytest.raises(ConfigError, match=r"set tracker: follow in serving\.yaml"):
        live_model(lambda message, fields: None)
