"""Our annotations as CVAT's shapes. Knows provenance and masks; knows no server."""

from collections.abc import Sequence

from casebook import masks
from casebook.annotations import CocoAnnotation, Origin
from cvat_sync.remote import CONFIDENCE, MODEL_ID, RemoteLabel, RemoteShape

_BY_HAND = frozenset({Origin.HUMAN, Origin.HUMAN_BOX})


def points_of(entry: CocoAnnotation) -> Sequence[int]:
    """An annotation's mask as CVAT's points: what takes time of a shape."""
    return masks.cvat_points(entry.mask)


def shape_of(
    entry: CocoAnnotation, points: Sequence[int], frame: int, label: RemoteLabel
) -> RemoteShape:
    """An annotation as a CVAT mask that says whether a person or a model made it.

    A model's carries its score and the model's id, also as attributes: people see those.
    """
    score = 1.0 if entry.score is None else entry.score
    values = dict(entry.attributes)
    if entry.origin not in _BY_HAND:
        values |= {MODEL_ID: entry.model_id or "", CONFIDENCE: str(round(100 * score))}
    return RemoteShape(
        id=None,
        frame=frame,
        label_id=label.id,
        type="mask",
        points=points,
        source="manual" if entry.origin in _BY_HAND else "auto",
        score=score,
        attributes={
            spec_id: values[name] for name, spec_id in label.attributes.items() if name in values
        },
    )
