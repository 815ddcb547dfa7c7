"""The tables of a run: QCA as CSV and JSON, all masks as COCO.

Written record by record, so that ten thousand files need no more memory than one.
"""

import csv
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pydantic import BaseModel, Field

from casebook import masks
from casebook.annotations import AnnotationSet, AnnotationSetBuilder, Origin
from casebook.cases import FrameRef
from casebook.documents import Document
from casebook.labels import LabelSet
from export.findings import FrameResult, VesselResult
from export.infer import Analysis
from export.records import FileProblem, FileRecord

COLUMNS = (
    "file",
    "frame",
    "vessel",
    "coronary",
    "artery",
    "label",
    "cass",
    "label_source",
    "label_score",
    "prompt",
    "score",
    "mld",
    "rvd",
    "length",
    "unit",
    "spacing_source",
    "stenosis_pct",
    "stenosis_pct_learnt",
    "mld_learnt",
    "rvd_learnt",
    "problem",
)
Records = Callable[[], Iterable[FileRecord]]
"""The records of a run, from the first on each time it is asked."""


class InferReport(Document):
    """What a run did."""

    model_id: str
    bundle: str
    providers: tuple[str, ...]
    """Of the ONNX runtime, in the order in which it asks them."""
    threads: int
    """Of the CPU."""
    results: tuple[FrameResult, ...] = ()
    problems: tuple[FileProblem, ...] = ()
    seconds: float = Field(default=0.0, ge=0)
    intended_use: str = "Research use; not a medical device."


def drawn_masks(analysis: Analysis, labels: LabelSet, model_id: str) -> AnnotationSet:
    """One file's masks, as proposals nobody has reviewed."""
    result = analysis.result
    lesions, trees = labels.of_role("lesion"), labels.of_role("tree")
    builder = AnnotationSetBuilder(labels, {"model": model_id})
    at = FrameRef(case_id=result.case_id, frame=result.frame)
    image = builder.add_image(at, (result.height_px, result.width_px))
    drawn = []
    if analysis.tree is not None and trees:
        drawn.append((trees[0].name, analysis.tree, result.tree_score or 0.0, "concept"))
    for vessel, bitmap in zip(result.vessels, analysis.vessels, strict=True):
        name = vessel.label or (lesions or labels.masks)[0].name
        drawn.append((name, bitmap, vessel.score, vessel.prompt))
    for label, bitmap, score, source in drawn:
        if bitmap.any():
            builder.add_mask(
                image,
                label,
                masks.encode(bitmap),
                Origin.MODEL,
                model_id=model_id,
                score=score,
                prompt_source=source,
            )
    return builder.build()


def _row(result: FrameResult, vessel: VesselResult) -> dict[str, str]:
    row = dict.fromkeys(COLUMNS, "")
    row |= {
        "file": result.file,
        "frame": str(result.frame),
        "vessel": str(vessel.number),
        "coronary": result.coronary or "",
        "artery": vessel.artery or "",
        "label": vessel.label or "",
        "label_source": vessel.label_source or "",
        "label_score": "" if vessel.label_score is None else f"{vessel.label_score:.3f}",
        "cass": "" if vessel.cass is None else str(vessel.cass),
        "prompt": vessel.prompt,
        "score": f"{vessel.score:.3f}",
        "problem": vessel.problem or "",
    }
    row |= _learnt(result, vessel)
    lesion = vessel.lesion
    if lesion is None:
        return row
    in_mm = lesion.mld_mm is not None and lesion.rvd_mm is not None and lesion.length_mm is not None
    lengths = (
        (lesion.mld_mm, lesion.rvd_mm, lesion.length_mm)
        if in_mm
        else (lesion.mld_px, lesion.rvd_px, lesion.length_px)
    )
    for name, value in zip(("mld", "rvd", "length"), lengths, strict=True):
        row[name] = f"{value:.3f}"
    row["unit"] = "mm" if in_mm else "px"
    row["spacing_source"] = lesion.spacing.source if in_mm and lesion.spacing else ""
    row["stenosis_pct"] = f"{lesion.stenosis_pct:.1f}"
    return row


def _learnt(result: FrameResult, vessel: VesselResult) -> dict[str, str]:
    """What was learnt of such lesions says, with the unit of its diameters."""
    learnt, spacing = vessel.learnt, result.spacing
    if learnt is None:
        return {}
    diameters = (learnt.mld_mm, learnt.rvd_mm) if spacing else (learnt.mld_px, learnt.rvd_px)
    row = {
        name: f"{value:.3f}"
        for name, value in zip(("mld_learnt", "rvd_learnt"), diameters, strict=True)
        if value is not None
    }
    if row:
        row["unit"] = "mm" if spacing else "px"
        row["spacing_source"] = spacing.source if spacing else ""
    if learnt.stenosis_pct is not None:
        row["stenosis_pct_learnt"] = f"{learnt.stenosis_pct:.1f}"
    return row


def _tame(text: str) -> str:
    """A cell no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file that appears when the block ends well, and not before."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_csv(records: Records, folder: Path) -> None:
    """The QCA table, qca.csv."""
    with whole_file(folder / "qca.csv") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for result in (one.result for one in records() if one.result):
            for vessel in result.vessels:
                row = _row(result, vessel)
                writer.writerow(row | {"file": _tame(row["file"])})


def write_report(report: InferReport, records: Records, folder: Path) -> None:
    """Everything but the masks, qca.json; `report` has neither results nor problems yet."""
    with whole_file(folder / "qca.json") as stream:
        stream.write('{"results": ')
        _write_list(stream, (one.result for one in records() if one.result))
        stream.write(', "problems": ')
        _write_list(stream, (one.problem for one in records() if one.problem))
        rest = report.model_dump_json(exclude={"results", "problems"}, indent=1)
        stream.write(f",{rest.removeprefix('{')}\n")


def write_coco(labels: LabelSet, model_id: str, records: Records, folder: Path) -> None:
    """The masks of all files, annotations.coco.json, numbered from 1 on."""
    head = AnnotationSetBuilder(labels, {"model": model_id}).build()
    with whole_file(folder / "annotations.coco.json") as stream:
        stream.write('{"images": ')
        sets = (one.masks for one in records() if one.masks)
        _write_list(
            stream,
            (
                image.model_copy(update={"id": number})
                for number, drawn in enumerate(sets, start=1)
                for image in drawn.images
            ),
        )
        stream.write(', "annotations": ')
        _write_list(stream, _numbered(records))
        rest = head.model_dump_json(exclude={"images", "annotations"}, indent=1)
        stream.write(f",{rest.removeprefix('{')}\n")


def _numbered(records: Records) -> Iterator[BaseModel]:
    number = 0
    for image, drawn in enumerate((one.masks for one in records() if one.masks), start=1):
        for annotation in drawn.annotations:
            number += 1
            yield annotation.model_copy(update={"id": number, "image_id": image})


def _write_list(stream: TextIO, documents: Iterable[BaseModel]) -> None:
    stream.write("[")
    for position, document in enumerate(documents):
        stream.write(",\n" if position else "\n")
        stream.write(document.model_dump_json())
    stream.write("]")
