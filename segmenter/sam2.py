"""A SAM 2 family model of transformers as `Segmenter` and `Tracker`: boxes, clicks, clips.

The road for MedSAM2 and other weights in transformers' format, for echo clips and whatever else
SAM 3 was not trained on. To a concept it has no answer. Knows neither files nor labels.
"""

import threading
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from casebook.errors import PromptError
from casebook.following import check_drawn
from casebook.masks import box_of
from casebook.protocols import Embedding, Frame, Prediction, Prompt
from segmenter.cache import EmbeddingCache
from segmenter.doubt import uncertainty_of
from segmenter.prompts import (
    FAR_OUTSIDE,
    Window,
    WindowConfig,
    crop,
    crop_logits,
    paste,
    prompt_points,
    window_of,
)

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What the released weights were trained with. Source: Sam2ImageProcessor of transformers."""
_WHOLE_SIDE_PX = 512
"""Models with at least this square are shown the whole image, smaller ones a window."""
_ROOM = 2.5
"""Side of a track's window over the longer side of its first mask's box."""
_OBJECT = 1


@dataclass(frozen=True)
class Sam2Embedding:
    """A frame the model was shown; what it computes of it lies in the model's cache."""

    frame: Frame


@dataclass(frozen=True)
class Sam2Memory:
    """What is remembered of one object; each step makes a new one."""

    window: Window
    hw: tuple[int, int]
    given: dict[int, Any]
    """Results where a mask was given, by position in the walk."""
    found: dict[int, Any]
    """Results of the last steps, by position in the walk."""
    index: int


