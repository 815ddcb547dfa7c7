"""Loading the teachers a round needs: the incumbent, the candidate, the bare base."""

from pathlib import Path
from typing import cast

from casebook.errors import ModelError
from casebook.protocols import Segmenter
from segmenter.teacher import Teacher, load_teacher
from trainer.work import Work


def base_folder(work: Work) -> Path:
    """The folder of the base the configuration names.

    Raises:
        ModelError: there is no such folder.
    """
    name = work.config.base
    for folder in (work.conf / name, work.folder.home.models / name):
        if folder.is_dir():
            return folder.resolve()
    raise ModelError(
        f"base {name!r} is neither in {work.conf} nor in {work.folder.home.models}. Run "
        "`make weights` for the real one, or set base to the shipped folder tiny-base"
    )


def base_id(work: Work) -> str:
    """The name a bare base answers under."""
    return base_folder(work).name


def load_teacher_of(work: Work, model_id: str) -> Segmenter:
    """A teacher of the registry, or the bare base by its name, as any segmenter.

    Raises:
        ModelError: it is missing, damaged, or belongs to another base.
    """
    # A teacher takes back only what its own `embed` gave, which the protocol cannot say.
    return cast(Segmenter, open_teacher(work, model_id))


def open_teacher(work: Work, model_id: str) -> Teacher:
    """A teacher of the registry, or the bare base by its name, with its network.

    Raises:
        ModelError: it is missing, damaged, or belongs to another base.
    """
    base = base_folder(work)
    is_base = model_id == base.name
    if not is_base:
        work.registry.verify(model_id)
    return load_teacher(work.folder.home.models, None if is_base else model_id, base=base)


def incumbent_id(work: Work) -> str:
    """The promoted teacher, else the bare base."""
    return work.registry.promoted() or base_id(work)


def load_incumbent(work: Work) -> Segmenter:
    """The teacher in use: the promoted one, else the bare base."""
    return load_teacher_of(work, incumbent_id(work))
