"""Masks for the rectangles experts drew: what the promoted model sees in each.

Knows no annotation tool.
"""

from itertools import groupby

from casebook import masks
from casebook.annotations import CocoRle
from casebook.boxes import ASKED, BoxMask, BoxMasks, DrawnBox, DrawnBoxes, answer_name
from casebook.documents import read_document, write_document
from casebook.errors import PromptError
from casebook.protocols import Embedding, Prompt, Segmenter
from trainer.teachers import load_incumbent
from trainer.work import Work


def boxes(work: Work) -> str:
    """Write the masks of the rectangles that wait, once."""
    asked = work.folder.need(ASKED, f"Run `cvatsync pull --round {work.folder.number}`.")
    answer = answer_name(asked)
    if work.folder.has(answer):
        return f"{answer} is there"
    waiting = sorted(read_document(asked, DrawnBoxes).boxes, key=lambda box: box.at.file_name)
    teacher = load_incumbent(work)
    made: list[BoxMask] = []
    for at, of_frame in groupby(waiting, key=lambda box: box.at):
        embedding = teacher.embed(work.catalogue.frame(at))
        made += [_mask(teacher, embedding, box) for box in of_frame]
        work.progress("boxes", f"{len(made)} of {len(waiting)}", len(made) / len(waiting))
    write_document(work.folder.file(answer), BoxMasks(masks=tuple(made)))
    found = sum(one.segmentation is not None for one in made)
    return f"{found} masks for {len(made)} rectangles by {teacher.model_id}"


def _mask(teacher: Segmenter, embedding: Embedding, box: DrawnBox) -> BoxMask:
    prompt = Prompt(box_xyxy=box.box_xyxy, view=embedding.frame.view)
    try:
        predictions = teacher.predict(embedding, prompt.checked(embedding.frame.hw))
    except PromptError:  # a rectangle that misses the image
        predictions = ()
    found = sorted((one for one in predictions if one.bitmap.any()), key=lambda one: -one.score)
    if not found:
        return _answer(box, teacher.model_id, 0.0, None)
    mask = masks.encode(found[0].bitmap)
    segmentation = CocoRle(counts=masks.to_coco_rle(mask), size=mask.hw)
    return _answer(box, teacher.model_id, min(max(found[0].score, 0.0), 1.0), segmentation)


def _answer(box: DrawnBox, model_id: str, score: float, segmentation: CocoRle | None) -> BoxMask:
    return BoxMask(
        key=box.key,
        at=box.at,
        label=box.label,
        model_id=model_id,
        score=score,
        segmentation=segmentation,
    )
