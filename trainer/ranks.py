"""One training in several processes: every process reads the rounds itself and shares the batches.

``trainer.train`` starts this module under torchrun when `train.processes`, or the number of visible
GPUs, is more than one. Knows nothing of queues.
"""

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from pydantic import Field

from casebook.documents import Document
from casebook.errors import AngioloopError, TrainingError
from casebook.home import Home
from casebook.rounds import RoundFolder
from segmenter.fit import FitResult, Progress, TrainConfig
from segmenter.ranks import joined, launch, leads
from segmenter.rounds import RoundResult, train_adapter
from trainer.samples import training_set, validation_set
from trainer.teachers import base_folder
from trainer.work import Work


class RankOrder(Document):
    """What every process is told."""

    home: Path
    conf: Path
    round: int
    overrides: tuple[str, ...]
    rounds: tuple[int, ...]
    """The rounds whose annotations train."""
    train: TrainConfig
    init_adapter: Path | None
    directory: Path
    vessel: str | None = None
    replay: float = 1.0


class RankWord(Document):
    """One line of the first process: how far it is, or at the end what came of it."""

    step: int
    steps: int | None = None
    fraction: float
    seconds: float
    figures: dict[str, float]
    resumed_from: int | None = None
    """Given in the last line, as all below."""
    n_trainable: int = 0
    n_params: int = 0
    n_frames: int = 0
    n_masks: int = 0
    base_sha256: str = ""
    round_figures: dict[str, float] = Field(default_factory=dict)


def train_together(
    work: Work,
    rounds: tuple[int, ...],
    config: TrainConfig,
    init_adapter: Path | None,
    directory: Path,
    processes: int,
    progress: Callable[[Progress], None],
    *,
    vessel: str | None = None,
    replay: float = 1.0,
) -> RoundResult:
    """Train an adapter in several processes; the result is as of one.

    Raises:
        TrainingError: a process failed.
    """
    order = RankOrder(
        home=work.folder.home.root,
        conf=work.conf,
        round=work.folder.number,
        overrides=work.overrides,
        rounds=rounds,
        train=config,
        init_adapter=init_adapter,
        directory=directory,
        vessel=vessel,
        replay=replay,
    )
    last: RankWord | None = None
    said = launch("trainer.ranks", [order.model_dump_json(by_alias=True)], processes)
    with closing(said):  # a progress that raises ends the processes
        for line in said:
            if not line.startswith("{"):
                continue
            last = RankWord.model_validate_json(line)
            if last.resumed_from is None:
                progress(Progress(last.step, last.steps, last.fraction, last.seconds, last.figures))
    if last is None or last.resumed_from is None:
        raise TrainingError(
            f"{processes} processes ended without a result; see {directory / 'checkpoints'}, and "
            "run the same command again to go on from there"
        )
    return RoundResult(
        folder=directory / "adapter",
        fit=FitResult(last.step, last.seconds, last.figures, last.resumed_from),
        n_trainable=last.n_trainable,
        n_params=last.n_params,
        n_frames=last.n_frames,
        n_masks=last.n_masks,
        base_sha256=last.base_sha256,
        figures=last.round_figures,
    )


def _say(word: RankWord) -> None:
    print(word.model_dump_json(), flush=True)  # noqa: T201 - the process that started us reads it


def _tell(progress: Progress) -> None:
    _say(
        RankWord(
            step=progress.step,
            steps=progress.steps,
            fraction=progress.fraction,
            seconds=progress.seconds,
            figures=dict(progress.figures),
        )
    )


def main(text: str) -> None:
    """Do one process's share of a training."""
    order = RankOrder.model_validate_json(text)
    home = Home(order.home)
    work = Work(RoundFolder(home, order.round), order.conf, order.overrides)
    with joined() as device:
        data = training_set(
            home,
            work.catalogue,
            order.rounds,
            work.folder.manifest().labels,
            work.config.weights,
            measured=order.train.heads is not None,
            vessel=order.vessel,
            replay=order.replay,
            lesion_in_text=work.config.lesion_in_text,
        )
        watches = order.train.stop is not None
        manifest = work.folder.manifest()
        validation = validation_set(manifest, work.catalogue, order.vessel) if watches else ()
        result = train_adapter(
            data.samples,
            order.train,
            base=base_folder(work),
            init_adapter=order.init_adapter,
            directory=order.directory,
            progress=_tell,
            device=device,
            validation=validation,
        )
        if leads():
            _say(
                RankWord(
                    step=result.fit.steps,
                    fraction=1.0,
                    seconds=result.fit.seconds,
                    figures=dict(result.fit.figures),
                    resumed_from=result.fit.resumed_from,
                    n_trainable=result.n_trainable,
                    n_params=result.n_params,
                    n_frames=result.n_frames,
                    n_masks=result.n_masks,
                    base_sha256=result.base_sha256,
                    round_figures=dict(result.figures),
                )
            )


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except AngioloopError as problem:
        sys.stderr.write(f"{type(problem).__name__}: {problem}\n")
        sys.exit(problem.exit_code)
