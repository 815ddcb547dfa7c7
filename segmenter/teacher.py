"""The teacher: SAM 3 with an adapter as a `casebook.protocols.Segmenter`.

Boxes and clicks go the interactive path, in a window around the prompt; concepts the detector's
path, on the whole image. Knows neither labels nor where models are registered.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from scipy.ndimage import label
from torch import Tensor

from casebook.errors import AngioloopError, ModelError
from casebook.masks import box_of
from casebook.protocols import Embedding, Frame, Prediction, Prompt
from segmenter import adapter as adapters
from segmenter.cache import EmbeddingCache
from segmenter.doubt import uncertainty_of
from segmenter.heads import Heads, head_sizes, load_heads, told, view_numbers
from segmenter.interactive import is_ambiguous, likeliest
from segmenter.prompts import (
    Window,
    WindowConfig,
    crop,
    crop_logits,
    from_grey,
    paste,
    prompt_points,
    to_square,
    whole_window,
    window_of,
    worded,
    zoomed_window,
)
from segmenter.sam3 import REAL, Features, Sam3
from segmenter.tiles import blended, tiles_of
from segmenter.views import load_view
from segmenter.weights import base_sha256, load_base

_DUPLICATE_IOU = 0.7
_SPECK = 0.15
"""Parts of a dense map smaller than this share of the largest are left out."""


@dataclass(frozen=True)
class TeacherEmbedding:
    """A frame the teacher was shown; what it computes of it lies in the teacher's cache."""

    frame: Frame


