"""The lesions known on some frames, as the student sees them. Training side.

The student itself draws the masks, asked with the experts' boxes, with boxes a little off, and on
the unlabelled neighbours of their frames; QCA of the expert's mask is what is true of the lesion,
the teacher's heads tell where no expert drew it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Bool, Float64

from angio.qca import Lesion, measure
from casebook.catalogue import Catalogue
from casebook.errors import QcaError
from casebook.protocols import Frame, Prompt, Segmenter
from casebook.regions import keep_main
from export.answers import StudentSegmenter
from export.estimator import FIGURES, Look, to_scale
from export.infer import look_of
from export.syllabus import Box, Page

MOST_FRAMES = 1000
"""Frames fitted on, at most."""
_OFF = 0.06
"""How far a second box is off at each side, at most, as a share of its longer side."""
_TAUGHT = 0.5
"""What the teacher's word on a lesion counts beside an expert's."""


@dataclass(frozen=True)
class Example:
    """A look at a lesion of which something is known."""

    look: Look
    known: Float64[np.ndarray, "3"]
    """The figures as they are learnt; not numbers where they are not known."""
    weight: float
    patient: str
    case_id: str


def _measured(frame: Frame, bitmap: Bool[np.ndarray, "h w"], *, by_model: bool) -> Lesion | None:
    try:
        return measure(frame.pixels, bitmap, frame.spacing, by_model=by_model)
    except QcaError:
        return None


def _known(values: dict[str, float]) -> Float64[np.ndarray, "3"] | None:
    """Figures by name as they are learnt; nothing when none is given."""
    found = [to_scale(figure, values[figure]) if figure in values else np.nan for figure in FIGURES]
    return np.array(found) if np.isfinite(found).any() else None


def _off(box: Box, hw: tuple[int, int], seed: int) -> Box:
    """A box as another reader might have drawn it."""
    x1, y1, x2, y2 = box
    moved = np.random.default_rng(seed).uniform(-_OFF, _OFF, 4) * max(x2 - x1, y2 - y1)
    return (
        float(np.clip(x1 + moved[0], 0, hw[1] - 2)),
        float(np.clip(y1 + moved[1], 0, hw[0] - 2)),
        float(np.clip(x2 + moved[2], 1, hw[1] - 1)),
        float(np.clip(y2 + moved[3], 1, hw[0] - 1)),
    )


def _look(segmenter: StudentSegmenter, frame: Frame, box: Box) -> Look:
    """What the student sees of the vessel in a box."""
    embedding, prompt = segmenter.embed(frame), Prompt(box_xyxy=box)
    found = segmenter.predict(embedding, prompt)[0]
    bitmap = keep_main(found.bitmap)
    return look_of(
        segmenter, embedding, prompt, found, bitmap, _measured(frame, bitmap, by_model=True)
    )


def speaks(teacher: Segmenter, catalogue: Catalogue, pages: Sequence[Page]) -> bool:
    """Whether a teacher has heads that tell of lesions: the first box shows it."""
    for page in pages:
        for box in page.prompted_boxes or page.boxes:
            embedding = teacher.embed(catalogue.frame(page.ref))
            return _known(teacher.predict(embedding, Prompt(box_xyxy=box))[0].heads) is not None
    return False


def examples_of(
    segmenter: StudentSegmenter,
    catalogue: Catalogue,
    pages: Sequence[Page],
    teacher: Segmenter | None = None,
    *,
    is_taught: bool = False,
) -> list[Example]:
    """The lesions that are known on some frames, as the student sees them.

    Args:
        segmenter: the student as it will run.
        catalogue: holds the frames.
        pages: those an expert drew on come before the others of their cine.
        teacher: whose heads tell of lesions nobody drew; they stay unknown without one.
        is_taught: ask with boxes a little off, and on frames nobody drew on, too.
    """
    found: list[Example] = []
    drawn: dict[tuple[str, Box], Float64[np.ndarray, "3"]] = {}
    for number, page in enumerate(islice(pages, MOST_FRAMES)):
        frame = catalogue.frame(page.ref)
        case_id = page.ref.case_id
        asked = list(_drawn_on(page, frame, drawn, number if is_taught else None))
        if is_taught:
            asked += _not_drawn_on(page, frame, drawn, teacher)
        patient = catalogue.get(case_id).patient if asked else ""
        for box, known, weight in asked:
            look = _look(segmenter, frame, box)
            found.append(Example(look, known, weight, patient, case_id))
    return found


_Asked = tuple[Box, Float64[np.ndarray, "3"], float]
"""A box, what is known of the lesion in it, and what that counts."""


def _drawn_on(
    page: Page,
    frame: Frame,
    drawn: dict[tuple[str, Box], Float64[np.ndarray, "3"]],
    seed: int | None,
) -> Iterator[_Asked]:
    """The segments an expert drew, remembered by case and box; with a seed, a second box each."""
    for one in page.prompted:
        if one.role != "segment" or not one.is_reviewed:
            continue
        lesion = _measured(frame, one.bitmap, by_model=False)
        known = _known(_told(lesion)) if lesion else None
        if known is None:
            continue
        drawn[(page.ref.case_id, one.box)] = known
        yield one.box, known, 1.0
        if seed is not None:
            yield _off(one.box, frame.hw, seed), known, 1.0


def _not_drawn_on(
    page: Page,
    frame: Frame,
    drawn: dict[tuple[str, Box], Float64[np.ndarray, "3"]],
    teacher: Segmenter | None,
) -> Iterator[_Asked]:
    """Boxes on a frame nobody drew on: the lesion of its cine's drawn frame, else the teacher's."""
    for box in page.boxes:
        known, weight = drawn.get((page.ref.case_id, box)), 1.0
        if known is None and teacher is not None:
            answer = teacher.predict(teacher.embed(frame), Prompt(box_xyxy=box))[0]
            known, weight = _known(answer.heads), _TAUGHT
        if known is not None:
            yield box, known, weight


def _told(lesion: Lesion) -> dict[str, float]:
    return {figure: getattr(lesion, figure) for figure in FIGURES}
