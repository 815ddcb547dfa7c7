"""How squares are varied in training, within what an X-ray apparatus and a heart may do.

Small turns, scales, shifts and bends; contrast, gamma, uneven shade, blur and noise. Never a flip:
a mirrored heart is no heart. Knows no files and no models.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

_BENDS = ((4, 1.0), (9, 0.3))
"""Points a side of the two fields that bend a square, and their share of the reach."""
_SHADES = 4
"""Points a side of the uneven shade."""


class Variation(BaseModel):
    """The largest change of each kind; 0 leaves it out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rotation_deg: float = Field(12.0, ge=0, le=45)
    scale: float = Field(0.18, ge=0, le=1)
    """Natural logarithm of the factor."""
    aspect: float = Field(0.0, ge=0, le=0.5)
    """The same, of one side over the other."""
    shift: float = Field(0.08, ge=0, le=0.5)
    """Share of the square's side."""
    bend: float = Field(0.0, ge=0, le=0.2)
    """Deviation of the points of a smooth field, as a share of half the side."""
    contrast: float = Field(0.25, ge=0, le=1)
    """Natural logarithm of the factor around middle grey."""
    gamma: float = Field(0.0, ge=0, le=1)
    """Natural logarithm of the exponent."""
    shade: float = Field(0.0, ge=0, le=1)
    """Deviation of the logarithm of a smooth factor over the square."""
    blur_share: float = Field(0.0, ge=0, le=1)
    """Share of the batches blurred by 3×3 px."""
    noise: float = Field(6.0, ge=0, le=64)
    """Grey values."""


def _spread(count: int, extent: float, generator: torch.Generator) -> Tensor:
    """Evenly drawn within ± the extent."""
    return (torch.rand(count, generator=generator) * 2 - 1) * extent


def _field(
    count: int, channels: int, points: int, side: int, generator: torch.Generator
) -> Float[Tensor, "b k s s"]:
    """A smooth random field; each of the batch has a strength of its own, 0 to 1."""
    strength = torch.rand(count, 1, 1, 1, generator=generator)
    knots = torch.randn(count, channels, points, points, generator=generator) * strength
    return F.interpolate(knots, (side, side), mode="bicubic", align_corners=True)


def places(
    count: int, side: int, reach: float, variation: Variation, generator: torch.Generator
) -> Float[Tensor, "b s s 2"]:
    """Where to sample each square, −1 to 1 across it.

    Args:
        count: Squares.
        side: Of the sampled squares, px.
        reach: Share of the source that is sampled when nothing is varied.
        variation: How far each may be turned, scaled, shifted and bent.
        generator: Of all randomness.
    """
    angle = _spread(count, math.radians(variation.rotation_deg), generator)
    scale = reach * torch.exp(_spread(count, variation.scale, generator))
    wide = torch.exp(_spread(count, variation.aspect, generator))
    shift = 2 * variation.shift * reach
    rows = [
        torch.stack(
            [wide * scale * angle.cos(), -scale * angle.sin(), _spread(count, shift, generator)], 1
        ),
        torch.stack(
            [wide * scale * angle.sin(), scale * angle.cos(), _spread(count, shift, generator)], 1
        ),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), [count, 1, side, side], align_corners=False)
    if variation.bend:
        for points, share in _BENDS:
            field = _field(count, 2, points, side, generator) * (variation.bend * share * reach)
            grid = grid + field.permute(0, 2, 3, 1)
    return grid


def sampled(
    values: np.ndarray, grid: Float[Tensor, "b s s 2"], padding: str
) -> Float[Tensor, "b k s s"]:
    """Maps, b × h × w or b × k × h × w, at the places of a grid.

    Args:
        values: Of any number type.
        grid: See `places`.
        padding: What lies beyond: `border` or `zeros`.
    """
    source = torch.from_numpy(np.ascontiguousarray(values)).float()
    source = source if source.ndim == 4 else source[:, None]
    return F.grid_sample(source, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def greyed(
    squares: Float[Tensor, "b 1 s s"], variation: Variation, generator: torch.Generator
) -> Float[Tensor, "b 1 s s"]:
    """Squares of grey values 0–255 as another apparatus might have shown them."""
    count, side = len(squares), squares.shape[-1]
    shown = squares
    if variation.gamma:
        exponent = torch.exp(_spread(count, variation.gamma, generator)).view(-1, 1, 1, 1)
        shown = 255.0 * (shown / 255.0).clamp(1e-3, 1.0) ** exponent
    if variation.shade:
        field = _field(count, 1, _SHADES, side, generator)
        shown = shown * torch.exp(variation.shade * field)
    contrast = torch.exp(_spread(count, variation.contrast, generator)).view(-1, 1, 1, 1)
    shown = (shown - 127.0) * contrast + 127.0
    if variation.blur_share and float(torch.rand(1, generator=generator)) < variation.blur_share:
        shown = F.avg_pool2d(F.pad(shown, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    amount = torch.rand(count, 1, 1, 1, generator=generator) * variation.noise
    noise = torch.randn(squares.shape, generator=generator)
    return (shown + amount * noise).clamp(0.0, 255.0)
