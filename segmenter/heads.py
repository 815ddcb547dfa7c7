"""What the model says of a mask beside its outline: segment code, stenosis and diameters.

A small network over the features and the mask of the interactive path, trained with it and kept
beside its adapter. Lengths are learnt in px of the model's square and given in px of the image.
Knows no label's name and no millimetre.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from casebook.cases import View
from casebook.documents import write_bytes
from casebook.errors import ModelError, TrainingError
from segmenter.fit import HeadsConfig
from segmenter.sam3 import Features, Sam3

FILE = "heads.safetensors"
N_CODES = 30
"""Codes 0 to 29: the CASS segments' numbers, 0 for any other object. Source: DICOM CID 3014."""
_VIEW_NUMBERS = 5
_SHAPE_NUMBERS = 3
_PLACE_NUMBERS = 6
_SPREAD = 4.0
"""Brings what is said of places to a deviation of about 1."""
_UNSEEN = 0.1
"""Masks that a code nobody taught is taken to have."""


@dataclass(frozen=True)
class Targets:
    """What is known of one mask; None where nobody measured."""

    code: int | None = None
    """Segment code, 0 to 29."""
    stenosis_pct: float | None = None
    mld_px: float | None = None
    """Minimal lumen diameter, px of the image."""
    rvd_px: float | None = None
    """Reference diameter, px of the image."""


class HeadTargets(NamedTuple):
    """The targets of a batch in the model's square; NaN and -1 where unknown."""

    code: Int[Tensor, " b"]
    stenosis: Float[Tensor, " b"]
    """Share of the reference diameter, 0 to 1."""
    log_mld: Float[Tensor, " b"]
    log_rvd: Float[Tensor, " b"]

    def to(self, device: torch.device) -> "HeadTargets":
        """The same on a device."""
        return HeadTargets(*(value.to(device) for value in self))

    def rows(self, rows: slice) -> "HeadTargets":
        """Those of some masks."""
        return HeadTargets(*(value[rows] for value in self))


class HeadAnswers(NamedTuple):
    """What the heads say of a batch of masks."""

    code: Float[Tensor, "b k"]
    """Logits over codes."""
    stenosis: Float[Tensor, " b"]
    log_mld: Float[Tensor, " b"]
    log_rvd: Float[Tensor, " b"]


def view_numbers(views: Sequence[View | None]) -> Float[Tensor, "b 5"]:
    """Sine and cosine of both angles, and whether they are known."""
    rows = []
    for view in views:
        if view is None:
            rows.append([0.0] * _VIEW_NUMBERS)
        else:
            a, b = math.radians(view.primary_deg), math.radians(view.secondary_deg)
            rows.append([math.sin(a), math.cos(a), math.sin(b), math.cos(b), 1.0])
    return torch.tensor(rows)


def targets_of(targets: Sequence[Targets], square_per_image: Float[Tensor, " b"]) -> HeadTargets:
    """Targets of a batch in the model's square.

    Args:
        square_per_image: Px of the square in a px of the image, for each mask.
    """

    def lengths(values: Sequence[float | None]) -> Tensor:
        known = [math.nan if value is None or value <= 0 else value for value in values]
        return torch.log(torch.tensor(known) * square_per_image)

    shares = [math.nan if t.stenosis_pct is None else t.stenosis_pct / 100 for t in targets]
    codes = [-1 if t.code is None or not 0 <= t.code < N_CODES else t.code for t in targets]
    return HeadTargets(
        torch.tensor(codes),
        torch.tensor(shares),
        lengths([t.mld_px for t in targets]),
        lengths([t.rvd_px for t in targets]),
    )


