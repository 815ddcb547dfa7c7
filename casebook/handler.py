"""CVAT's three kinds of serverless function over any `Segmenter`: a request in, a reply out.

One embedding per image whatever the clicks. Knows no HTTP server, no Nuclio, no torch, and of
coronaries only what an injected `measure` tells it. Logs carry sizes and times, never an image, a
mask or a name.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool
from pydantic import Field

from casebook import masks, regions, wire
from casebook.catalogue import read_png
from casebook.documents import Document, sha256_of
from casebook.errors import AngioloopError, ConfigError, PromptError, QcaError
from casebook.labels import LabelSet
from casebook.protocols import Embedding, Frame, Prediction, Prompt, Segmenter, Tracker
from casebook.tracks import Track, TrackStore

Kind = Literal["interactor", "detector", "tracker"]
Measure = Callable[[Frame, Bool[np.ndarray, "h w"]], Mapping[str, str]]
"""Attributes of a mask by name, for instance its stenosis; QcaError when it cannot be measured."""


class ServeConfig(Document):
    """What an installation may choose about answers."""

    answer: Literal["shapes", "mask"] = "shapes"
    """`mask` for servers that know no shapes; they show no confidence."""
    threshold: float = Field(default=0.5, ge=0, le=1)
    """Least score of a detector's object when the request names none."""
    score_half: float = Field(default=0.5, gt=0, lt=1)
    """The model's score that means even odds: shown as 0.5, under which CVAT's page hides it."""
    keep_largest: bool = True
    """Only the regions that were clicked, else the largest."""
    fill_holes_px: int = Field(default=64, ge=0)
    """Largest hole that is closed, in px; 0 leaves all."""
    kept_images: int = Field(default=16, ge=1)
    """Images whose embedding is kept for the next click."""
    max_body_bytes: int = Field(default=wire.MAX_BODY_BYTES, ge=1)


@dataclass(frozen=True)
class Reply:
    """What goes back to CVAT, and what goes into the log."""

    status: int
    body: str
    """JSON."""
    headers: dict[str, str]
    log: dict[str, str | int | float]


@dataclass
class Watch:
    """Milliseconds by stage of one request."""

    spent_ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = (time.perf_counter() - start) * 1000
            self.spent_ms[name] = self.spent_ms.get(name, 0.0) + spent


