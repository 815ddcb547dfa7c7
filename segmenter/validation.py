"""How well a model being trained answers boxes on frames that do not train. Knows no files."""

from collections.abc import Sequence

from casebook.errors import DataError
from casebook.masks import box_of
from casebook.metrics import iou
from casebook.protocols import Prompt
from segmenter.prompts import WindowConfig
from segmenter.sam3 import Sam3
from segmenter.samples import Sample
from segmenter.teacher import Teacher


def box_iou(model: Sam3, windows: WindowConfig, samples: Sequence[Sample]) -> float:
    """Mean IoU of the prompted masks by their own boxes, over the mean of each frame.

    The model is left as one that trains.

    Raises:
        DataError: no frame has such a mask.
    """
    teacher = Teacher(model, "candidate", windows=windows)
    try:
        scores = [found for sample in samples if (found := _scores(teacher, sample))]
    finally:
        model.train()
    if not scores:
        raise DataError("the validation cases hold no mask to ask for; remove train.stop")
    return sum(sum(found) / len(found) for found in scores) / len(scores)


def _scores(teacher: Teacher, sample: Sample) -> list[float]:
    found = []
    embedding = teacher.embed(sample.frame)
    for mask in sample.masks:
        if not mask.prompted or not mask.bitmap.any():
            continue
        x1, y1, x2, y2 = box_of(mask.bitmap)
        box = (float(x1), float(y1), float(x2), float(y2))
        (answer,) = teacher.predict(embedding, Prompt(box_xyxy=box, view=sample.frame.view))
        found.append(iou(answer.bitmap, mask.bitmap))
    return found
