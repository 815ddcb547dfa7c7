"""The student network: a small promptable U-shape, about a million parameters.

An encoder turns a grey square into maps at four scales; a decoder adds the prompt and answers one
mask; an automatic head answers the whole tree and lesion candidates without a prompt. Prompts are
drawn into maps inside the decoder, so that any number of clicks enters as plain coordinates. All
work happens at half the square's resolution and below; the last convolution answers the four
pixels of each cell. Knows nothing of images, files or ONNX.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

Features = tuple[Tensor, Tensor, Tensor, Tensor]
"""Maps at 1/2, 1/4, 1/8 and 1/16 of the square."""
COARSEST = 16
"""Sides of squares are multiples of this."""


class StudentConfig(BaseModel):
    """Sizes of a student."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    side_px: int = Field(128, gt=0)
    """Side of the square a prompt is answered in."""
    whole_px: int = Field(320, gt=0)
    """Side of the square the automatic head reads a whole image in."""
    widths: tuple[int, int, int, int] = (24, 48, 80, 112)
    """Channels at 1/2, 1/4, 1/8 and 1/16 of the square."""
    blocks: tuple[int, int, int, int] = (1, 2, 2, 2)
    """Encoder blocks at each scale."""
    channels: int = Field(2, gt=0)
    """Maps of the automatic head: the tree, lesion candidates."""
    context: tuple[int, ...] = ()
    """Channels the automatic head looks around with at 1/32, 1/64 … of the square; none does not.
    The encoder and the decoder of prompts are the same with and without."""
    click_sigma_px: float = Field(3.0, gt=0)
    """How far a click reaches, in px of the square."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> "StudentConfig":
        for name, side in (("side_px", self.side_px), ("whole_px", self.whole_px)):
            if side % COARSEST:
                raise ValueError(f"{name} {side} is not a multiple of {COARSEST}")
        if any(width <= 0 or width % 8 for width in (*self.widths, *self.context)):
            raise ValueError(
                f"widths {self.widths} and context {self.context} must be multiples of 8 "
                "(GroupNorm)"
            )
        if self.whole_px % self.whole_step_px:
            raise ValueError(
                f"whole_px {self.whole_px} is not a multiple of {self.whole_step_px}, which "
                f"{len(self.context)} scales of context need"
            )
        return self

    @property
    def whole_step_px(self) -> int:
        """Sides of whole squares are multiples of this."""
        return COARSEST << len(self.context)


_RARE = -2.0
"""Logit of a pixel before training: few belong to a mask."""


def _bias(layer: nn.Conv2d) -> Tensor:
    if layer.bias is None:
        raise ValueError("the layer was made without a bias")
    return layer.bias


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, width // 8), width)


class Block(nn.Module):
    """Two 3×3 convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = _norm(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = _norm(width)
        nn.init.zeros_(self.second_norm.weight)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The map after the block."""
        inner = F.relu(self.first_norm(self.first(x)))
        return F.relu(x + self.second_norm(self.second(inner)))


class Down(nn.Module):
    """A convolution that halves the map."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, 3, stride=2, padding=1, bias=False)
        self.norm = _norm(width_out)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """The map at half the size."""
        return F.relu(self.norm(self.conv(x)))


class Encoder(nn.Module):
    """Grey square → maps at four scales."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        w2, w4, w8, w16 = config.widths
        self.stem = nn.Conv2d(1, w2, 7, stride=2, padding=3)
        self.downs = nn.ModuleList([Down(w2, w4), Down(w4, w8), Down(w8, w16)])
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width) for _ in range(count)))
            for width, count in zip((w2, w4, w8, w16), config.blocks, strict=True)
        )

    def forward(self, grey: Float[Tensor, "b 1 h w"]) -> Features:
        """Maps of grey values 0–255; each square is brought to mean 0 and deviation 1 here."""
        mean = grey.mean(dim=(2, 3), keepdim=True)
        centred = grey - mean
        deviation = (centred * centred).mean(dim=(2, 3), keepdim=True).sqrt().clamp(min=4.0)
        x = centred / deviation
        f2 = self.stages[0](F.relu(self.stem(x)))
        f4 = self.stages[1](self.downs[0](f2))
        f8 = self.stages[2](self.downs[1](f4))
        f16 = self.stages[3](self.downs[2](f8))
        return f2, f4, f8, f16


class Rise(nn.Module):
    """From the coarsest map back to the finest, adding the encoder's map at each scale."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        widths = config.widths
        self.bottom = Block(widths[3])
        self.narrow = nn.ModuleList(
            nn.Conv2d(widths[level + 1], widths[level], 1) for level in (2, 1, 0)
        )
        self.blocks = nn.ModuleList(Block(widths[level]) for level in (2, 1, 0))

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        """The coarsest and the finest map."""
        coarse = self.bottom(features[3])
        x = coarse
        for level, narrow, block in zip((2, 1, 0), self.narrow, self.blocks, strict=True):
            x = F.interpolate(narrow(x), scale_factor=2.0, mode="bilinear", align_corners=False)
            x = block(x + features[level])
        return coarse, x


def prompt_maps(
    points_xy: Float[Tensor, "b n 2"],
    point_labels: Int[Tensor, "b n"],
    square: Float[Tensor, "b 1 s s"],
    sigma_px: float,
) -> Float[Tensor, "b 3 c c"]:
    """The box filled, clicks inside and clicks outside, as maps 0 to 1; a cell is 2×2 px.

    Args:
        points_xy: in px of the square.
        point_labels: 1 inside, 0 outside, 2 and 3 the box's two corners, −1 nothing.
        square: anything of the square's size; the maps are half as large.
        sigma_px: a click's standard deviation, in px of the square.
    """
    centres = (
        torch.arange(square.shape[-1] // 2, device=points_xy.device, dtype=torch.float32) * 2.0
        + 0.5
    )
    reach = 2 * sigma_px * sigma_px
    bumps_x = torch.exp(-((centres - points_xy[..., 0, None]) ** 2) / reach)
    bumps_y = torch.exp(-((centres - points_xy[..., 1, None]) ** 2) / reach)
    bumps = bumps_y[..., :, None] * bumps_x[..., None, :]
    inside = (bumps * (point_labels == 1).float()[..., None, None]).amax(dim=1)
    outside = (bumps * (point_labels == 0).float()[..., None, None]).amax(dim=1)
    starts, ends = (point_labels == 2).float(), (point_labels == 3).float()
    start = (points_xy * starts[..., None]).sum(dim=1)
    end = (points_xy * ends[..., None]).sum(dim=1)
    across = _covered(centres, start[:, :1], end[:, :1]) * starts.sum(dim=1)[:, None]
    down = _covered(centres, start[:, 1:], end[:, 1:])
    box = down[:, :, None] * across[:, None, :]
    return torch.stack([box, inside, outside], dim=1)


def _covered(
    centres: Float[Tensor, " c"], start: Float[Tensor, "b 1"], end: Float[Tensor, "b 1"]
) -> Float[Tensor, "b c"]:
    """The share of each cell between the outer edges of two pixels."""
    left = torch.maximum(centres - 1.0, start - 0.5)
    right = torch.minimum(centres + 1.0, end + 0.5)
    return ((right - left) / 2.0).clamp(0.0, 1.0)


class Decoder(nn.Module):
    """Maps and a prompt → one mask and how well it is expected to overlap."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.sigma_px = config.click_sigma_px
        w2, w4, w8, w16 = config.widths
        self.drawn = nn.Conv2d(3 + 4, w2, 3, padding=1)
        self.downs = nn.ModuleList([Down(w2, w4), Down(w4, w8), Down(w8, w16)])
        self.rise = Rise(config)
        self.mask = nn.Conv2d(w2, 4, 3, padding=1)
        nn.init.constant_(_bias(self.mask), _RARE)
        self.quality = nn.Sequential(nn.Linear(w16 + w2, 48), nn.ReLU(), nn.Linear(48, 1))

    def forward(
        self,
        features: Features,
        points_xy: Float[Tensor, "b n 2"],
        point_labels: Int[Tensor, "b n"],
        previous: Float[Tensor, "b 1 s s"],
    ) -> tuple[Float[Tensor, "b s s"], Float[Tensor, " b"]]:
        """Logits on the square, and the expected IoU.

        Args:
            features: of the encoder.
            points_xy: see `prompt_maps`.
            point_labels: see `prompt_maps`.
            previous: logits of the previous answer, all zero when there is none.
        """
        maps = prompt_maps(points_xy, point_labels, previous, self.sigma_px)
        before = F.pixel_unshuffle(previous.clamp(-8.0, 8.0) / 8.0, 2)
        x = F.relu(self.drawn(torch.cat([maps, before], dim=1)))
        prompted = [features[0] + x]
        for level, down in enumerate(self.downs, start=1):
            x = down(x)
            prompted.append(features[level] + x)
        coarse, fine = self.rise((prompted[0], prompted[1], prompted[2], prompted[3]))
        cell_logits = self.mask(fine)
        found = cell_logits.mean(dim=1, keepdim=True).sigmoid()
        pooled = (fine * found).sum(dim=(2, 3)) / (found.sum(dim=(2, 3)) + 1.0)
        both = torch.cat([coarse.mean(dim=(2, 3)), pooled], dim=1)
        return F.pixel_shuffle(cell_logits, 2)[:, 0], self.quality(both)[:, 0].sigmoid()


class Context(nn.Module):
    """Adds to the coarsest map what is far away: which vessel it is shows on the whole image.

    Nothing is added before the first lesson, so that a student without it can be gone on from.
    """

    def __init__(self, width: int, inner: int, rest: tuple[int, ...]) -> None:
        super().__init__()
        self.down = Down(width, inner)
        self.before = nn.Sequential(Block(inner), Block(inner))
        self.deeper = Context(inner, rest[0], rest[1:]) if rest else None
        self.after = Block(inner)
        self.added = nn.Conv2d(inner, width, 1)
        nn.init.zeros_(self.added.weight)
        nn.init.zeros_(_bias(self.added))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The map with what lies around added."""
        inner = self.before(self.down(x))
        if self.deeper is not None:
            inner = self.deeper(inner)
        around = self.added(self.after(inner))
        return x + F.interpolate(around, scale_factor=2.0, mode="bilinear", align_corners=False)


class Automatic(nn.Module):
    """Maps of a whole image → the tree and lesion candidates, without a prompt."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.context = None
        if config.context:
            self.context = Context(config.widths[3], config.context[0], config.context[1:])
        self.rise = Rise(config)
        self.masks = nn.Conv2d(config.widths[0], 4 * config.channels, 3, padding=1)
        nn.init.constant_(_bias(self.masks), _RARE)

    def forward(self, features: Features) -> Float[Tensor, "b k s s"]:
        """Logits on the square, one map a channel."""
        if self.context is not None:
            features = (*features[:3], self.context(features[3]))
        logits: Tensor = F.pixel_shuffle(self.masks(self.rise(features)[1]), 2)
        return logits


class Student(nn.Module):
    """Encoder, decoder and automatic head."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.automatic = Automatic(config)

    @property
    def n_params(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.parameters())
