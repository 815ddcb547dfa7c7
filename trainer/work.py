"""What every step is given: the round's folder and where its configuration lies."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from casebook.catalogue import Catalogue
from casebook.registry import Registry
from casebook.rounds import RoundFolder
from trainer import cancellation
from trainer.rounds_config import RoundConfig, read_round_config


@dataclass(frozen=True)
class Work:
    """One round to work on."""

    folder: RoundFolder
    conf: Path
    """Folder of round-NN.yaml."""
    overrides: tuple[str, ...] = ()

    @cached_property
    def config(self) -> RoundConfig:
        """The round's resolved configuration."""
        return read_round_config(self.conf, self.folder.number, self.overrides)

    @cached_property
    def catalogue(self) -> Catalogue:
        """The cases of the workspace."""
        return Catalogue(self.folder.home)

    @cached_property
    def registry(self) -> Registry:
        """The models of the workspace."""
        return Registry(self.folder.home)

    def progress(
        self,
        step: str,
        message: str,
        fraction: float | None = None,
        values: dict[str, float] | None = None,
    ) -> None:
        """Tell whoever follows, and stop if the work was called off.

        Raises:
            CancelledError: it was.
        """
        self.folder.event(step, message, fraction, values)
        cancellation.check(self.folder)
