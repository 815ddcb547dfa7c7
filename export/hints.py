"""What the student's encoder learns from the teacher's: its image embedding, cell by cell.

Taken of the window in which the teacher answered the prompt, where it lies computed already. A
layer that no bundle has brings the student's maps to the teacher's channels.
Source: Romero et al., FitNets: hints for thin deep nets, ICLR 2015, arXiv:1412.6550.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from jaxtyping import Bool, Float, Float16
from torch import Tensor, nn

from casebook.errors import ConfigError
from casebook.protocols import Frame, Prompt, Segmenter
from export.student import Features, StudentConfig
from export.windows import Window
from segmenter.prompts import window_of
from segmenter.teacher import Teacher

CELL_PX = 8
"""Side of a hint's cell, in px of the student's square: of the encoder's map at 1/8."""
_FAR = 6.0
"""Values further from their channel's mean than this, in deviations, count as this far."""


@dataclass(frozen=True)
class Hint:
    """The teacher's embedding where a kept square lies."""

    values: Float16[np.ndarray, "c g g"]
    is_seen: Bool[np.ndarray, "g g"]
    """Cells inside the window that the teacher saw."""


def shower(teacher: Segmenter, weight: float) -> Teacher | None:
    """The teacher, where its embedding shall be learnt from at this weight.

    Raises:
        ConfigError: it shall, and the model has none to show.
    """
    if not weight:
        return None
    if not isinstance(teacher, Teacher):
        raise ConfigError(
            f"weights.features is {weight:g}, and {teacher.model_id} is no SAM 3: only its image "
            "embedding can be learnt from. Set weights.features to 0"
        )
    return teacher


def hint_of(teacher: Teacher, frame: Frame, prompt: Prompt, kept: Window, cells: int) -> Hint:
    """The embedding the teacher answered a prompt from, on the cells of a kept square.

    Args:
        teacher: asked already, so that the embedding lies in its cache.
        frame: where the prompt was answered.
        prompt: a box or clicks.
        kept: the part of the frame that the square shows.
        cells: of the square's side.
    """
    asked = window_of(prompt.checked(frame.hw), frame.hw, teacher.windows)
    embedding = teacher.features(frame, asked).embedding.float().cpu()
    steps = (np.arange(cells) + 0.5) * kept.side / cells
    across = torch.from_numpy(2 * (kept.x + steps - asked.x) / asked.size_px - 1).float()
    down = torch.from_numpy(2 * (kept.y + steps - asked.y) / asked.size_px - 1).float()
    grid = torch.stack([across.expand(cells, cells), down[:, None].expand(cells, cells)], dim=-1)
    values = F.grid_sample(embedding, grid[None], padding_mode="border", align_corners=False)[0]
    is_seen = (grid.abs() <= 1).all(dim=-1)
    return Hint(values.numpy().astype(np.float16), is_seen.numpy())


def standardised(
    hints: Sequence[Hint],
) -> tuple[Float16[np.ndarray, "m c g g"], Bool[np.ndarray, "m g g"]]:
    """All hints, each channel at mean 0 and deviation 1 over the cells seen, and those cells."""
    values = np.stack([one.values for one in hints])
    is_seen = np.stack([one.is_seen for one in hints])
    for channel in range(values.shape[1]):
        shown = values[:, channel].astype(np.float64)
        mean, deviation = shown[is_seen].mean(), max(float(shown[is_seen].std()), 1e-6)
        values[:, channel] = np.clip((shown - mean) / deviation, -_FAR, _FAR)
    return values, is_seen


def at_cells(grid: Float[Tensor, "b s s 2"]) -> Float[Tensor, "b g g 2"]:
    """The places of a square's cells, of those of its pixels."""
    return F.avg_pool2d(grid.permute(0, 3, 1, 2), CELL_PX).permute(0, 2, 3, 1)


class Projection(nn.Module):
    """From the student's two coarsest maps to the teacher's channels; only for the training."""

    def __init__(self, config: StudentConfig, channels: int, seed: int) -> None:
        """Fresh weights, which depend on the seed alone."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layer = nn.Conv2d(config.widths[2] + config.widths[3], channels, 1)

    def forward(self, features: Features) -> Float[Tensor, "b c g g"]:
        """What the student says the teacher saw, at 1/8 of the square."""
        coarse = F.interpolate(features[3], scale_factor=2.0, mode="bilinear", align_corners=False)
        told: Tensor = self.layer(torch.cat([features[2], coarse], dim=1))
        return told


def hint_loss(
    told: Float[Tensor, "b c g g"],
    wanted: Float[Tensor, "b c g g"],
    share: Float[Tensor, "b g g"],
) -> Float[Tensor, ""]:
    """One minus the cosine between what is told and wanted, over the cells the teacher saw.

    Args:
        told: of the projection.
        wanted: the standardised embedding.
        share: of each cell that was seen, 0 to 1.
    """
    alike = F.cosine_similarity(told.float(), wanted, dim=1)
    return ((1 - alike) * share).sum() / share.sum().clamp(min=1e-6)