class Sam2:
    """A loaded SAM 2 that answers boxes and clicks and carries a mask along a clip."""

    def __init__(
        self,
        model: Any,
        model_id: str,
        upstream: ModuleType,
        *,
        windows: WindowConfig | None = None,
        cache_mb: float = 256.0,
    ) -> None:
        """A segmenter over a loaded model.

        Args:
            model: A `Sam2VideoModel` of transformers.
            model_id: The id its answers carry.
            upstream: transformers itself, whose session carries a track.
            windows: How windows are laid around prompts; by the model's square when absent.
            cache_mb: Memory for embeddings.
        """
        self._model = model.eval()
        self._model_id = model_id
        self._session: Any = upstream.Sam2VideoInferenceSession
        self._side = int(model.config.prompt_encoder_config.image_size)
        self._windows = windows or WindowConfig(whole_image=self._side >= _WHOLE_SIDE_PX)
        self._lock = threading.RLock()
        self._maps: EmbeddingCache[list[Tensor]] = EmbeddingCache(
            int(cache_mb * 2**20), lambda maps: sum(m.numel() * m.element_size() for m in maps)
        )

    @property
    def model_id(self) -> str:
        """The id every answer carries."""
        return self._model_id

    @property
    def n_embeds(self) -> int:
        """How many times the image encoder has run for a box or click."""
        return self._maps.misses

    def embed(self, frame: Frame) -> Sam2Embedding:
        """The frame, ready for prompts; the encoder runs when the first one says where to look."""
        return Sam2Embedding(frame)

    def predict(self, embedding: Embedding, prompt: Prompt) -> tuple[Prediction, ...]:
        """One mask for a box or clicks; none for a concept, which this family does not know.

        Raises:
            PromptError: the prompt is empty, contradictory or outside the image.
        """
        frame = embedding.frame
        prompt = prompt.checked(frame.hw)
        if prompt.box_xyxy is None and not len(prompt.points_xy):
            return ()
        window = window_of(prompt, frame.hw, self._windows)
        points, kinds = prompt_points(prompt, window, self._side)
        model, device = self._model, self._device
        previous = None
        if prompt.mask_logits is not None:
            cells = model.prompt_encoder.mask_input_size[0]
            cut = crop_logits(prompt.mask_logits, window, cells)
            previous = torch.from_numpy(cut)[None, None].to(device)
        with self._lock, torch.inference_mode():
            maps = self._maps.get(
                (frame.digest, window),
                lambda: list(model.get_image_embeddings(self._pixels(frame, window))),
            )
            # The corners of a box are points of the kinds 2 and 3, as in SAM 3. The decoder is
            # asked directly: the model's own step blanks masks it scores as absent.
            sparse, dense = model.prompt_encoder(
                input_points=torch.from_numpy(points)[None, None].float().to(device),
                input_labels=torch.from_numpy(kinds)[None, None].to(device),
                input_boxes=None,
                input_masks=previous,
            )
            masks, quality, _, _ = model.mask_decoder(
                image_embeddings=maps[-1],
                image_positional_embeddings=model.get_image_wide_positional_embeddings(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
                high_resolution_features=maps[:-1],
            )
            logits = paste(masks[0, 0, 0].float(), window, frame.hw)
            score = min(1.0, max(0.0, float(quality[0, 0, 0])))
        return (
            Prediction(
                bitmap=logits > 0,
                score=score,
                label=prompt.concept,
                logits=logits,
                uncertainty=uncertainty_of(score, logits),
            ),
        )

    def start(self, frame: Frame, bitmap: Bool[np.ndarray, "h w"]) -> Sam2Memory:
        """A memory that knows this mask on this frame.

        Raises:
            PromptError: the mask is empty or of another size than the frame.
        """
        check_drawn(frame, bitmap)
        x1, y1, x2, y2 = (float(value) for value in box_of(bitmap))
        roomy = self._windows.model_copy(update={"expand": _ROOM, "zoom": False})
        window = window_of(Prompt(box_xyxy=(x1, y1, x2, y2)), frame.hw, roomy)
        grey = np.where(bitmap, np.uint8(255), np.uint8(0))
        mask = torch.from_numpy(crop(grey, window, self._side) > 127)[None, None].float()
        nothing = Sam2Memory(window, frame.hw, {}, {}, -1)
        out, _ = self._advance(nothing, frame, mask.to(self._device))
        return Sam2Memory(window, frame.hw, {0: out}, {}, 0)

    def step(self, memory: object, frame: Frame) -> tuple[Sam2Memory, Prediction]:
        """The memory after the next frame, and the mask on it; score near 0 when it is lost.

        Raises:
            PromptError: the memory is not this tracker's, or the frame has another size.
        """
        if not isinstance(memory, Sam2Memory) or memory.hw != frame.hw:
            raise PromptError("this is not the run that was started; start tracking again")
        out, told = self._advance(memory, frame, None)
        logits = paste(
            told.pred_masks[0, 0].float().clamp(min=FAR_OUTSIDE), memory.window, frame.hw
        )
        score = float(out["object_score_logits"].float().sigmoid())
        index = memory.index + 1
        config = self._model.config
        reach = max(config.num_maskmem, config.max_object_pointers_in_encoder)
        kept = {at: result for at, result in memory.found.items() if at > index - reach}
        after = Sam2Memory(memory.window, memory.hw, memory.given, {**kept, index: out}, index)
        uncertainty = uncertainty_of(score, logits)
        return after, Prediction(logits > 0, score, logits=logits, uncertainty=uncertainty)

    def _advance(
        self, memory: Sam2Memory, frame: Frame, mask: Float[Tensor, "1 1 s s"] | None
    ) -> tuple[dict[str, Any], Any]:
        """The result of the next position, in a session that knows what the memory does."""
        here = self._device
        session = self._session(
            inference_device=here, inference_state_device=here, dtype=torch.float32
        )
        place = session.obj_id_to_idx(_OBJECT)
        results = session.output_dict_per_obj[place]
        results["cond_frame_outputs"] = dict(memory.given)
        results["non_cond_frame_outputs"] = dict(memory.found)
        index = memory.index + 1
        if mask is not None:
            session.add_mask_inputs(place, index, mask)
            session.obj_with_new_inputs = [_OBJECT]
        with self._lock, torch.inference_mode():
            told = self._model(session, frame=self._pixels(frame, memory.window), frame_idx=index)
        kind = "cond_frame_outputs" if mask is not None else "non_cond_frame_outputs"
        out = results[kind][index]
        # The next steps read the memory and the pointer alone; masks at full size would pile up.
        return {name: value for name, value in out.items() if name != "high_res_masks"}, told

    @property
    def _device(self) -> torch.device:
        device: torch.device = self._model.no_memory_embedding.device
        return device

    def _pixels(self, frame: Frame, window: Window) -> Float[Tensor, "1 3 s s"]:
        square = crop(frame.pixels, window, self._side).astype(np.float32) / 255.0
        mean, deviation = (torch.tensor(value)[:, None, None] for value in (_MEAN, _STD))
        return ((torch.from_numpy(square)[None] - mean) / deviation)[None].to(self._device)