class _Images:
    """The last images' embeddings by digest of the bytes they came in."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, Embedding] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Embedding | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: str, embedding: Embedding) -> None:
        with self._lock:
            self._kept[key] = embedding
            self._kept.move_to_end(key)
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)


class Handler:
    """Answers requests with one model; a new model gets a new handler."""

    def __init__(
        self,
        segmenter: Segmenter,
        labels: LabelSet,
        *,
        tracker: Tracker | None = None,
        measure: Measure | None = None,
        config: ServeConfig | None = None,
        tracks: TrackStore | None = None,
    ) -> None:
        self._segmenter = segmenter
        self._labels = labels
        self._tracker = tracker
        self._measure = measure
        self._config = config or ServeConfig()
        self._tracks = tracks if tracks is not None else TrackStore()
        self._images = _Images(self._config.kept_images)

    @property
    def model_id(self) -> str:
        """The model every answer names."""
        return self._segmenter.model_id

    def reply(self, kind: Kind, body: object) -> Reply:
        """The answer to a request, or the reason why there is none; our errors never escape."""
        watch = Watch()
        log: dict[str, str | int | float] = {"function": kind}
        answer: Callable[[object, Watch, dict[str, str | int | float]], str]
        answer = {"interactor": self._interact, "detector": self._detect, "tracker": self._track}[
            kind
        ]
        try:
            text, status = answer(body, watch, log), 200
        except AngioloopError as problem:
            text = wire.Refusal(error=str(problem)).model_dump_json()
            status = problem.http_status
            log["error"] = type(problem).__name__
        return finished(text, status, str(log.pop("model_id", self.model_id)), watch, log)

    def _embedding(
        self, image: bytes, watch: Watch, log: dict[str, str | int | float]
    ) -> Embedding:
        key = sha256_of(image)
        found = self._images.get(key)
        log["cached"] = int(found is not None)
        if found is None:
            with watch.stage("decode"):
                frame = read_png(image)
            with watch.stage("embed"):
                found = self._segmenter.embed(frame)
            self._images.put(key, found)
        log["height_px"], log["width_px"] = found.frame.hw
        return found

    def _predict(
        self, embedding: Embedding, prompt: Prompt, watch: Watch
    ) -> tuple[Prediction, ...]:
        with watch.stage("predict"):
            return self._segmenter.predict(embedding, prompt)

    def _tidy(
        self, bitmap: Bool[np.ndarray, "h w"], inside_xy: Sequence[tuple[float, float]] = ()
    ) -> Bool[np.ndarray, "h w"]:
        kept = regions.keep_main(bitmap, inside_xy) if self._config.keep_largest else bitmap
        return regions.fill_holes(kept, self._config.fill_holes_px)

    def _confidence(self, score: float) -> float:
        """The score as shown: rising, 0 to 0, `score_half` to 0.5, 1 to 1."""
        half, clipped = self._config.score_half, min(max(score, 0.0), 1.0)
        if clipped < half:
            return 0.5 * clipped / half
        return 0.5 + 0.5 * (clipped - half) / (1 - half)

    def _interact(self, body: object, watch: Watch, log: dict[str, str | int | float]) -> str:
        with watch.stage("parse"):
            request = wire.parse_request(body, wire.InteractorRequest, self._config.max_body_bytes)
        embedding = self._embedding(request.image, watch, log)
        if request.prewarm:
            return wire.ShapesAnswer().model_dump_json()
        prompts = request.prompts(embedding.frame)
        log["clicks"] = len(request.pos_points) + len(request.neg_points)
        log["box"] = int(request.obj_bbox is not None)
        found = [entry for prompt in prompts for entry in self._predict(embedding, prompt, watch)]
        with watch.stage("answer"):
            kept = []
            for entry in found:
                confidence = self._confidence(entry.score)
                bitmap = self._tidy(entry.bitmap, request.pos_points)
                if bitmap.any() and confidence >= (request.threshold or 0.0):
                    kept.append((confidence, bitmap))
            log["shapes"] = len(kept)
            return self._interactor_answer(kept, embedding.frame.hw)

    def _interactor_answer(
        self, kept: Sequence[tuple[float, Bool[np.ndarray, "h w"]]], hw: tuple[int, int]
    ) -> str:
        if self._config.answer == "shapes":
            shapes = tuple(wire.shape_of(bitmap, confidence) for confidence, bitmap in kept)
            return wire.ShapesAnswer(shapes=shapes).model_dump_json()
        union = np.zeros(hw, dtype=bool)
        for _, bitmap in kept:
            union |= bitmap
        return wire.grid_of(union).model_dump_json()

    def _detect(self, body: object, watch: Watch, log: dict[str, str | int | float]) -> str:
        with watch.stage("parse"):
            request = wire.parse_request(body, wire.DetectorRequest, self._config.max_body_bytes)
        least = self._config.threshold if request.threshold is None else request.threshold
        embedding = self._embedding(request.image, watch, log)
        found = []
        for label in self._labels.masks:
            prompt = Prompt(concept=label.name, view=embedding.frame.view)
            for entry in self._predict(embedding, prompt, watch):
                confidence = self._confidence(entry.score)
                bitmap = entry.bitmap if label.role == "tree" else self._tidy(entry.bitmap)
                if confidence < least or not bitmap.any():
                    continue
                with watch.stage("measure"):
                    attributes = self._attributes(embedding.frame, bitmap, confidence, label.role)
                with watch.stage("answer"):
                    found.append(wire.detection_of(bitmap, label.name, confidence, attributes))
        log["shapes"] = len(found)
        with watch.stage("answer"):
            return f"[{','.join(entry.model_dump_json() for entry in found)}]"

    def _attributes(
        self, frame: Frame, bitmap: Bool[np.ndarray, "h w"], confidence: float, role: str
    ) -> list[tuple[str, str]]:
        """CVAT drops a detector's confidence and never knows the model: both travel here."""
        named = [("model_id", self.model_id), ("confidence", str(round(confidence * 100)))]
        if self._measure is None or role not in {"segment", "lesion"}:
            return named
        try:
            return [*named, *self._measure(frame, bitmap).items()]
        except QcaError:  # a vessel too short to measure is still a vessel
            return named

    def _track(self, body: object, watch: Watch, log: dict[str, str | int | float]) -> str:
        if self._tracker is None:
            raise ConfigError(f"model {self.model_id} cannot track; deploy one that can")
        with watch.stage("parse"):
            request = wire.parse_request(body, wire.TrackerRequest, self._config.max_body_bytes)
        with watch.stage("decode"):
            frame = read_png(request.image)
        log["height_px"], log["width_px"] = frame.hw
        log["shapes"] = len(request.pairs)
        known = [
            None if key is None else self._tracks.find(key, frame.hw) for _, key in request.pairs
        ]
        with watch.stage("predict"):
            stepped = [
                self._first(self._tracker, frame, shape) if track is None else _step(track, frame)
                for (shape, _), track in zip(request.pairs, known, strict=True)
            ]
        log["model_id"] = stepped[0].model_id
        keys = tuple(self._tracks.keep(track) for track in stepped)
        answer = wire.TrackerAnswer(shapes=tuple(track.last for track in stepped), states=keys)
        return answer.model_dump_json()

    def _first(self, tracker: Tracker, frame: Frame, shape: wire.TrackedShape | None) -> Track:
        assert shape is not None  # noqa: S101 - TrackerRequest refuses an entry with neither
        if shape.type == "mask":
            bitmap = masks.from_cvat(shape.points, frame.hw)
            if not bitmap.any():
                raise PromptError("the mask to follow is empty; draw one")
        else:
            prompt = Prompt(box_xyxy=shape.box_xyxy, view=frame.view).checked(frame.hw)
            found = self._segmenter.predict(self._segmenter.embed(frame), prompt)
            bitmap = self._tidy(found[0].bitmap) if found else np.zeros(frame.hw, dtype=bool)
            if not bitmap.any():
                bitmap = _filled(prompt.box_xyxy, frame.hw)
        return Track(tracker, self.model_id, tracker.start(frame, bitmap), frame.hw, shape)


