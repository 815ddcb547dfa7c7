"""The teacher: SAM 3 with an adapter as a `casebook.protocols.Segmenter`.

Boxes and clicks go the interactive path, in a window around the prompt; concepts the detector's
path, on the whole image. Knows neither labels nor where models are registered.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from casebook.errors import AngioloopError, ModelError
from casebook.masks import box_of
from casebook.protocols import Embedding, Frame, Prediction, Prompt
from segmenter import adapter as adapters
from segmenter.answers import answer
from segmenter.cache import EmbeddingCache
from segmenter.detector import Detector
from segmenter.heads import Heads, head_sizes, load_heads, told, view_numbers
from segmenter.interactive import is_ambiguous, likeliest
from segmenter.prompts import (
    Window,
    WindowConfig,
    crop_logits,
    paste,
    place_of,
    prompt_points,
    window_of,
    window_pixels,
    zoomed_window,
)
from segmenter.sam3 import REAL, Features, Sam3
from segmenter.views import load_view
from segmenter.weights import base_sha256, load_base

_AT_ONCE = 8
"""Windows that are encoded, and prompts that are decoded, together."""
_Asked = tuple[Prompt, Window, Float64[np.ndarray, "n 2"], Int64[np.ndarray, " n"]]
"""A prompt, its window, and its points there with their kinds."""


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
        self._lock = threading.RLock()
        limit = int(cache_mb * 2**20)
        self._features: EmbeddingCache[Features] = EmbeddingCache(limit, _bytes_of)
        self._detector = Detector(
            self._model, cache_mb=cache_mb, threshold=concept_threshold, dense=dense
        )

    @property
    def model_id(self) -> str:
        """The id every answer carries."""
        return self._model_id

    @property
    def model(self) -> Sam3:
        """The network, for tracking and distillation."""
        return self._model

    @property
    def multimask(self) -> bool:
        """Whether one click alone is answered by the best of three masks."""
        return self._multimask

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
            self._detector.clear()

    def embed(self, frame: Frame) -> TeacherEmbedding:
        """The frame, ready for prompts; encoders run when the first prompt says where to look."""
        return TeacherEmbedding(frame)

    def predict(self, embedding: Embedding, prompt: Prompt) -> tuple[Prediction, ...]:
        """One mask for a box or clicks; for a concept every instance found, best first.

        Raises:
            PromptError: the prompt is empty, contradictory or outside the image.
        """
        return self.predict_all(embedding, (prompt,))[0]

    def predict_all(
        self, embedding: Embedding, prompts: Sequence[Prompt]
    ) -> tuple[tuple[Prediction, ...], ...]:
        """What `predict` answers to each prompt; what can be computed together is.

        Raises:
            PromptError: one is empty, contradictory or outside the image.
        """
        frame = embedding.frame
        prompts = [prompt.checked(frame.hw) for prompt in prompts]
        shown = [prompt.box_xyxy is not None or len(prompt.points_xy) > 0 for prompt in prompts]
        with self._lock, torch.inference_mode():
            masks = iter(
                self._interactive(
                    frame, [one for one, is_shown in zip(prompts, shown, strict=True) if is_shown]
                )
            )
            named = iter(
                self._detector.find(
                    frame,
                    [one for one, is_shown in zip(prompts, shown, strict=True) if not is_shown],
                    view_in_text=self._view_in_text,
                    tile=self._windows.tile,
                )
            )
            return tuple((next(masks),) if is_shown else next(named) for is_shown in shown)

    def features(self, frame: Frame, window: Window) -> Features:
        """Features of a window of a frame, from the cache when they are there."""
        with self._lock, torch.inference_mode():
            return self._seen(frame, [window])[0]

    def _seen(self, frame: Frame, windows: Sequence[Window]) -> list[Features]:
        """Features of windows of a frame; those not yet seen are encoded together."""

        def encoded(missing: list[tuple[str, Window]]) -> list[Features]:
            made: list[Features] = []
            for start in range(0, len(missing), _AT_ONCE):
                some = [window for _, window in missing[start : start + _AT_ONCE]]
                together = self._model.encode(self._pixels(frame, some))
                made += [
                    Features(*(part[row : row + 1].clone() for part in together))
                    for row in range(len(some))
                ]
            return made

        return self._features.get_all([(frame.digest, window) for window in windows], encoded)

    def _pixels(self, frame: Frame, windows: Sequence[Window]) -> Float[Tensor, "b 3 s s"]:
        sizes = self._model.config
        squares = [
            window_pixels(frame.pixels, window, sizes.side_px, standardised=sizes.standardised)
            for window in windows
        ]
        return torch.cat(squares).to(self._model.device)

    def _interactive(self, frame: Frame, prompts: Sequence[Prompt]) -> list[Prediction]:
        windows = [window_of(prompt, frame.hw, self._windows) for prompt in prompts]
        found = self._look(frame, prompts, windows)
        closer: dict[int, Window] = {}
        for index, (prompt, first) in enumerate(zip(prompts, found, strict=True)):
            x1, y1, x2, y2 = box_of(first.bitmap) if first.bitmap.any() else (0, 0, 0, 0)
            box = (float(x1), float(y1), float(x2), float(y2)) if first.bitmap.any() else None
            window = zoomed_window(prompt, box, frame.hw, self._windows)
            if window is not None:
                closer[index] = window
        again = self._look(frame, [prompts[index] for index in closer], list(closer.values()))
        for index, second in zip(closer, again, strict=True):
            if second.bitmap.any():
                found[index] = second
        return found

    def _look(
        self, frame: Frame, prompts: Sequence[Prompt], windows: Sequence[Window]
    ) -> list[Prediction]:
        """The answers to boxes or clicks, each in a window; those of a kind are decoded together.

        Prompts of one kind have as many points: more would be seen, were they only padding.
        """
        side = self._model.config.side_px
        seen = self._seen(frame, windows)
        drawn = [prompt_points(*one, side) for one in zip(prompts, windows, strict=True)]
        kinds: dict[tuple[int, bool, bool], list[int]] = {}
        for index, (prompt, (points, labels)) in enumerate(zip(prompts, drawn, strict=True)):
            corrects = prompt.mask_logits is not None
            several = self._multimask and not corrects
            several = several and bool(is_ambiguous(torch.from_numpy(labels)[None]).any())
            kinds.setdefault((len(points), corrects, several), []).append(index)
        found: dict[int, Prediction] = {}
        for (_, corrects, several), rows in kinds.items():
            for start in range(0, len(rows), _AT_ONCE):
                some = rows[start : start + _AT_ONCE]
                answers = self._decoded(
                    frame,
                    [(prompts[row], windows[row], *drawn[row]) for row in some],
                    Features(
                        *(
                            torch.cat(parts)
                            for parts in zip(*(seen[row] for row in some), strict=True)
                        )
                    ),
                    corrects=corrects,
                    several=several,
                )
                found |= dict(zip(some, answers, strict=True))
        return [found[index] for index in range(len(prompts))]

    def _decoded(
        self,
        frame: Frame,
        asked: Sequence[_Asked],
        features: Features,
        *,
        corrects: bool,
        several: bool,
    ) -> list[Prediction]:
        """The answers to prompts of one kind."""
        sizes, device = self._model.config, self._model.device
        points = torch.from_numpy(np.stack([one[2] for one in asked])).float().to(device)
        labels = torch.from_numpy(np.stack([one[3] for one in asked])).to(device)
        if several:
            candidates = self._model.candidates(features, points, labels)
            low, quality = likeliest(*candidates, is_ambiguous(labels))
        else:
            previous = None
            if corrects:
                cuts = [
                    crop_logits(prompt.mask_logits, window, sizes.mask_side)
                    for prompt, window, _, _ in asked
                    if prompt.mask_logits is not None
                ]
                previous = torch.from_numpy(np.stack(cuts))[:, None].to(device)
            low, quality = self._model.decode(features, points, labels, previous)
        found = []
        for row, (prompt, window, _, _) in enumerate(asked):
            logits = paste(low[row], window, frame.hw)
            said: dict[str, float] = {}
            if self._heads is not None:
                here = torch.tensor([row], device=device)
                views = view_numbers([prompt.view or frame.view]).to(device)
                places = torch.tensor([place_of(window, frame.hw)], device=device)
                numbers = self._heads(features.rows(here), low[row : row + 1], views, places)
                said = told(numbers, window.size_px / sizes.side_px)
            found.append(answer(logits, float(quality[row]), prompt.concept, said))
        return found


def _bytes_of(features: Features) -> int:
    return sum(part.numel() * part.element_size() for part in features)


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
