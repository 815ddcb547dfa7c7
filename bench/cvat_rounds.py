"""What bench/cvat.py works on: a stand-in CVAT, rounds of any size, our push and the SDK's loop."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from cvat_sdk import models
from cvat_sdk.core.client import AccessTokenCredentials, Client, Config
from cvat_sdk.masks import encode_mask
from jaxtyping import Bool

from casebook import masks
from casebook.annotations import (
    AnnotationSetBuilder,
    CocoAnnotation,
    Origin,
    read_annotations,
    write_annotations,
)
from casebook.cases import Case, DeidRecord, Split
from casebook.catalogue import Catalogue, png_bytes
from casebook.documents import sha256_of, write_document
from casebook.home import Home
from casebook.labels import Label, LabelSet
from casebook.rounds import Manifest, ManifestCase, RoundFolder
from cvat_sync.gateway import CvatGateway, retrying
from cvat_sync.plan import PushPlan, plan_push
from cvat_sync.proposals import Proposals
from cvat_sync.push import push
from cvat_sync.pushed import Pushed
from cvat_sync.settings import Access, ExchangeConfig
from cvat_sync.work import read_work

TOKEN = "token-of-the-bench"  # noqa: S105 - of a server that lives as long as the bench
LATENCY_MS = 20
LABELS = LabelSet(
    name="bench vessels",
    labels=(
        Label(name="LAD", role="segment"),
        Label(name="RCA", role="segment"),
        Label(name="rejected", kind="tag", role="reject"),
    ),
)
DEID = DeidRecord(method="synthetic", pixel_text="not applicable")


@contextmanager
def server(*options: str) -> Iterator[Access]:
    """A stand-in CVAT of its own, with the latency the figures are given for."""
    with tempfile.TemporaryDirectory(prefix="bench-cvat-") as folder:
        port = Path(folder) / "port"
        command = [sys.executable, "-m", "demo.standin", "--port", "0", "--data", folder]
        command += ["--port-file", str(port), "--token", TOKEN, "--latency-ms", str(LATENCY_MS)]
        process = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 120
            while not port.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the stand-in did not start")
                time.sleep(0.05)
            yield Access(url=f"http://127.0.0.1:{port.read_text().strip()}", token=TOKEN)
        finally:
            process.terminate()
            process.wait(timeout=120)


def vessels(count: int, side: int) -> list[Bool[np.ndarray, "h w"]]:
    """Masks shaped like vessel segments: thick curves, of a size that follows the image's."""
    generator = np.random.default_rng(1)
    rows, columns = np.mgrid[0:side, 0:side]
    found = []
    for _ in range(count):
        start, stop = generator.uniform(side / 8, side * 7 / 8, size=(2, 2))
        radius = max(1.5, generator.uniform(2, 6) * side / 512)
        bitmap = np.zeros((side, side), dtype=bool)
        for x, y in start + (stop - start) * np.linspace(0, 1, 60)[:, None]:
            bitmap |= (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
        found.append(bitmap)
    return found


def make_round(root: Path, n_frames: int, side: int) -> RoundFolder:
    """A round of frames with noise, each with two proposed vessels."""
    home, generator = Home(root), np.random.default_rng(7)
    drawn = [masks.encode(bitmap) for bitmap in vessels(40, side)]
    catalogue, cases = Catalogue(home), []
    builder = AnnotationSetBuilder(LABELS)
    for number in range(n_frames):
        pixels = generator.integers(0, 64, (side, side), dtype=np.uint8) + np.uint8(number % 128)
        payload = png_bytes(pixels)
        case = Case(
            case_id=f"case-{number:05d}",
            patient=f"patient-{number:05d}",
            split=Split.TRAIN,
            source="images",
            frame=0,
            n_frames=1,
            stored_frames=(0,),
            height_px=side,
            width_px=side,
            image_sha256=sha256_of(payload),
            deid=DEID,
        )
        catalogue.add(case, {0: payload})
        entry = ManifestCase(
            at=case.ref, patient=case.patient, split=case.split, image_sha256=case.image_sha256
        )
        cases.append(entry)
        image = builder.add_image(case.ref, (side, side))
        for i, label in enumerate(("LAD", "RCA")):
            mask = drawn[(2 * number + i) % len(drawn)]
            builder.add_mask(image, label, mask, Origin.MODEL, model_id="bench", score=0.8)
    folder = RoundFolder(home, 2)
    manifest = Manifest(
        round=2,
        labels=LABELS,
        strategy="order",
        seed=1,
        cases=tuple(cases),
        val=(),
        test=(),
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )
    write_document(folder.file("manifest.json"), manifest)
    write_annotations(folder.file("proposals.coco.json"), builder.build())
    return folder


def proposed(folder: RoundFolder) -> Proposals:
    """The round's proposals."""
    return Proposals(folder.file("proposals.coco.json"))


def planned(folder: RoundFolder, proposals: Proposals, per_task: int, per_job: int = 5) -> PushPlan:
    """The plan of a push into a project of the workspace's own."""
    config = ExchangeConfig(
        project=folder.home.root.name, frames_per_task=per_task, frames_per_job=per_job
    )
    return plan_push(read_work(folder), folder.manifest_sha256(), proposals, config)


def push_ours(folder: RoundFolder, access: Access, per_task: int) -> Pushed:
    """Our push, as the command does it."""
    proposals = proposed(folder)
    plan = planned(folder, proposals, per_task)
    with CvatGateway(access) as gateway:
        return push(
            folder,
            plan,
            read_work(folder),
            proposals,
            gateway,
            url=access.url,
            retrying=retrying,
            parallel=ExchangeConfig().parallel,
        )


def push_plainly(folder: RoundFolder, access: Access, per_task: int, period_s: float) -> None:
    """The same frames and masks by a loop over the SDK."""
    config = Config(status_check_period=period_s)
    with Client(access.url, config=config, check_server_version=False) as client:
        client.login(AccessTokenCredentials(str(access.token)))
        attributes = [
            models.AttributeRequest(
                name="model_id", mutable=True, input_type="text", values=[""], default_value=""
            )
        ]
        wanted = [
            models.PatchedLabelRequest(name=name, type="mask", attributes=attributes)
            for name in ("LAD", "RCA")
        ]
        project = client.projects.create(models.ProjectWriteRequest(name="plain", labels=wanted))
        labels = {label.name: label for label in project.get_labels()}
        catalogue, coco = (
            Catalogue(folder.home),
            read_annotations(folder.file("proposals.coco.json")),
        )
        by_image: dict[int, list[CocoAnnotation]] = {}
        for entry in coco.annotations:
            by_image.setdefault(entry.image_id, []).append(entry)
        for start in range(0, len(coco.images), per_task):
            images = coco.images[start : start + per_task]
            files = _flat(folder, catalogue, [image.file_name for image in images])
            spec = models.TaskWriteRequest(
                name=f"plain {start}", project_id=project.id, segment_size=5
            )
            params = {"image_quality": 100, "sorting_method": "lexicographical"}
            task = client.tasks.create_from_data(spec, files, data_params=params)
            shapes = [
                models.LabeledShapeRequest(
                    type="mask",
                    frame=frame,
                    label_id=labels[coco.label_of(entry)].id,
                    points=[float(value) for value in encode_mask(masks.decode(entry.mask))],
                    source="auto",
                    score=entry.score,
                    attributes=[
                        models.AttributeValRequest(
                            spec_id=labels[coco.label_of(entry)].attributes[0].id,
                            value=str(entry.model_id),
                        )
                    ],
                )
                for frame, image in enumerate(images)
                for entry in by_image[image.id]
            ]
            task.set_annotations(models.LabeledDataRequest(shapes=shapes))


def _flat(folder: RoundFolder, catalogue: Catalogue, names: list[str]) -> list[Path]:
    """The frames under flat names, as the SDK needs them."""
    place = folder.home.root / "flat"
    place.mkdir(exist_ok=True)
    for name in names:
        if not (place / name).exists():
            os.link(catalogue.folder(name.partition(".")[0]) / "00000.png", place / name)
    return [place / name for name in names]
