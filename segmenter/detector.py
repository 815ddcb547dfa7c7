"""The concept path on frames: several concepts are asked of a frame together.

What is computed of a frame and of a text is kept. Knows neither labels nor adapters.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from casebook.cases import View
from casebook.protocols import Frame, Prediction, Prompt
from segmenter.answers import SPECK_IN_TILES, answer, is_same, pieces
from segmenter.cache import EmbeddingCache
from segmenter.heads import view_numbers
from segmenter.prompts import Window, paste, to_square, whole_window, window_pixels, worded
from segmenter.sam3 import Sam3
from segmenter.tiles import blended, tiles_of

_MASK_BYTES = 2**28
"""Masks of object queries that are computed at a time …"""
_MOST = 32
"""… and questions, whatever they take."""
_TEXT_BYTES = 2**24


class Detector:
    """Finds all instances of concepts; keeps what it has seen until it is told to forget."""

    def __init__(self, model: Sam3, *, cache_mb: float, threshold: float, dense: bool) -> None:
        """A detector over a loaded model.

        Args:
            model: In evaluation mode.
            cache_mb: Memory for what is kept of frames, twice.
            threshold: Instances scored lower are not answered.
            dense: Where no instance is found, answer with the parts of the concept's dense map.
        """
        self._model, self._threshold, self._dense = model, threshold, dense
        limit = int(cache_mb * 2**20)
        self._trunks: EmbeddingCache[Tensor] = EmbeddingCache(limit, _bytes_of)
        self._tiles: EmbeddingCache[dict[str, Any]] = EmbeddingCache(limit, _bytes_of_maps)
        self._texts: EmbeddingCache[dict[str, Tensor]] = EmbeddingCache(_TEXT_BYTES, _bytes_of_all)

    def clear(self) -> None:
        """Forget everything: another adapter sees and reads otherwise."""
        self._trunks.clear()
        self._tiles.clear()
        self._texts.clear()

    def find(
        self,
        frame: Frame,
        prompts: Sequence[Prompt],
        *,
        view_in_text: bool,
        tile: float | None,
    ) -> list[tuple[Prediction, ...]]:
        """Every instance of each concept, best first; a prompt an entry.

        Args:
            frame: Where they are looked for.
            prompts: With a concept each; the view is the frame's unless a prompt has one.
            view_in_text: Put the view into words.
            tile: Side of the tiles the frame is looked at in, over its longer side; None: whole.
        """
        found: dict[int, tuple[Prediction, ...]] = {}
        groups: dict[int, list[int]] = {}
        for index, prompt in enumerate(prompts):
            # A box of an example means nothing in another tile: with one the whole is looked at.
            count = len(prompt.exemplars_xyxy)
            groups.setdefault(-1 if tile is not None and not count else count, []).append(index)
        for count, rows in groups.items():
            squares = tiles_of(frame.hw, tile) if count < 0 and tile is not None else ()
            at_once = self._at_once(len(squares))
            for start in range(0, len(rows), at_once):
                some = rows[start : start + at_once]
                asked = [prompts[row] for row in some]
                texts = self._text(
                    [
                        worded(one.concept or "", _view(one, frame) if view_in_text else None)
                        for one in asked
                    ]
                )
                answers = (
                    self._in_tiles(frame, asked, texts, squares)
                    if squares
                    else self._in_whole(frame, asked, texts)
                )
                found |= dict(zip(some, answers, strict=True))
        return [found[index] for index in range(len(prompts))]

    def _at_once(self, n_tiles: int) -> int:
        """Concepts that are asked for together."""
        if n_tiles:
            return max(1, _MOST // n_tiles)
        sizes = self._model.config
        return max(1, min(_MOST, _MASK_BYTES // (4 * sizes.queries * sizes.mask_side**2)))

    def _text(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Encoded texts, one column each; every text is encoded once."""
        known = [
            self._texts.get(text, lambda text=text: self._model.text_features([text]))  # type: ignore[misc]
            for text in texts
        ]
        return {
            name: torch.cat([one[name] for one in known], dim=0 if name == "language_mask" else 1)
            for name in ("language_features", "language_mask", "language_embeds")
        }

    def _pixels(self, frame: Frame, window: Window) -> Float[Tensor, "1 3 s s"]:
        sizes = self._model.config
        square = window_pixels(frame.pixels, window, sizes.side_px, standardised=sizes.standardised)
        return square.to(self._model.device)

    def _in_whole(
        self, frame: Frame, prompts: Sequence[Prompt], texts: dict[str, Tensor]
    ) -> list[tuple[Prediction, ...]]:
        window, model = whole_window(frame.hw), self._model
        trunk = self._trunks.get(frame.digest, lambda: model.trunk(self._pixels(frame, window)))
        count = len(prompts)
        exemplars = None
        if prompts[0].exemplars_xyxy:
            boxes = np.stack([self._exemplars(prompt, window) for prompt in prompts])
            exemplars = torch.from_numpy(boxes).float().to(model.device)
        out: dict[str, Any] = model.ground(
            model.concept_features(trunk),
            texts,
            torch.zeros(count, dtype=torch.long, device=model.device),
            torch.arange(count, device=model.device),
            exemplars_cxcywh=exemplars,
            views=view_numbers([_view(prompt, frame) for prompt in prompts]),
        )
        return [
            self._instances(out, row, frame, window, prompt.concept or "")
            for row, prompt in enumerate(prompts)
        ]

    def _exemplars(self, prompt: Prompt, window: Window) -> Float64[np.ndarray, "e 4"]:
        """Centres and sizes of a prompt's examples, as fractions of the square."""
        side = self._model.config.side_px
        corners = np.array(prompt.exemplars_xyxy, dtype=np.float64).reshape(-1, 2)
        start, end = to_square(corners, window, side).reshape(-1, 2, 2).swapaxes(0, 1)
        boxes: np.ndarray = np.concatenate([(start + end) / 2 + 0.5, end - start + 1], axis=1)
        return boxes / side

    def _instances(
        self, out: Mapping[str, Any], row: int, frame: Frame, window: Window, concept: str
    ) -> tuple[Prediction, ...]:
        presence = float(out["presence_logit_dec"][row].sigmoid().max())
        scores = out["pred_logits"][row, :, 0].float().sigmoid() * presence
        said = {"presence": presence}
        found: list[Prediction] = []
        for index in scores.argsort(descending=True).tolist():
            if float(scores[index]) < self._threshold:
                break
            logits = paste(out["pred_masks"][row, index].float(), window, frame.hw)
            candidate = answer(logits, float(scores[index]), concept, said)
            if candidate.bitmap.any() and not any(is_same(candidate, other) for other in found):
                found.append(candidate)
        if not found and self._dense:
            logits = paste(out["semantic_seg"][row, 0].float(), window, frame.hw)
            found = pieces(logits, concept, said)
        return tuple(found)

    def _in_tiles(
        self,
        frame: Frame,
        prompts: Sequence[Prompt],
        texts: dict[str, Tensor],
        tiles: Sequence[Window],
    ) -> list[tuple[Prediction, ...]]:
        """The parts of each concept's dense map, put together from tiles of the frame."""
        model, count = self._model, len(tiles)

        def seen() -> dict[str, Any]:
            pixels = torch.cat([self._pixels(frame, tile) for tile in tiles])
            return model.concept_features(model.trunk(pixels))

        views = [_view(prompt, frame) for prompt in prompts for _ in tiles]
        dense = model.dense(
            self._tiles.get(frame.digest, seen),
            texts,
            torch.arange(count, device=model.device).repeat(len(prompts)),
            torch.arange(len(prompts), device=model.device).repeat_interleave(count),
            views=view_numbers(views),
        )
        return [
            tuple(pieces(blended(part, tiles, frame.hw), prompt.concept or "", {}, SPECK_IN_TILES))
            for part, prompt in zip(dense.split(count), prompts, strict=True)
        ]


def _view(prompt: Prompt, frame: Frame) -> View | None:
    return prompt.view or frame.view


def _bytes_of(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _bytes_of_all(values: Mapping[str, Tensor]) -> int:
    return sum(_bytes_of(value) for value in values.values())


def _bytes_of_maps(features: Mapping[str, Any]) -> int:
    return sum(_bytes_of(value) for name in ("backbone_fpn", "vision_pos_enc")
               for value in features[name])  # fmt: skip