class Heads(nn.Module):
    """The network behind the answers."""

    def __init__(self, config: HeadsConfig, width: int, fine_width: int) -> None:
        """A fresh network.

        Args:
            width: Channels of the coarse features.
            fine_width: Channels of the finest ones.
        """
        super().__init__()
        self.config = config
        hidden = config.hidden
        self.look = nn.Sequential(
            nn.Conv2d(fine_width + 1, hidden // 2, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(hidden // 2, hidden, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, stride=2, padding=1),
            nn.GELU(),
        )
        n_in = 2 * width + fine_width + 2 * hidden + _VIEW_NUMBERS + _SHAPE_NUMBERS
        self.join = nn.Sequential(
            nn.LayerNorm(n_in),
            nn.Linear(n_in, 2 * hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(2 * hidden, N_CODES + 3),
        )
        self.where: nn.Sequential | None = None
        if config.uses_place:
            # Apart from what is seen: a few numbers that say most are lost among hundreds.
            self.where = nn.Sequential(
                nn.Linear(_VIEW_NUMBERS + _PLACE_NUMBERS, hidden),
                nn.GELU(),
                nn.Dropout(config.dropout),
                nn.Linear(hidden, N_CODES),
            )

    @torch.no_grad()
    def begin_at(self, targets: HeadTargets, cells: int) -> None:
        """Answer what is usual, whatever is seen: learning starts there and not at nothing.

        Args:
            targets: All that is known of the masks to learn from.
            cells: Along a side of the masks' logits.
        """
        last = cast(nn.Linear, self.join[-1])
        known = targets.code[targets.code >= 0]
        last.weight.mul_(0.1)
        if self.where is not None:
            by_place = cast(nn.Linear, self.where[-1])
            by_place.weight.mul_(0.1)
            by_place.bias.zero_()
        if len(known):
            often = torch.bincount(known, minlength=N_CODES).float() + _UNSEEN
            last.bias[:N_CODES] = (often / often.sum()).log()
        middle = math.log(cells) / 2
        for at, values in enumerate((targets.stenosis, targets.log_mld, targets.log_rvd)):
            there = values[torch.isfinite(values)]
            if len(there):
                usual = there.mean()
                bias = torch.logit(usual, eps=0.01) if at == 0 else usual - middle
                last.bias[N_CODES + at] = bias

    def forward(
        self,
        features: Features,
        logits: Float[Tensor, "b m m"],
        views: Float[Tensor, "b 5"],
        places: Float[Tensor, "b 3"],
    ) -> HeadAnswers:
        """Answers for one mask per row of features.

        Args:
            places: Where in the frame the square of each lies, see `segmenter/prompts.py`.
        """
        inside = logits.float().sigmoid()
        coarse, fine = features.embedding.float(), features.fine.float()
        looked = self.look(torch.cat([fine, inside[:, None]], dim=1))
        told = views if self.config.uses_view else torch.zeros_like(views)
        numbers = [
            coarse.mean(dim=(2, 3)),
            _mean_inside(coarse, inside),
            _mean_inside(fine, inside),
            looked.mean(dim=(2, 3)),
            looked.amax(dim=(2, 3)),
            told,
            _shape_of(inside),
        ]
        out = self.join(torch.cat(numbers, dim=1))
        code, rest = out[:, :N_CODES], out[:, N_CODES:]
        if self.where is not None:
            place = _SPREAD * _place_of(inside, places)
            code = code + self.where(torch.cat([2 * told, place], dim=1))
        side = math.log(logits.shape[-1])
        return HeadAnswers(code, rest[:, 0].sigmoid(), rest[:, 1] + side / 2, rest[:, 2] + side / 2)


def head_sizes(model: Sam3) -> tuple[int, int]:
    """Channels of a model's coarse and finest features: what its heads read."""
    fine: nn.Conv2d = model.tracker.sam_mask_decoder.conv_s0
    return model.config.width, fine.out_channels


def _mean_inside(
    features: Float[Tensor, "b c g h"], inside: Float[Tensor, "b m m"]
) -> Float[Tensor, "b c"]:
    """The mean of the features under the mask."""
    share = F.adaptive_avg_pool2d(inside[:, None], (features.shape[-2], features.shape[-1]))
    return (features * share).sum(dim=(2, 3)) / share.sum(dim=(2, 3)).clamp(min=1e-3)


def _shape_of(inside: Float[Tensor, "b m m"]) -> Float[Tensor, "b 3"]:
    """Logarithms of area, outline and mean width of each mask, in cells of its grid."""
    area = inside.sum(dim=(1, 2)) + 1.0
    outline = (
        inside.diff(dim=1).abs().sum(dim=(1, 2)) + inside.diff(dim=2).abs().sum(dim=(1, 2))
    ) + 1
    return torch.stack([area.log(), outline.log(), (2 * area / outline).log()], dim=1)


def _place_of(inside: Float[Tensor, "b m m"], places: Float[Tensor, "b 3"]) -> Float[Tensor, "b 6"]:
    """Where each mask lies in its frame, how far it reaches and along which diagonal it runs."""
    cells = inside.shape[-1]
    at = (torch.arange(cells, device=inside.device) + 0.5) / cells * 2 - 1
    share = inside / inside.sum(dim=(1, 2), keepdim=True).clamp(min=1e-3)
    columns, rows = share.sum(dim=1), share.sum(dim=2)
    x, y = (columns * at).sum(dim=1), (rows * at).sum(dim=1)
    wide = (columns * (at - x[:, None]) ** 2).sum(dim=1).sqrt()
    high = (rows * (at - y[:, None]) ** 2).sum(dim=1).sqrt()
    along = torch.einsum("brc,br,bc->b", share, at - y[:, None], at - x[:, None])
    slope = along / (wide * high).clamp(min=1e-3)
    middle_x, middle_y, half = places.unbind(dim=1)
    return torch.stack(
        [middle_x + half * x, middle_y + half * y, half * wide, half * high, slope, half.log()],
        dim=1,
    )


def heads_loss(
    answers: HeadAnswers, targets: HeadTargets, weights: Float[Tensor, " b"]
) -> dict[str, Tensor]:
    """The loss over what is known of each mask, and figures of it, by name."""
    device = answers.stenosis.device
    terms: dict[str, Tensor] = {}
    known = (targets.code >= 0) & (weights > 0)
    if bool(known.any()):
        entropy = F.cross_entropy(answers.code[known], targets.code[known], reduction="none")
        terms["code"] = _weighted(entropy, weights[known])
        hit = answers.code[known].argmax(dim=1) == targets.code[known]
        terms["code_right"] = hit.float().mean()
    total = terms.get("code", torch.zeros((), device=device))
    for name, scale in (("stenosis", 0.2), ("log_mld", 0.3), ("log_rvd", 0.3)):
        told, truth = getattr(answers, name), getattr(targets, name)
        there = torch.isfinite(truth) & (weights > 0)
        if bool(there.any()):
            wrong = F.smooth_l1_loss(told[there] / scale, truth[there] / scale, reduction="none")
            terms[name] = _weighted(wrong, weights[there])
            total = total + terms[name]
    return {**terms, "heads": total}


def _weighted(values: Float[Tensor, " n"], weights: Float[Tensor, " n"]) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1e-6)


def told(answers: HeadAnswers, image_per_square: float) -> dict[str, float]:
    """One mask's answers by name: `code`, `code_score`, `stenosis_pct`, `mld_px`, `rvd_px`.

    Args:
        image_per_square: Px of the image in a px of the model's square.
    """
    shares = answers.code[0].softmax(dim=0)
    best = int(shares.argmax())
    return {
        "code": float(best),
        "code_score": float(shares[best]),
        "stenosis_pct": 100.0 * float(answers.stenosis[0]),
        "mld_px": math.exp(float(answers.log_mld[0])) * image_per_square,
        "rvd_px": math.exp(float(answers.log_rvd[0])) * image_per_square,
    }


def save_heads(heads: Heads, folder: Path) -> None:
    """Write the heads beside their adapter, atomically.

    Raises:
        TrainingError: a weight is not finite.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in heads.state_dict().items()}
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise TrainingError("the trained heads hold NaN or infinity; train again with a lower lr")
    write_bytes(folder / FILE, save(state, {"config": heads.config.model_dump_json()}))


def load_heads(folder: Path, width: int, fine_width: int) -> Heads | None:
    """The heads kept beside an adapter, in evaluation mode; None when it has none.

    Raises:
        ModelError: the file is damaged or belongs to a model of other sizes.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as stored:
            # Heads of before there were places were told none.
            said = {"uses_place": False} | json.loads((stored.metadata() or {})["config"])
            config = HeadsConfig.model_validate(said)
            state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        heads = Heads(config, width, fine_width)
        heads.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as problem:
        line = str(problem).splitlines()[0]
        raise ModelError(f"{path}: not this model's heads ({line}); train again") from None
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise ModelError(f"{path}: holds NaN or infinity; train it again")
    return heads.eval()