def _filled(
    box_xyxy: tuple[float, float, float, float] | None, hw: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """The box itself, when the model sees nothing in it: a track must start from something."""
    assert box_xyxy is not None  # noqa: S101 - the caller made the prompt from a box
    x1, y1, x2, y2 = (round(value) for value in box_xyxy)
    bitmap = np.zeros(hw, dtype=bool)
    bitmap[y1 : y2 + 1, x1 : x2 + 1] = True
    return bitmap


def _step(track: Track, frame: Frame) -> Track:
    memory, found = track.tracker.step(track.memory, frame)
    last = wire.tracked_of(found.bitmap, track.last.type) if found.bitmap.any() else track.last
    return Track(track.tracker, track.model_id, memory, track.hw, last)


def finished(
    text: str, status: int, model_id: str, watch: Watch, log: Mapping[str, str | int | float]
) -> Reply:
    """A reply with its headers (text, as Nuclio drops other values) and its line of log."""
    timing = ", ".join(f"{name};dur={ms:.2f}" for name, ms in watch.spent_ms.items())
    headers = {"X-Model-Id": model_id, "Server-Timing": timing}
    times = {f"{name}_ms": round(ms, 2) for name, ms in watch.spent_ms.items()}
    return Reply(status, text, headers, {**log, "status": status, "model_id": model_id, **times})


def refused(problem: AngioloopError, model_id: str = "none") -> Reply:
    """The reply when there is no model to ask."""
    body = wire.Refusal(error=str(problem)).model_dump_json()
    return finished(body, problem.http_status, model_id, Watch(), {"error": type(problem).__name__})


def crashed(model_id: str = "none") -> Reply:
    """The reply to a bug: no detail leaves; the log has it."""
    text = "the function met a bug; its log says where"
    body = wire.Refusal(error=text).model_dump_json()
    return finished(body, 500, model_id, Watch(), {"error": "bug"})
