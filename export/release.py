"""From a taught student to a bundle: ONNX graphs, gates, card, manifest. Training side only."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from casebook.catalogue import Catalogue
from casebook.documents import sha256_of_file, write_document
from casebook.labels import LabelSet
from casebook.metrics import dice
from casebook.protocols import Frame, Prompt, Segmenter
from casebook.registry import ModelCard, Registry
from export import estimator, namer, windows
from export.answers import StudentSegmenter
from export.bundle import MANIFEST, AutomaticMap, Bundle, WindowRule
from export.comparison import BoxScores, box_scores, gates_of
from export.estimator_fit import learn
from export.exercises import Exercises, map_labels
from export.gates import Gates
from export.namer_fit import fit_names
from export.onnx import OPSET, export_student
from export.parity import TorchGraphs, compare
from export.runtime import load_graphs
from export.settings import StudentGate
from export.student import Student
from export.student_base import FILE
from export.syllabus import Page

_CALIBRATION_FRAMES = 24
_CUTS = np.linspace(-3.0, 2.0, 21)
"""Logits a map may be cut at."""


@dataclass(frozen=True)
class Teaching:
    """Who taught: asked again on the frozen frames, for the ratio."""

    model: Segmenter
    n_params: int


def automatic_maps(labels: LabelSet) -> tuple[AutomaticMap, ...]:
    """The automatic head's maps for a label set."""
    return tuple(
        AutomaticMap(label=label, role="tree" if role == "tree" else "lesion")
        for label, role in map_labels(labels)
    )


def calibrated(
    student: Student, exercises: Exercises, maps: tuple[AutomaticMap, ...]
) -> tuple[AutomaticMap, ...]:
    """The automatic maps, each cut where it overlaps best with what was taught.

    Only training frames are used; a map nobody drew keeps the logit 0.
    """
    side = student.config.whole_px
    logits, truth, known = [], [], []
    step = max(1, len(exercises.whole) // _CALIBRATION_FRAMES)
    with torch.inference_mode():
        for index in range(0, len(exercises.whole), step):
            square = torch.from_numpy(exercises.whole[index]).float().view(1, 1, side, side)
            logits.append(student.automatic(student.encoder(square))[0].numpy())
            truth.append(exercises.whole_truth[index] > 127)
            known.append(exercises.whole_weights[index, :, 0] > 0)
    found = []
    for number, one in enumerate(maps):
        shown = [at for at in range(len(logits)) if known[at][number]]
        if not shown:
            found.append(one)
            continue
        scores = [
            np.mean([dice(logits[at][number] > cut, truth[at][number]) for at in shown])
            for cut in _CUTS
        ]
        found.append(one.with_(threshold=float(_CUTS[int(np.argmax(scores))])))
    return tuple(found)


def as_segmenter(student: Student, model_id: str, labels: LabelSet) -> StudentSegmenter:
    """The student in torch, asked as every model is."""
    return StudentSegmenter(
        model_id,
        TorchGraphs(student.eval()),
        student.config.side_px,
        student.config.whole_px,
        labels,
        automatic_maps(labels),
    )


def parity_prompts(
    catalogue: Catalogue, pages: tuple[Page, ...], count: int
) -> list[tuple[Frame, Prompt]]:
    """Frames of the case book with a box each, to compare runtimes on."""
    asked: list[tuple[Frame, Prompt]] = []
    for page in pages:
        boxes = page.prompted_boxes or page.boxes
        if boxes and len(asked) < count:
            asked.append((catalogue.frame(page.ref), Prompt(box_xyxy=boxes[0])))
    return asked


def figures_of(gates: Gates) -> dict[str, float]:
    """The gates' figures by the names cards and benches use."""
    named = {
        "iou_student": gates.iou_student,
        "iou_teacher": gates.iou_teacher,
        "iou_ratio_vs_teacher": gates.iou_ratio,
        "iou_without_teacher": gates.iou_without_teacher,
        "cldice_ratio_vs_teacher": gates.cldice_ratio,
        "parity_max_abs": gates.max_abs,
        "mask_iou_vs_torch": gates.mask_iou,
    }
    named |= {f"learnt_{one.figure}_error": one.error for one in gates.learnt if one.is_shipped}
    return {name: value for name, value in named.items() if value is not None}


def write_bundle(
    registry: Registry,
    student: Student,
    card: ModelCard,
    labels: LabelSet,
    maps: tuple[AutomaticMap, ...],
    pages: tuple[Page, ...],
    val: tuple[Page, ...],
    teaching: Teaching,
    gate: StudentGate,
    parity_frames: int,
    without_teacher: BoxScores | None = None,
) -> Bundle:
    """Export a student, measure it as it will run, and write its bundle; the manifest comes last.

    Args:
        registry: the torch weights go to its `models/<id>/`, the bundle to `models/released/<id>/`.
        student: taught.
        card: who it is; figures are added.
        labels: what may be annotated.
        maps: the automatic head's maps with their thresholds.
        pages: frames the runtimes are compared on where there is no frozen one.
        val: frozen frames the student is compared with its teacher on.
        teaching: the teacher.
        gate: what is asked; kept in the manifest, judged by the caller.
        parity_frames: how many frames the runtimes are compared on.
        without_teacher: what a student taught without one reaches on the frozen frames.
    """
    home = registry.home
    folder: Path = home.models / "released" / card.model_id
    folder.mkdir(parents=True, exist_ok=True)
    graphs = export_student(student, folder)
    in_torch = replace(as_segmenter(student, card.model_id, labels), maps=maps)
    runtime = load_graphs(folder)
    catalogue = Catalogue(home)
    parity = compare(in_torch, runtime, parity_prompts(catalogue, val or pages, parity_frames))
    shipped = StudentSegmenter(
        card.model_id, runtime, in_torch.side_px, in_torch.whole_px, labels, maps
    )
    gates = gates_of(
        parity,
        box_scores(shipped, catalogue, val),
        box_scores(teaching.model, catalogue, val),
        gate,
        n_params=student.n_params,
        teacher_n_params=teaching.n_params,
        without_teacher=without_teacher,
    )
    names = fit_names(shipped, catalogue, pages, val, labels)
    known, judged = learn(shipped, teaching.model, catalogue, pages, val, gate.qca_lesions)
    gates = gates.with_(learnt=judged)
    files = [graph.file for graph in graphs]
    for name, document in ((namer.FILE, names), (estimator.FILE, known)):
        (folder / name).unlink(missing_ok=True)
        if document is not None:
            write_document(folder / name, document)
            files.append(name)
    payload = save(student.state_dict(), {"config": student.config.model_dump_json()})
    named = names.figures if names else {}
    measured = card.with_(figures={**card.figures, **figures_of(gates), **named})
    sealed = registry.add(measured, {FILE: payload})
    bundle = Bundle(
        version=card.model_id,
        created=card.created,
        opset=OPSET,
        graphs=graphs,
        side_px=student.config.side_px,
        whole_px=student.config.whole_px,
        window=WindowRule(
            box_margin=windows.BOX_MARGIN,
            smallest_px=windows.SMALLEST_PX,
            click_px=windows.CLICK_PX,
            step_px=windows.STEP_PX,
        ),
        labels=labels,
        maps=maps,
        card=sealed,
        gates=gates,
        files={file: sha256_of_file(folder / file) for file in files},
        licence=card.licence,
    )
    write_document(folder / MANIFEST, bundle)
    return bundle
