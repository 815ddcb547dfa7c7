"""What the pre-trainings of both bases share: a loop that writes the base as it goes, its command.

Bases learn from pictures that are drawn, by nobody taught. Knows no model.
"""

import logging
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import torch
from torch import Tensor, nn

from casebook.errors import AngioloopError
from casebook.registry import ModelCard
from segmenter.fit import Progress, TrainConfig, fit

HELD_OUT_SEED = 2**40
"""Held-out pictures are drawn from seeds no training step reaches."""
PICTURES = "generic synthetic shapes, segmenter/shapes.py; nothing medical"
log = logging.getLogger(__name__)

B = TypeVar("B")
M = TypeVar("M", bound=nn.Module)
Pretrain = Callable[[TrainConfig, Path, Path], ModelCard]
"""A pre-training by its settings, the folder of its checkpoints and that of the base."""


def commit() -> str | None:
    """The commit the base is made with; none outside a checkout."""
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None if found.returncode == 0 else None


def fit_base(
    models: tuple[M, M],
    loss: Callable[[B, torch.Generator], Mapping[str, Tensor]],
    batches: Callable[[int], B],
    config: TrainConfig,
    directory: Path,
    write: Callable[[M, Progress], ModelCard],
) -> ModelCard:
    """Train a base, writing it at every checkpoint; resumes what the directory holds.

    Args:
        models: The one that is trained, and another of its sizes that takes the weights to write.
        loss: As of `fit`.
        batches: As of `fit`.
        config: As of `fit`.
        directory: Of checkpoints and curves.
        write: Scores and writes a base; its card comes back.
    """
    trained, kept = models
    cards: list[ModelCard] = []

    def report(progress: Progress) -> None:
        shown = " ".join(f"{name} {value:.4g}" for name, value in progress.figures.items())
        log.info("step %d %.1f %% %s", progress.step, 100 * progress.fraction, shown)

    def keep(weights: Mapping[str, Tensor], progress: Progress) -> None:
        kept.load_state_dict({**trained.state_dict(), **weights})
        card = write(kept, progress)
        log.info("step %d held out %s", progress.step, card.figures)
        cards.append(card)

    fit(
        trained,
        loss,
        batches,
        config,
        steps=config.steps,
        directory=directory,
        progress=report,
        on_checkpoint=keep,
    )
    return cards[-1]


def command(
    pretrain: Pretrain,
    says: str,
    example: str,
    directory: Path,
    *,
    minutes: float,
    lr: float,
    **settings: Any,
) -> click.Command:
    """The command of a pre-training.

    Args:
        pretrain: What it runs.
        says: Its help.
        example: How it is called.
        directory: Where checkpoints are kept unless told.
        minutes: How long it trains unless told.
        lr: Its learning rate unless told.
        settings: Those of `TrainConfig` that nobody chooses.
    """

    @click.command(help=says, epilog=f"Example: {example}")
    @click.option("--minutes", type=float, default=minutes, show_default=True,
                  help="Time to train for.")  # fmt: skip
    @click.option("--steps", type=int, default=None, help="Train exactly this many steps instead.")
    @click.option("--out", type=click.Path(path_type=Path), default=Path("conf/tiny-base"))
    @click.option("--directory", type=click.Path(path_type=Path), default=directory,
                  help="Checkpoints and curves; a second run continues from them.")  # fmt: skip
    @click.option("--seed", type=int, default=0, show_default=True)
    @click.option("--lr", type=float, default=lr, show_default=True)
    @click.option("--batch", type=int, default=16, show_default=True)
    @click.option("--threads", type=int, default=1, show_default=True)
    def main(
        minutes: float, steps: int | None, out: Path, directory: Path, threads: int, **chosen: Any
    ) -> None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
        torch.set_num_threads(threads)
        config = TrainConfig(
            steps=steps,
            minutes=None if steps else minutes,
            precision="bfloat16",
            weight_decay=0.02,
            log_every=50,
            **settings,
            **chosen,
        )
        try:
            card = pretrain(config, directory, out)
        except AngioloopError as problem:
            raise click.ClickException(str(problem)) from None
        log.info("%s: %s", out, card.figures)

    return main
