"""The three deployed functions, imported as Nuclio does, over a small SAM 3 and a promotion."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import cvat_sdk.auto_annotation as cvataa
import nuclio_sdk
import numpy as np
import PIL.Image
import pytest
import torch
import yaml

from casebook import masks
from casebook.cases import View
from casebook.catalogue import png_bytes
from casebook.errors import ConfigError
from casebook.home import Home
from casebook.registry import ModelCard, Registry
from casebook.specialists import Specialist, Specialists, write_specialists
from demo.processor import Answer, Worker, event_of
from segmenter import adapter
from segmenter.fit import LoraConfig
from segmenter.sam3 import SMALLEST, build
from segmenter.weights import base_sha256, load_base, save_base
from serverless import auto_annotation
from tests.fakes.small_sam2 import save_small_sam2

ROOT = Path(__file__).resolve().parents[2]
PIXELS = np.full((96, 96), 170, dtype=np.uint8)
PIXELS[40:52, 10:80] = 50
IMAGE = base64.b64encode(png_bytes(PIXELS)).decode()


class Anything(cvataa.DetectionFunctionContext):
    """Any score, as masks."""

    frame_name = "case.f00001.png"
    conf_threshold = 0.0
    conv_mask_to_poly = False


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("conf") / "small-base"
    save_base(build(SMALLEST), folder)
    return folder


@pytest.fixture
def home(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    settings = {"labels": "labels.yaml", "base": str(base), "answers": {"threshold": 0.0}}
    labels = {"name": "two", "labels": [{"name": "mid RCA", "role": "segment"}, {"name": "PDA"}]}
    (tmp_path / "serving.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "labels.yaml").write_text(yaml.safe_dump(labels))
    monkeypatch.setenv("ANGIOLOOP_CONF", str(tmp_path))
    monkeypatch.setenv("ANGIOLOOP_HOME", str(tmp_path / "workspace"))
    monkeypatch.delenv("ANGIOLOOP_MODEL", raising=False)
    return Home.resolve()


def add_adapter(home: Home, base: Path, model_id: str) -> None:
    lora = LoraConfig(rank=2, alpha=4)
    model = load_base(base)
    adapter.inject(model, lora, "fresh")
    for parameter in adapter.trainable(model).values():
        parameter.data += 0.3 * torch.randn_like(parameter)
    registry = Registry(home)
    folder = registry.folder(model_id)
    adapter.save_adapter(model, "fresh", lora, folder, base_sha256=base_sha256(base))
    card = ModelCard(
        model_id=model_id,
        kind="teacher",
        architecture="SAM 3 (small) + LoRA r 2",
        created=datetime.now(UTC),
        n_params=1,
        licence="test",
    )
    registry.seal(card)


def ask(worker: Worker, **body: object) -> Answer:
    payload = json.dumps({"image": IMAGE, **body}).encode()
    headers = {"Content-Type": "application/json"}
    event: nuclio_sdk.Event = event_of("POST", "/", headers, payload, datetime.now(UTC))
    return worker.submit(event).result(300)


@pytest.mark.usefixtures("home")
def test_the_interactor_answers_a_box_and_then_clicks(base: Path) -> None:
    worker = Worker(ROOT / "serverless" / "interactor")
    for prompt in ({"obj_bbox": [[8, 36], [82, 56]]}, {"pos_points": [[45, 46], [20, 44]]}):
        answer = ask(worker, **prompt)
        assert answer.status == 200, answer.body
        assert dict(answer.headers)["X-Model-Id"] == base.name
        for shape in json.loads(answer.body)["shapes"]:
            assert masks.from_cvat(shape["points"], (96, 96)).any()


@pytest.mark.usefixtures("home", "base")
def test_the_detector_answers_a_list_of_the_labels_it_knows() -> None:
    answer = ask(Worker(ROOT / "serverless" / "detector"), threshold=0)
    assert answer.status == 200, answer.body
    assert {entry["label"] for entry in json.loads(answer.body)} <= {"mid RCA", "PDA"}


@pytest.mark.usefixtures("home", "base")
def test_the_tracker_follows_a_mask_and_knows_no_other_key() -> None:
    worker = Worker(ROOT / "serverless" / "tracker")
    shape = {"type": "mask", "points": masks.to_cvat(PIXELS < 100)}
    started = json.loads(ask(worker, shapes=[shape]).body)
    step = json.loads(ask(worker, shapes=[None], states=started["states"]).body)
    assert step["shapes"][0]["type"] == "mask"
    assert ask(worker, states=["another"]).status == 409


def test_a_promotion_is_served_and_a_damaged_one_refused(home: Home, base: Path) -> None:
    worker = Worker(ROOT / "serverless" / "interactor")
    add_adapter(home, base, "round-01")
    add_adapter(home, base, "round-02")
    Registry(home).promote("round-01", "test")

    def served() -> str:
        ask(worker, obj_bbox=[[8, 36], [82, 56]])
        worker.context.user_data.function.live.settle()
        answer = ask(worker, obj_bbox=[[8, 36], [82, 56]])
        assert answer.status == 200, answer.body
        return dict(answer.headers)["X-Model-Id"]

    assert served() == "round-01"
    prompt = {"obj_bbox": [[8, 36], [82, 56]], "pos_points": [[45, 46]]}
    assert len({ask(worker, **prompt).body for _ in range(4)}) == 1
    whole = (home.models / "round-02" / adapter.WEIGHTS).read_bytes()
    (home.models / "round-02" / adapter.WEIGHTS).write_bytes(whole[:1000])
    (home.models / "promoted").write_text("round-02\n")
    assert served() == "round-01"


def test_a_specialist_answers_for_its_view_and_the_generalist_for_the_rest(
    home: Home, base: Path
) -> None:
    add_adapter(home, base, "specialist-rca")
    listed = Specialist(model_id="specialist-rca", vessel="RCA", primary_deg=(20, 60))
    write_specialists(home, Specialists(specialists=(listed,)))
    worker = Worker(ROOT / "serverless" / "interactor")
    named = []
    for angle in (30.0, -30.0):
        view = View(primary_deg=angle, secondary_deg=0)
        image = base64.b64encode(png_bytes(PIXELS, view=view)).decode()
        answer = ask(worker, image=image, obj_bbox=[[8, 36], [82, 56]])
        assert answer.status == 200, answer.body
        named.append(dict(answer.headers)["X-Model-Id"])
    assert named == ["specialist-rca", base.name]


def test_over_a_shared_process_a_function_loads_no_model(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANGIOLOOP_SHARED", "http://127.0.0.1:1")
    monkeypatch.setenv("ANGIOLOOP_CONF", str(home.root / "nowhere"))
    answer = ask(Worker(ROOT / "serverless" / "interactor"), obj_bbox=[[8, 36], [82, 56]])
    assert answer.status == 503
    assert "start angioloop_model" in json.loads(answer.body)["error"]


def test_without_a_released_student_the_reason_is_given(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANGIOLOOP_MODEL", "student")
    answer = ask(Worker(ROOT / "serverless" / "interactor"), obj_bbox=[[8, 36], [82, 56]])
    assert answer.status == 503
    assert "make distil" in json.loads(answer.body)["error"]


def test_mains_are_short() -> None:
    found = sorted((ROOT / "serverless").glob("*/main.py"))
    assert [path.parent.name for path in found] == ["detector", "interactor", "tracker"]
    for path in found:
        assert len(path.read_text().splitlines()) < 40


@pytest.mark.usefixtures("home", "base")
def test_the_command_line_function_serves_the_same_model() -> None:
    found = auto_annotation.create()
    assert [label.name for label in found.spec.labels] == ["mid RCA", "PDA"]
    shapes = found.detect(Anything(), PIL.Image.fromarray(PIXELS))
    assert {shape.type.value for shape in shapes} <= {"mask"}


@pytest.mark.usefixtures("home")
def test_sam3s_own_memory_can_be_the_tracker(tmp_path: Path) -> None:
    settings = yaml.safe_load((tmp_path / "serving.yaml").read_text())
    (tmp_path / "serving.yaml").write_text(yaml.safe_dump({**settings, "tracker": "memory"}))
    worker = Worker(ROOT / "serverless" / "tracker")
    shape = {"type": "mask", "points": masks.to_cvat(PIXELS < 100)}
    started = json.loads(ask(worker, shapes=[shape]).body)
    assert json.loads(ask(worker, states=started["states"]).body)["shapes"][0]["type"] == "mask"


@pytest.mark.usefixtures("home")
def test_an_unknown_kind_of_model_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANGIOLOOP_MODEL", "oracle")
    with pytest.raises(ConfigError, match=r"'oracle'; expected teacher, student, or .*sam2"):
        Worker(ROOT / "serverless" / "interactor")


def test_a_segmenter_that_a_package_brings_is_served_by_its_name(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_small_sam2(home.models / "sam2")
    monkeypatch.setenv("ANGIOLOOP_MODEL", "sam2")
    answer = ask(Worker(ROOT / "serverless" / "interactor"), obj_bbox=[[8, 36], [82, 56]])
    assert answer.status == 200, answer.body
    assert dict(answer.headers)["X-Model-Id"] == "sam2"
    worker = Worker(ROOT / "serverless" / "tracker")
    shape = {"type": "mask", "points": masks.to_cvat(PIXELS < 100)}
    started = json.loads(ask(worker, shapes=[shape]).body)
    assert len(json.loads(ask(worker, states=started["states"]).body)["states"]) == 1


def test_without_its_weights_the_command_that_fetches_them_is_told(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not (home.models / "sam2").exists()
    monkeypatch.setenv("ANGIOLOOP_MODEL", "sam2")
    answer = ask(Worker(ROOT / "serverless" / "interactor"), obj_bbox=[[8, 36], [82, 56]])
    assert answer.status == 503
    assert "segmenter.sam2_weights" in json.loads(answer.body)["error"]