class Teacher:
    """A loaded SAM 3 that answers prompts; one adapter at a time, switched while in use."""

    def __init__(
        self,
        model: Sam3,
        model_id: str,
        *,
        windows: WindowConfig,
        base_hash: str | None = None,
        cache_mb: float = 256.0,
        concept_threshold: float = 0.3,
        dense: bool = False,
    ) -> None:
        """A teacher over a loaded model.

        Args:
            model: With its base's weights.
            model_id: The id its answers carry.
            windows: How windows are laid around prompts; an adapter trained with a second look
                (`zoom`) takes it too.
            base_hash: Hash of the base; adapters of another are refused.
            cache_mb: Memory for embeddings.
            concept_threshold: Instances scored lower are not answered.
            dense: Where no instance is found, answer with the parts of the concept's dense map. For
                a small base, whose object queries have seen too few pictures.
        """
        self._model = model.eval()
        self._model_id = model_id
        self._adapter: str | None = None
        self._heads: Heads | None = None
        self._view_in_text = False
        self._multimask = model.config.multimask
        self._windows = self._given = windows
        self._base_hash = base_hash
        self._concept_threshold = concept_threshold
        self._dense = dense
        self._lock = threading.RLock()
        limit = int(cache_mb * 2**20)
        self._features: EmbeddingCache[Features] = EmbeddingCache(limit, _bytes_of)
        self._trunks: EmbeddingCache[Tensor] = EmbeddingCache(limit, _bytes_of_tensor)
        self._tiles: EmbeddingCache[dict[str, Any]] = EmbeddingCache(limit, _bytes_of_maps)

    @property
    def model_id(self) -> str:
        """The id every answer carries."""
        return self._model_id

    @property
    def model(self) -> Sam3:
        """The network, for tracking and distillation."""
        return self._model

    @property
    def windows(self) -> WindowConfig:
        """How windows are laid around prompts."""
        return self._windows

    @property
    def n_embeds(self) -> int:
        """How many times the image encoder has run for a box or click."""
        return self._features.misses

    def switch(self, folder: Path | None, model_id: str) -> None:
        """Answer with another adapter from now on, or with the base alone.

        Raises:
            ModelError: it cannot be loaded; the one in use stays.
        """
        with self._lock:
            before, heads, zoom, view_in_text = self._adapter, None, False, False
            view, multimask, tile = None, self._model.config.multimask, self._given.tile
            name = f"a{abs(hash((model_id, str(folder)))):x}" if folder is not None else None
            if name == before:
                return
            if folder is not None and name is not None:
                try:
                    settings = adapters.load_adapter(
                        self._model, folder, name, base_sha256=self._base_hash
                    )
                    zoom, view_in_text = settings.zoom, settings.view_in_text
                    multimask, tile = settings.multimask, settings.tile
                    heads = load_heads(folder, *head_sizes(self._model))
                    view = load_view(folder, self._model.config.width)
                except AngioloopError:
                    adapters.activate(self._model, before)
                    raise
                self._model.eval()  # a fresh adapter's dropout is on
            else:
                adapters.activate(self._model, None)
            if before is not None:
                adapters.remove(self._model, before)
            self._adapter, self._model_id = name, model_id
            self._view_in_text, self._multimask = view_in_text, multimask
            self._windows = self._given.model_copy(
                update={"zoom": self._given.zoom or zoom, "tile": tile}
            )
            self._model.view_embedding = view.to(self._model.device) if view is not None else None
            self._heads = heads.to(self._model.device) if heads is not None else None
            self._features.clear()
            self._trunks.clear()
            self._tiles.clear()

    def embed(self, frame: Frame) -> TeacherEmbedding:
        """The frame, ready for prompts; encoders run when the first prompt says where to look."""
        return TeacherEmbedding(frame)

    def predict(self, embedding: Embedding, prompt: Prompt) -> tuple[Prediction, ...]:
        """One mask for a box or clicks; for a concept every instance found, best first.

        Raises:
            PromptError: the prompt is empty, contradictory or outside the image.
        """
        frame = embedding.frame
        prompt = prompt.checked(frame.hw)
        with self._lock, torch.inference_mode():
            if prompt.box_xyxy is not None or len(prompt.points_xy):
                return (self._interactive(frame, prompt),)
            return self._concept(frame, prompt)

    def features(self, frame: Frame, window: Window) -> Features:
        """Features of a window of a frame, from the cache when they are there."""
        key = (frame.digest, window)
        with self._lock, torch.inference_mode():
            return self._features.get(key, lambda: self._model.encode(self._pixels(frame, window)))

    def _pixels(self, frame: Frame, window: Window) -> Float[Tensor, "1 3 s s"]:
        sizes = self._model.config
        square = crop(frame.pixels, window, sizes.side_px)[None]
        return from_grey(square, standardised=sizes.standardised).to(self._model.device)

    def _interactive(self, frame: Frame, prompt: Prompt) -> Prediction:
        first = self._look(frame, prompt, window_of(prompt, frame.hw, self._windows))
        found = first.bitmap.any()
        x1, y1, x2, y2 = box_of(first.bitmap) if found else (0, 0, 0, 0)
        answer = (float(x1), float(y1), float(x2), float(y2)) if found else None
        window = zoomed_window(prompt, answer, frame.hw, self._windows)
        if window is None:
            return first
        closer = self._look(frame, prompt, window)
        return closer if closer.bitmap.any() else first

    def _look(self, frame: Frame, prompt: Prompt, window: Window) -> Prediction:
        """The answer to a box or clicks in one window."""
        side = self._model.config.side_px
        points, kinds = prompt_points(prompt, window, side)
        device = self._model.device
        previous = None
        if prompt.mask_logits is not None:
            cut = crop_logits(prompt.mask_logits, window, self._model.config.mask_side)
            previous = torch.from_numpy(cut)[None, None].to(device)
        features = self.features(frame, window)
        asked = torch.from_numpy(points)[None].float().to(device)
        labels = torch.from_numpy(kinds)[None].to(device)
        several = is_ambiguous(labels)
        if self._multimask and previous is None and several.any():
            low, quality = likeliest(*self._model.candidates(features, asked, labels), several)
        else:
            low, quality = self._model.decode(features, asked, labels, previous)
        logits = paste(low[0], window, frame.hw)
        said: dict[str, float] = {}
        if self._heads is not None:
            views = view_numbers([prompt.view or frame.view]).to(device)
            said = told(self._heads(features, low, views), window.size_px / side)
        return _prediction(logits, float(quality[0]), prompt.concept, said)

    def _concept(self, frame: Frame, prompt: Prompt) -> tuple[Prediction, ...]:
        concept = prompt.concept or ""
        asked = worded(concept, (prompt.view or frame.view) if self._view_in_text else None)
        if self._windows.tile is not None and not prompt.exemplars_xyxy:
            return self._in_tiles(frame, prompt, asked, self._windows.tile)
        # A box of an example means nothing in another tile: with one the whole image is looked at.
        window = whole_window(frame.hw)
        side = self._model.config.side_px
        trunk = self._trunks.get(
            frame.digest, lambda: self._model.trunk(self._pixels(frame, window))
        )
        exemplars = None
        if prompt.exemplars_xyxy:
            corners = np.array(prompt.exemplars_xyxy, dtype=np.float64).reshape(-1, 2)
            start, end = to_square(corners, window, side).reshape(-1, 2, 2).swapaxes(0, 1)
            boxes = np.concatenate([(start + end) / 2 + 0.5, end - start + 1], axis=1) / side
            exemplars = torch.from_numpy(boxes)[None].float().to(self._model.device)
        first = torch.zeros(1, dtype=torch.long, device=self._model.device)
        out: dict[str, Any] = self._model.ground(
            self._model.concept_features(trunk),
            self._model.text_features([asked]),
            first,
            first,
            exemplars_cxcywh=exemplars,
            views=view_numbers([prompt.view or frame.view]),
        )
        presence = float(out["presence_logit_dec"][0].sigmoid().max())
        scores = out["pred_logits"][0, :, 0].float().sigmoid() * presence
        found: list[Prediction] = []
        for index in scores.argsort(descending=True).tolist():
            if float(scores[index]) < self._concept_threshold:
                break
            logits = paste(out["pred_masks"][0, index].float(), window, frame.hw)
            candidate = _prediction(logits, float(scores[index]), concept, {"presence": presence})
            if candidate.bitmap.any() and not any(_same(candidate, other) for other in found):
                found.append(candidate)
        if not found and self._dense:
            logits = paste(out["semantic_seg"][0, 0].float(), window, frame.hw)
            found = _pieces(logits, concept, {"presence": presence})
        return tuple(found)

    def _in_tiles(
        self, frame: Frame, prompt: Prompt, asked: str, share: float
    ) -> tuple[Prediction, ...]:
        """The parts of a concept's dense map, put together from tiles of the frame."""
        tiles = tiles_of(frame.hw, share)

        def seen() -> dict[str, Any]:
            pixels = torch.cat([self._pixels(frame, tile) for tile in tiles])
            return self._model.concept_features(self._model.trunk(pixels))

        device = self._model.device
        dense = self._model.dense(
            self._tiles.get(frame.digest, seen),
            self._model.text_features([asked]),
            torch.arange(len(tiles), device=device),
            torch.zeros(len(tiles), dtype=torch.long, device=device),
            views=view_numbers([prompt.view or frame.view] * len(tiles)),
        )
        return tuple(_pieces(blended(dense, tiles, frame.hw), prompt.concept or "", {}))


