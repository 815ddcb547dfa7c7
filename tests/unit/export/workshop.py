"""A small workspace of generated pictures, and a teacher that remembers its truths."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import jaxtyping
import numpy as np

from angio.dicom.write import XaHeader, write_xa
from casebook import masks
from casebook.annotations import AnnotationSetBuilder, Origin, write_annotations
from casebook.cases import Case, DeidRecord, FrameRef, Split
from casebook.catalogue import Catalogue, png_bytes
from casebook.documents import sha256_of, write_document
from casebook.home import Home
from casebook.labels import Label, LabelSet
from casebook.protocols import Embedding, Frame, Prediction, Prompt
from casebook.rounds import Manifest, ManifestCase, RoundFolder
from export.settings import DistilConfig, StudentGate
from export.student import StudentConfig
from segmenter.fit import TrainConfig

LABELS = LabelSet(
    name="tubes",
    labels=(
        Label(name="tube", role="segment", code=13),
        Label(name="narrowing", role="lesion"),
        Label(name="web", role="tree", aliases=("all tubes",)),
        Label(name="rejected", kind="tag", role="reject"),
    ),
)
SMALL = StudentConfig(side_px=64, whole_px=64, widths=(8, 8, 16, 16), blocks=(1, 1, 1, 1))
SIDE_PX = 160


@contextmanager
def unchecked() -> Iterator[None]:
    """Shape checks off: tracing calls every layer many times over."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@dataclass(frozen=True)
class Tube:
    """A dark bent tube with its masks."""

    pixels: np.ndarray
    stretch: np.ndarray
    web: np.ndarray


