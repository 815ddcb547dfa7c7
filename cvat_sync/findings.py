"""What is worth a second thought in finished masks: pieces, specks, disagreement, no measurement.

Pure: from annotations to findings. Knows no server.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from angio import qca
from casebook import masks
from casebook.annotations import AnnotationSet, CocoAnnotation, CocoImage
from casebook.cases import FrameRef
from casebook.corrections import Corrections, MaskChange
from casebook.documents import Document, sha256_of
from casebook.errors import QcaError
from casebook.labels import LabelSet
from casebook.protocols import Frame
from cvat_sync.marks import KEY_DIGITS
from cvat_sync.settings import QualityConfig

_EIGHT = np.ones((3, 3), dtype=bool)
"""Pixels that touch at a corner belong together: a thin vessel is often diagonal."""

Kind = Literal["pieces", "specks", "disagrees", "misses", "cannot be measured", "second look"]
Frames = Callable[[FrameRef], Frame]


class QualityFinding(Document):
    """One thing to look at again, on one frame."""

    file_name: str
    label: str
    kind: Kind
    text: str
    """What was found, and what to do."""
    box_xyxy: tuple[int, int, int, int]
    """Where, in px, inclusive."""

    @property
    def key(self) -> str:
        """Identity: the same kind of finding about the same label of a frame is told once."""
        whole = f"{self.file_name}|{self.label}|{self.kind}"
        return sha256_of(whole.encode())[:KEY_DIGITS]


def findings(
    annotations: AnnotationSet,
    corrections: Corrections,
    labels: LabelSet,
    frames: Frames,
    config: QualityConfig,
) -> tuple[QualityFinding, ...]:
    """All findings of the reviewed frames, by frame; one of a kind for each label.

    Args:
        annotations: What the experts left.
        corrections: How it differs from the proposals.
        labels: The round's labels.
        frames: The pixels of a frame, asked for only where something is measured.
        config: What counts as a finding.
    """
    changes: dict[str, list[MaskChange]] = {}
    for change in corrections.changes:
        changes.setdefault(change.at.file_name, []).append(change)
    found: dict[str, QualityFinding] = {}
    for image in annotations.images:
        if image.status not in {"ok", "corrected"}:
            continue
        entries = annotations.of_image(image.id)
        for one in _of_image(image, entries, annotations, labels, frames, config):
            found.setdefault(one.key, one)
        for one in _of_changes(image, changes.get(image.file_name, []), config):
            found.setdefault(one.key, one)
    return tuple(found.values())


def _of_image(
    image: CocoImage,
    entries: tuple[CocoAnnotation, ...],
    annotations: AnnotationSet,
    labels: LabelSet,
    frames: Frames,
    config: QualityConfig,
) -> Iterator[QualityFinding]:
    segments = {label.name for label in labels.of_role("segment")}
    frame = None
    for entry in entries:
        label, bitmap = annotations.label_of(entry), masks.decode(entry.mask)
        yield from _pieces(image, label, bitmap, config)
        if config.measure and label in segments:
            frame = frame or frames(image.ref)
            try:
                qca.measure(frame.pixels, bitmap, frame.spacing)
            except QcaError as problem:
                text = f"{label} cannot be measured: {problem}"
                yield _finding(image, label, "cannot be measured", text, bitmap)


def _pieces(
    image: CocoImage, label: str, bitmap: Bool[np.ndarray, "h w"], config: QualityConfig
) -> Iterator[QualityFinding]:
    numbered, count = ndimage.label(bitmap, structure=_EIGHT)
    sizes = np.bincount(numbered.ravel())[1:]
    specks = np.flatnonzero(sizes < config.min_piece_px) + 1
    if len(specks) and len(specks) < count:
        text = (
            f"{label} has {len(specks)} specks of fewer than {config.min_piece_px} px; "
            "erase them if they were not meant"
        )
        yield _finding(image, label, "specks", text, np.isin(numbered, specks))
    pieces = count - (len(specks) if len(specks) < count else 0)
    if pieces > config.max_pieces:
        sized = ", ".join(f"{size} px" for size in sorted(map(int, sizes), reverse=True)[:4])
        text = (
            f"{label} is in {pieces} pieces ({sized}); expected {config.max_pieces}. "
            "Join them, or leave it if the vessel is hidden in between"
        )
        yield _finding(image, label, "pieces", text, bitmap)


def _of_changes(
    image: CocoImage, changes: list[MaskChange], config: QualityConfig
) -> Iterator[QualityFinding]:
    whole = (0, 0, image.width - 1, image.height - 1)
    for change in changes:
        who = change.model_id or "the model"
        if change.outcome == "refined" and (change.iou or 0.0) < config.min_iou:
            text = (
                f"{change.label} agrees with the proposal of {who} at IoU {change.iou or 0.0:.2f} "
                f"only (limit {config.min_iou:.2f}); look again which is right"
            )
            yield QualityFinding(
                file_name=image.file_name,
                label=change.label,
                kind="disagrees",
                text=text,
                box_xyxy=whole,
            )
        elif change.outcome == "deleted":
            text = f"{who} proposed a {change.label} here that was deleted; look again for it"
            yield QualityFinding(
                file_name=image.file_name,
                label=change.label,
                kind="misses",
                text=text,
                box_xyxy=whole,
            )


def _finding(
    image: CocoImage, label: str, kind: Kind, text: str, bitmap: Bool[np.ndarray, "h w"]
) -> QualityFinding:
    return QualityFinding(
        file_name=image.file_name,
        label=label,
        kind=kind,
        text=text,
        box_xyxy=masks.box_of(bitmap),
    )
