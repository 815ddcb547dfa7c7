"""The control: as many training steps as the rounds had, on round 1's data only.

Shows whether the corrections brought the gain or longer training alone would have.
"""

import logging
from itertools import pairwise

from casebook.documents import read_document, sha256_of, write_document
from casebook.errors import StateError
from casebook.home import locked
from casebook.rounds import RoundFolder
from segmenter.rounds import RoundResult
from trainer.evaluate import scores_of
from trainer.overview import CONTROL, ControlResult, write_overview
from trainer.requests import round_folders
from trainer.results import Candidate
from trainer.samples import training_set
from trainer.scores import mean_of
from trainer.summary import gains
from trainer.teachers import incumbent_id
from trainer.train import card_of, register, run
from trainer.work import Work

_log = logging.getLogger(__name__)


class Beside(Work):
    """The same work done by whoever asks, beside what a worker does: told here, not to followers.

    Calling off the round's work does not touch it.
    """

    def progress(
        self,
        step: str,
        message: str,
        fraction: float | None = None,
        values: dict[str, float] | None = None,
    ) -> None:
        """Tell it in the log."""
        share = "" if fraction is None else f" {fraction:4.0%}"
        _log.info("%s%s  %s", step, share, message)


def control(work: Work) -> str:
    """Train and score the control, and write rounds/control.json.

    Raises:
        BusyError: another process is at it.
        StateError: fewer than two rounds are decided.
    """
    with locked(work.folder.home.root / "rounds" / ".control.lock", "a control"):
        return _control(work)


def _control(work: Work) -> str:
    home = work.folder.home
    candidates = [
        read_document(folder.file("candidate.json"), Candidate)
        for folder in round_folders(home)
        if folder.has("decision.json")
    ]
    if len(candidates) < 2:
        raise StateError(
            f"{len(candidates)} rounds are decided; the control needs at least 2. Run "
            "`make train ROUND=2` first"
        )
    first, later = candidates[0], candidates[1:]
    compared = incumbent_id(work)
    ids = "|".join(candidate.model_id for candidate in candidates)
    model_id = f"control-{later[-1].round:02d}-{sha256_of(ids.encode())[:8]}"
    path = home.root / "rounds" / CONTROL
    if path.exists():
        found = read_document(path, ControlResult)
        if (found.model_id, found.compared) == (model_id, compared):
            return f"control.json is there: gain {found.gain.mean:+.3f}"
    _train(work, model_id, first, later)
    result = _compare(work, model_id, compared, later)
    write_document(path, result)
    write_overview(home)
    return (
        f"gain over the control {result.gain.mean:+.3f} "
        f"[{result.gain.low:+.3f}, {result.gain.high:+.3f}]"
    )


def _train(work: Work, model_id: str, first: Candidate, later: list[Candidate]) -> None:
    """Repeat the later rounds' trainings, step for step, on round 1's samples."""
    if work.registry.folder(model_id).joinpath("card.json").exists():
        return
    home = work.folder.home
    folder = RoundFolder(home, 1)
    init_from = first.model_id
    for before, candidate in pairwise((first, *later)):
        stage = Work(RoundFolder(home, candidate.round), work.conf, work.overrides)
        data = training_set(
            home,
            work.catalogue,
            (1,),
            folder.manifest().labels,
            stage.config.weights,
            measured=stage.config.train.heads is not None,
            lesion_in_text=stage.config.lesion_in_text,
        )
        settings = stage.config.train.model_copy(update={"steps": candidate.steps, "stop": None})
        name = f"{model_id}-{candidate.round}" if candidate is not later[-1] else model_id
        work.progress("control", f"round {before.round} → {candidate.round}", 0.0)
        directory = home.root / "rounds" / "control" / name
        result: RoundResult = run(work, (1,), data, settings, init_from, directory, step="control")
        register(work, card_of(stage, name, result, data, parents=(init_from,)), result)
        init_from = name


def _compare(work: Work, model_id: str, compared: str, later: list[Candidate]) -> ControlResult:
    def tell(message: str, fraction: float) -> None:
        work.progress("control", message, min(fraction, 0.99))

    control_scores = scores_of(work, model_id, tell)
    ours = scores_of(work, compared, tell)
    return ControlResult(
        model_id=model_id,
        compared=compared,
        rounds=tuple(candidate.round for candidate in later),
        steps=sum(candidate.steps for candidate in later),
        control=mean_of(control_scores.test.values("iou_box")),
        rounds_model=mean_of(ours.test.values("iou_box")),
        gain=mean_of(gains(ours.test, control_scores.test)),
    )
