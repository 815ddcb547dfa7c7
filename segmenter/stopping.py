"""When a training has learnt what it can: its score on validation cases no longer rises.

The weights of the best look are kept. Knows no model and no cases.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from casebook.errors import TrainingError
from segmenter.ranks import of_first


class StopConfig(BaseModel):
    """When a training ends before its last step.

    The gate that decides on promotion looks at the same validation cases, so that a small gain
    there is flattered by the choice of the best look; the test cases are not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(50, gt=0)
    """Steps from one look at the validation cases to the next …"""
    patience: int = Field(3, gt=0)
    """… of which so many in a row without a better score end the training."""
    min_gain: float = Field(0.0, ge=0, lt=1)
    """A score is better when it is above the best by more than this."""


@dataclass
class Best:
    """The best look so far, and how many came after it."""

    score: float | None = None
    step: int = 0
    waited: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def is_due(self, step: int, config: StopConfig, *, is_last: bool) -> bool:
        """Whether a step ends with a look."""
        return is_last or step % config.every == 0

    def is_enough(self, config: StopConfig) -> bool:
        """Whether the training ends here."""
        return self.waited >= config.patience

    def look(
        self,
        step: int,
        named: Mapping[str, nn.Parameter],
        kept: Mapping[str, Tensor],
        validate: Callable[[], float],
        config: StopConfig,
    ) -> float:
        """Score the weights as they would be kept; the score comes back.

        Args:
            named: The trained parameters.
            kept: The weights that would be kept now, where they are not the parameters' own.
            validate: Scores the parameters as they stand; asked in the first process alone.

        Raises:
            TrainingError: the score is not a number.
        """
        weights = dict(kept) or {name: p.detach() for name, p in named.items()}
        with _standing(named, weights):
            score = of_first(validate, next(iter(named.values())).device)
        if score != score:
            raise TrainingError(
                f"step {step}: the score on the validation cases is not a number; look at them"
            )
        if self.score is None or score > self.score + config.min_gain:
            self.score, self.step, self.waited = score, step, 0
            self.weights = {name: value.clone() for name, value in weights.items()}
        else:
            self.waited += 1
        return score


@contextmanager
def _standing(named: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the parameters have other values for a while."""
    before = {name: named[name].detach().clone() for name in weights}
    put(named, weights)
    try:
        yield
    finally:
        put(named, before)


def put(named: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> None:
    """Give the parameters these values."""
    with torch.no_grad():
        for name, value in weights.items():
            named[name].copy_(value)