def draw_tube(seed: int, side: int = SIDE_PX) -> Tube:
    """A tube across the picture, noise, and the stretch in its middle third."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float64)
    middle = side / 2 + rng.uniform(-12, 12) + 14 * np.sin(columns / side * 5 + rng.uniform(0, 6))
    web = np.abs(rows - middle) <= 5.0
    stretch = web & (columns > side * 0.3) & (columns < side * 0.7)
    ground = 170 + 15 * np.sin(rows / 40 + rng.uniform(0, 6))
    values = ground - 80 * np.clip(6.0 - np.abs(rows - middle), 0, 1)
    values = values + rng.normal(0, 4, values.shape)
    return Tube(np.clip(values, 0, 255).astype(np.uint8), stretch, web)


@dataclass
class Rememberer:
    """A teacher that knows the truth of every picture it has been told of."""

    model_id: str = "rememberer"
    score: float = 0.9
    known: dict[str, Tube] = field(default_factory=dict)
    asked: int = 0

    def embed(self, frame: Frame) -> "Held":
        return Held(frame)

    def predict(self, embedding: Embedding, prompt: Prompt) -> tuple[Prediction, ...]:
        prompt.checked(embedding.frame.hw)
        self.asked += 1
        tube = self.known[embedding.frame.digest]
        if prompt.concept == "narrowing":
            return ()
        bitmap = tube.web if prompt.concept == "web" else tube.stretch
        logits = np.where(bitmap, np.float32(6), np.float32(-6))
        return (Prediction(bitmap, self.score, prompt.concept, logits),)


@dataclass(frozen=True)
class Held:
    """A frame."""

    frame: Frame


def _add_case(catalogue: Catalogue, name: str, split: Split, seeds: tuple[int, int]) -> Case:
    """A case of two frames: the annotated one and a neighbour."""
    pngs = [png_bytes(draw_tube(seed).pixels) for seed in seeds]
    case = Case(
        case_id=name,
        patient=f"p-{name}",
        split=split,
        source="images",
        frame=0,
        n_frames=2,
        stored_frames=(0, 1),
        height_px=SIDE_PX,
        width_px=SIDE_PX,
        image_sha256=sha256_of(pngs[0]),
        deid=DeidRecord(method="generated", pixel_text="not applicable"),
    )
    builder = AnnotationSetBuilder(LABELS)
    tube = draw_tube(seeds[0])
    image = builder.add_image(case.ref, (SIDE_PX, SIDE_PX), status="ok")
    builder.add_mask(image, "tube", masks.encode(tube.stretch), Origin.HUMAN)
    builder.add_mask(image, "web", masks.encode(tube.web), Origin.PSEUDO)
    catalogue.add(case, dict(enumerate(pngs)), annotations=builder.build())
    return case


def _entry(case: Case) -> ManifestCase:
    return ManifestCase(
        at=case.ref, patient=case.patient, split=case.split, image_sha256=case.image_sha256
    )


def make_home(root: Path, n_train: int = 4, n_val: int = 2) -> tuple[Home, Rememberer]:
    """A workspace whose round 1 is annotated, and a teacher that knows its pictures."""
    home, teacher = Home(root), Rememberer()
    catalogue = Catalogue(home)
    splits = [Split.TRAIN] * n_train + [Split.VAL] * n_val
    cases = []
    for number, split in enumerate(splits):
        seeds = (2 * number, 2 * number + 1)
        cases.append(_add_case(catalogue, f"case{number}", split, seeds))
        for seed in seeds:
            tube = draw_tube(seed)
            teacher.known[Frame(tube.pixels).digest] = tube
    train = [case for case in cases if case.split is Split.TRAIN]
    folder = RoundFolder(home, 1)
    manifest = Manifest(
        round=1,
        labels=LABELS,
        strategy="order",
        seed=0,
        cases=tuple(_entry(case) for case in train),
        val=tuple(_entry(case) for case in cases if case.split is Split.VAL),
        test=(),
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )
    write_document(folder.file("manifest.json"), manifest)
    builder = AnnotationSetBuilder(LABELS)
    for case in train:
        tube = draw_tube(2 * int(case.case_id.removeprefix("case")))
        image = builder.add_image(case.ref, (SIDE_PX, SIDE_PX), status="ok")
        builder.add_mask(image, "tube", masks.encode(tube.stretch), Origin.HUMAN)
        builder.add_mask(image, "web", masks.encode(tube.web), Origin.PSEUDO)
    refused = FrameRef(case_id="case0", frame=1)
    builder.add_image(refused, (SIDE_PX, SIDE_PX), status="rejected", reason="unusable frame")
    write_annotations(folder.file("annotations.coco.json"), builder.build())
    return home, teacher


def small_config(**changes: object) -> DistilConfig:
    """A distillation of a few steps whose gate asks for nothing but parity."""
    values: dict[str, object] = {
        "teacher_base": Path("nowhere"),
        "student": SMALL,
        "train": TrainConfig(steps=4, batch=2, lr=1e-3, checkpoint_every=2, log_every=1),
        "neighbours": 1,
        "whole_every": 2,
        "whole_batch": 1,
        "parity_frames": 2,
        "gate": StudentGate(iou_ratio=0.0, cldice_ratio=0.0, ds_worse_points=1e3, mld_worse_mm=1e3),
    }
    return DistilConfig.model_validate({**values, **changes})


def write_run(path: Path, seed: int = 0, *, frames: int = 5, black: bool = False) -> Path:
    """A short XA file whose middle frame shows the tube."""
    tube = draw_tube(seed)
    pixels = np.full((frames, SIDE_PX, SIDE_PX), 2500, dtype=np.uint16)
    pixels += np.random.default_rng(seed).integers(0, 40, pixels.shape, dtype=np.uint16)
    pixels[frames // 2] = tube.pixels.astype(np.uint16) * 14
    header = XaHeader(
        study_uid="2.25.1",
        series_uid="2.25.2",
        instance_uid=f"2.25.{100 + seed}",
        patient_name="GENERATED",
        patient_id="0",
        birth_date="19000101",
        sex="O",
        study_date="20260101",
        study_time="000000",
        accession="000000",
        institution="",
        physician="",
        station="",
        series_number=1,
        primary_deg=30.0,
        secondary_deg=-20.0,
        source_detector_mm=1000.0,
        source_patient_mm=750.0,
        imager_spacing_mm=0.4,
        frame_ms=66.0,
    )
    write_xa(path, header, np.zeros_like(pixels) if black else pixels, syntax="raw")
    return path