def _prediction(
    logits: Float32[np.ndarray, "h w"], score: float, label: str | None, heads: Mapping[str, float]
) -> Prediction:
    score = min(1.0, max(0.0, score))
    return Prediction(
        bitmap=logits > 0,
        score=score,
        label=label,
        logits=logits,
        heads=dict(heads),
        uncertainty=uncertainty_of(score, logits),
    )


def _pieces(
    logits: Float32[np.ndarray, "h w"], concept: str, heads: Mapping[str, float]
) -> list[Prediction]:
    """The connected parts of a concept's dense map, without specks, best first."""
    parts, count = label(logits > 0)
    shares = 1.0 / (1.0 + np.exp(-logits))
    areas_px = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    found = []
    for index in range(1, count + 1):
        if areas_px[index - 1] < _SPECK * areas_px.max():
            continue
        bitmap = parts == index
        alone = np.where(bitmap, logits, np.minimum(logits, -np.abs(logits))).astype(np.float32)
        found.append(_prediction(alone, float(shares[bitmap].mean()), concept, heads))
    return sorted(found, key=lambda part: -part.score)


def _same(one: Prediction, other: Prediction) -> bool:
    both = np.logical_and(one.bitmap, other.bitmap).sum()
    either = np.logical_or(one.bitmap, other.bitmap).sum()
    return bool(both > _DUPLICATE_IOU * either)


def _bytes_of(features: Features) -> int:
    return sum(_bytes_of_tensor(value) for value in features)


def _bytes_of_maps(features: Mapping[str, Any]) -> int:
    maps = (*features["backbone_fpn"], *features["vision_pos_enc"])
    return sum(_bytes_of_tensor(value) for value in maps)


def _bytes_of_tensor(value: Tensor) -> int:
    return value.numel() * value.element_size()


def default_windows(model: Sam3) -> WindowConfig:
    """Windows around prompts for a small square; the whole image for the real one's large one."""
    sizes = model.config
    return WindowConfig(whole_image=sizes.side_px >= REAL.side_px, tile=sizes.tile)


def load_teacher(
    models_dir: Path,
    model_id: str | None,
    *,
    base: Path,
    device: str | None = None,
    windows: WindowConfig | None = None,
    cache_mb: float = 256.0,
) -> Teacher:
    """A teacher from the registry, or the base alone.

    Args:
        models_dir: `models/` of a workspace.
        model_id: A folder in it; None takes the base without an adapter.
        base: Folder of the base: the shipped tiny one, or what `make weights` wrote.
        device: A torch device; CUDA when there is one, else the CPU.

    Raises:
        ModelError: a file is missing or damaged, or the adapter belongs to another base.
    """
    model = load_base(base)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model.to(chosen)
    teacher = Teacher(
        model,
        base.name,
        windows=windows or default_windows(model),
        base_hash=base_sha256(base),
        cache_mb=cache_mb,
        dense=model.config.side_px < REAL.side_px,
    )
    if model_id is not None:
        folder = models_dir / model_id
        if not folder.is_dir():
            raise ModelError(
                f"model {model_id} is not in {models_dir}; `trainer models` lists them"
            )
        teacher.switch(folder, model_id)
    return teacher
