"""An echo clip in the loop: stills with masks bootstrap, a person draws on the clip, round 2."""

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UltrasoundMultiFrameImageStorage

from angio.cli import main as casebook
from angio.dicom.write import write_xa
from angio.review import read_held
from casebook import masks
from casebook.annotations import Origin, read_annotations
from casebook.cases import FrameRef, Split
from casebook.catalogue import Catalogue
from casebook.documents import write_bytes
from casebook.errors import DataError
from casebook.home import Home
from casebook.rounds import RoundFolder
from cvat_sync.cli import main as cvatsync
from demo.services import secret, service
from tests.flow.domains import CONF, need_tiny_base, run, stop_workers, take_in, train, write_conf
from tests.unit.angio.test_dicom import HEADER

LABELS = CONF / "labels" / "echo.yaml"
HW = (128, 160)
N_FRAMES = 5
PATIENTS = ("E1", "E3")
KEY = b"00" * 32
"""A key for pseudonyms known to all, so that both patients of the clips train."""


def heart(seed: int, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """One frame of a beating left heart: its grey, and the codes of cavity, wall and atrium."""
    rng = np.random.default_rng([seed, frame])
    shift = np.random.default_rng(seed).uniform(-8, 8, 2)
    y, x = np.mgrid[: HW[0], : HW[1]].astype(float)
    squeeze = 1 - 0.06 * frame

    def inside(row: float, column: float, high: float, wide: float) -> np.ndarray:
        away = ((y - row - shift[0]) / high) ** 2 + ((x - column - shift[1]) / wide) ** 2
        return np.asarray(away < 1)

    codes = np.zeros(HW, dtype=np.uint8)
    codes[inside(52, 80, 34, 25)] = 2
    codes[inside(52, 80, 26 * squeeze, 17 * squeeze)] = 1
    codes[inside(101, 80, 12, 16)] = 3
    grey = np.select([codes == 2, codes > 0], [120.0, 30.0], 70.0) + rng.normal(0, 5, HW)
    return np.clip(grey, 0, 255).astype(np.uint8), codes


def write_clip(path: Path, seed: int, patient: str) -> None:
    """A multi-frame ultrasound file, calibrated by its region."""
    header = replace(HEADER, instance_uid=f"2.25.{seed}", patient_id=patient)
    clip = np.stack([heart(seed, frame)[0] for frame in range(N_FRAMES)])
    write_xa(path, header, clip.astype(np.uint16), syntax="raw")
    ds = dcmread(path)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    ds.Modality = "US"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = clip.tobytes()
    ds["PixelData"].VR = "OB"
    region = Dataset()
    region.RegionSpatialFormat = region.RegionDataType = 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = region.PhysicalDeltaY = 0.045
    ds.SequenceOfUltrasoundRegions = Sequence([region])
    ds.save_as(path)


def take_in_clips(home: Home, folder: Path) -> None:
    """Import clips; what is held as possible text is ruled on, as by a person who looks at it."""
    command = ["import", "dicom", str(folder), "--neighbours", "9", "--home", str(home.root)]
    told = CliRunner().invoke(casebook, command)
    assert told.exit_code in {0, DataError.exit_code}, told.output
    for held in read_held(home):
        ruling = ("rule", held.held_id, "--clean", "--reason", "speckle: nobody wrote on it")
        run(casebook, "deid", *ruling, "--home", home.root)
    run(casebook, *command)


def write_stills(folder: Path) -> None:
    """Single frames with their masks, by split."""
    for number, split in enumerate(("train", "train", "train", "val", "val", "test", "test")):
        grey, codes = heart(10 + number, 0)
        for kind, values in (("images", grey), ("masks", codes)):
            place = folder / kind / split
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(place / f"still{number}.png")


def call(url: str, token: str, method: str, path: str, body: object = None) -> Any:
    """One REST call, as the web page makes it."""
    request = urllib.request.Request(  # noqa: S310 - a server of ours
        f"{url}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        payload = answer.read()
    return json.loads(payload) if payload else None


def draw_by_hand(url: str, token: str, seeds: dict[str, int]) -> int:
    """Replace every job's shapes by true masks and complete it; the number of masks drawn."""
    codes_of = {1: "left ventricle", 2: "myocardium", 3: "left atrium"}
    drawn = 0
    for job in call(url, token, "GET", "/api/jobs?page_size=100")["results"]:
        labels = call(url, token, "GET", f"/api/labels?job_id={job['id']}&page_size=100")
        ids = {label["name"]: label["id"] for label in labels["results"]}
        meta = call(url, token, "GET", f"/api/jobs/{job['id']}/data/meta")
        shapes = []
        for offset, entry in enumerate(meta["frames"]):
            at = FrameRef.from_file_name(entry["name"])
            assert at is not None
            _, codes = heart(seeds[at.case_id], at.frame)
            for code, name in codes_of.items():
                shapes.append(
                    {
                        "type": "mask",
                        "frame": job["start_frame"] + offset,
                        "label_id": ids[name],
                        "points": masks.to_cvat(codes == code),
                        "occluded": False,
                        "source": "manual",
                        "attributes": [],
                    }
                )
        body = {"version": 0, "tags": [], "shapes": shapes, "tracks": []}
        call(url, token, "PUT", f"/api/jobs/{job['id']}/annotations", body)
        state = {"stage": "acceptance", "state": "completed"}
        call(url, token, "PATCH", f"/api/jobs/{job['id']}", state)
        drawn += len(shapes)
    return drawn


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    need_tiny_base()
    place = Home(tmp_path / "workspace")
    write_bytes(place.private / "key", KEY, mode=0o600)
    yield place
    stop_workers(place)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_an_echo_clip_walks_through_two_rounds(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stills(tmp_path / "stills")
    take_in(home, "images", tmp_path / "stills", "--labels", LABELS, "--ruled-clean")
    (tmp_path / "clips").mkdir()
    for number, patient in enumerate(PATIENTS):
        write_clip(tmp_path / "clips" / f"clip{number}.dcm", 20 + number, patient)
    take_in_clips(home, tmp_path / "clips")
    catalogue = Catalogue(home)
    clips = [case for case in catalogue.cases(split=Split.TRAIN) if case.source == "dicom"]
    assert len(clips) == len(PATIENTS)
    assert all(case.stored_frames == tuple(range(N_FRAMES)) for case in clips)
    assert all(case.spacing is not None for case in clips)
    conf = write_conf(tmp_path / "conf", LABELS)
    train(home, conf, 1)

    seeds = {}
    for case in clips:
        shown = catalogue.frame(case.ref).pixels.astype(float)
        likeness = [
            np.corrcoef(shown.ravel(), heart(20 + number, case.frame)[0].ravel())[0, 1]
            for number in range(len(PATIENTS))
        ]
        seeds[case.case_id] = 20 + int(np.argmax(likeness))
    token = secret(tmp_path / "token")
    arguments = ["demo.standin", "--data", str(tmp_path / "cvat")]
    env = {"ANGIOLOOP_STANDIN_TOKEN": token}
    with service("cvat", arguments, tmp_path / "services", env) as port:
        url = f"http://127.0.0.1:{port}"
        monkeypatch.setenv("ANGIOLOOP_CVAT_URL", url)
        monkeypatch.setenv("ANGIOLOOP_CVAT_TOKEN", token)
        chosen = ("--round", "2", "--home", home.root, "--conf", conf)
        run(cvatsync, "push", *chosen)
        assert draw_by_hand(url, token, seeds) == 3 * len(PATIENTS)
        run(cvatsync, "pull", *chosen)
        folder = RoundFolder(home, 2)
        pulled = read_annotations(folder.file("annotations.coco.json"))
        assert {image.case_id for image in pulled.images} == {case.case_id for case in clips}
        assert {entry.origin for entry in pulled.annotations} == {Origin.HUMAN}
        run(cvatsync, "propagate", *chosen)
    tracked = read_annotations(folder.file("tracked.coco.json"))
    assert {image.frame for image in tracked.images} <= set(range(N_FRAMES)) - {clips[0].frame}
    found = train(home, conf, 2)
    assert found.candidate.model_id != found.incumbent.model_id
