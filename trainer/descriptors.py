"""Descriptors of cases by the promoted model's encoder, kept in the workspace.

One small file a case and model, so that a selection that was killed goes on, two at once do not
meet, and a patient's withdrawal finds what is his. Knows no strategy.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from casebook.cases import Case
from casebook.documents import write_bytes
from casebook.errors import DataError, PromptError
from casebook.protocols import Frame, Prompt
from segmenter.descriptors import METHOD, descriptor, window_seen
from segmenter.teacher import Teacher
from trainer.select import Describe
from trainer.teachers import incumbent_id, open_teacher
from trainer.work import Work

_TELL_EVERY = 20
"""Cases."""


def describing(work: Work) -> Describe:
    """Describes cases by the promoted model, or the bare base; what is kept is not made again."""

    def of(cases: Sequence[Case]) -> Float32[np.ndarray, "n d"]:
        model_id = incumbent_id(work)
        folder = work.folder.home.descriptors / model_id
        teacher: Teacher | None = None
        rows = []
        for done, case in enumerate(cases, start=1):
            path = folder / f"{case.case_id}.safetensors"
            key = _key(case)
            found = _read(path, key)
            if found is None:
                if teacher is None:
                    teacher = open_teacher(work, model_id)
                found = _describe(teacher, work.catalogue.frame(case.ref), case)
                write_bytes(path, save({"descriptor": found}, key))
                if done % _TELL_EVERY == 0 or done == len(cases):
                    work.progress("select", f"looked at {done} of {len(cases)} cases")
            rows.append(found)
        return np.stack(rows)

    return of


def _describe(teacher: Teacher, frame: Frame, case: Case) -> Float32[np.ndarray, " d"]:
    """Where a reader gave a rectangle, what a prompt with it would see; else the whole frame."""
    prompt = None
    if case.lesion_box_xyxy is not None:
        try:
            prompt = Prompt(box_xyxy=case.lesion_box_xyxy).checked(frame.hw)
        except PromptError:  # a rectangle that misses the image
            prompt = None
    return descriptor(teacher, frame, window_seen(teacher, frame, prompt))


def _key(case: Case) -> dict[str, str]:
    """What a kept descriptor must have been made of to be used."""
    return {
        "image_sha256": case.image_sha256,
        "box_xyxy": repr(case.lesion_box_xyxy),
        "method": METHOD,
    }


def _read(path: Path, key: dict[str, str]) -> Float32[np.ndarray, " d"] | None:
    """A kept descriptor; nothing when there is none of this picture."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as stored:
            same = stored.metadata() == key
            found: Float32[np.ndarray, " d"] = stored.get_tensor("descriptor")
    except (SafetensorError, OSError) as problem:
        raise DataError(
            f"{path}: cannot be read as a descriptor ({problem}); remove it, it is made again"
        ) from None
    return found if same else None
