"""A trained nnU-Net v2 as a `Segmenter`: automatic only, for CT slices and other single pictures.

It labels every pixel of a frame once; prompts choose among what it found. A box keeps what lies in
it, a click the connected part under it. Knows neither files nor which labels there are.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from scipy.ndimage import label

from casebook.protocols import Embedding, Frame, Prediction, Prompt
from segmenter.cache import EmbeddingCache
from segmenter.doubt import uncertainty_of
from segmenter.prompts import FAR_OUTSIDE

_SURE = 1e-6
"""Probabilities are kept this far from 0, so that logits stay finite."""
_PICTURE_SPACING = (999.0, 1.0, 1.0)
"""What nnU-Net's reader of pictures gives every picture. Source: nnunetv2, natural_image_reader."""


@dataclass(frozen=True)
class NnunetEmbedding:
    """A frame the model was shown; what it found lies in the model's cache."""

    frame: Frame


class Nnunet:
    """A loaded nnU-Net of the 2d configuration."""

    def __init__(
        self, predictor: Any, model_id: str, labels: Mapping[str, int], *, cache_mb: float = 256.0
    ) -> None:
        """A segmenter over a loaded predictor.

        Args:
            predictor: nnU-Net's own, with network, plans and weights.
            labels: Channel of each label's probability; the background is channel 0.
            cache_mb: Memory for what was found on the last frames.
        """
        self._predictor = predictor
        self._model_id = model_id
        self._labels = dict(labels)
        self._lock = threading.RLock()
        self._found: EmbeddingCache[Float32[np.ndarray, "k h w"]] = EmbeddingCache(
            int(cache_mb * 2**20), lambda shares: shares.nbytes
        )

    @property
    def model_id(self) -> str:
        """The id every answer carries."""
        return self._model_id

    @property
    def n_embeds(self) -> int:
        """How many times the network has looked at a frame."""
        return self._found.misses

    def embed(self, frame: Frame) -> NnunetEmbedding:
        """The frame; the network looks at it when the first prompt comes."""
        return NnunetEmbedding(frame)

    def predict(self, embedding: Embedding, prompt: Prompt) -> tuple[Prediction, ...]:
        """The parts of a label for a concept, none for a name it was not taught.

        For a box or clicks one mask: whatever was found in the box, or in the parts under positive
        clicks and not under negative ones; empty where nothing was found.

        Raises:
            PromptError: the prompt is empty, contradictory or outside the image.
        """
        frame = embedding.frame
        prompt = prompt.checked(frame.hw)
        logits = self._logits(frame, prompt.concept)
        if prompt.box_xyxy is not None or len(prompt.points_xy):
            if logits is None:  # a name it was not taught is no reason to leave a box unanswered
                logits = self._logits(frame, None)
            assert logits is not None  # noqa: S101 - without a name there is always an answer
            return (_answer(_chosen(logits, prompt), prompt.concept),)
        if logits is None:
            return ()
        parts, count = label(logits > 0)
        kept = (
            _answer(_only(logits, parts == index), prompt.concept) for index in range(1, count + 1)
        )
        return tuple(sorted(kept, key=lambda part: -part.score))

    def _logits(self, frame: Frame, concept: str | None) -> Float32[np.ndarray, "h w"] | None:
        """Of a label, or of any but the background, against the likeliest of all others.

        Above 0 is therefore what nnU-Net itself would label so. None for an unknown name.
        """
        if concept is not None and concept not in self._labels:
            return None
        with self._lock:
            shares = self._found.get(frame.digest, lambda: self._shares(frame))
        is_wanted = np.arange(len(shares)) == (0 if concept is None else self._labels[concept])
        wanted, others = shares[is_wanted].max(axis=0), shares[~is_wanted].max(axis=0)
        ratio = np.log(wanted.clip(_SURE, 1.0)) - np.log(others.clip(_SURE, 1.0))
        return np.asarray(-ratio if concept is None else ratio, dtype=np.float32)

    def _shares(self, frame: Frame) -> Float32[np.ndarray, "k h w"]:
        """The probability of each label, background first, at every pixel."""
        _, shares = self._predictor.predict_single_npy_array(
            frame.pixels[None, None].astype(np.float32),
            {"spacing": _PICTURE_SPACING},
            None,
            None,
            True,
        )
        return np.asarray(shares[:, 0], dtype=np.float32)


def _only(
    logits: Float32[np.ndarray, "h w"], bitmap: Bool[np.ndarray, "h w"]
) -> Float32[np.ndarray, "h w"]:
    return np.where(bitmap, logits, np.float32(FAR_OUTSIDE)).astype(np.float32)


def _chosen(logits: Float32[np.ndarray, "h w"], prompt: Prompt) -> Float32[np.ndarray, "h w"]:
    """What a box and clicks keep of it."""
    inside = np.ones(logits.shape, dtype=bool)
    if prompt.box_xyxy is not None:
        x1, y1, x2, y2 = (round(side) for side in prompt.box_xyxy)
        inside[:] = False
        inside[y1 : y2 + 1, x1 : x2 + 1] = True
    parts, _ = label((logits > 0) & inside)
    cells = np.clip(prompt.points_xy.round().astype(np.int64), 0, None)
    columns = cells[:, 0].clip(max=logits.shape[1] - 1)
    rows = cells[:, 1].clip(max=logits.shape[0] - 1)
    under, is_positive = parts[rows, columns], prompt.point_labels == 1
    if is_positive.any():
        inside &= np.isin(parts, under[is_positive & (under > 0)])
    inside &= ~np.isin(parts, under[~is_positive & (under > 0)])
    return _only(logits, inside)


def _answer(logits: Float32[np.ndarray, "h w"], concept: str | None) -> Prediction:
    bitmap = logits > 0
    score = float((1.0 / (1.0 + np.exp(-logits[bitmap]))).mean()) if bitmap.any() else 0.0
    score = min(1.0, max(0.0, score))
    return Prediction(
        bitmap=bitmap,
        score=score,
        label=concept,
        logits=logits,
        uncertainty=uncertainty_of(score, logits),
    )
