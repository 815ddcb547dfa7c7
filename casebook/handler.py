"""CVAT's three kinds of serverless function over any `Segmenter`: a request in, a reply out.

One embedding per image whatever the clicks. Knows no HTTP server, no Nuclio, no torch, and of
coronaries only what an injected `measure` tells it. Logs carry sizes and times, never an image, a
mask or a name.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool
from pydantic import Field

from casebook import masks, regions, wire
from casebook.calibration import Calibration, Curve
from casebook.cases import View
from casebook.catalogue import read_png
from casebook.documents import Document, sha256_of
from casebook.errors import AngioloopError, ConfigError, PromptError, QcaError
from casebook.images import RecentImages
from casebook.labels import LabelSet
from casebook.protocols import Embedding, Frame, Prediction, Prompt, Segmenter, Tracker, predict_all
from casebook.tracks import Track, Tracks, TrackStore

Kind = Literal["interactor", "detector", "tracker"]
Measure = Callable[[Frame, Bool[np.ndarray, "h w"]], Mapping[str, str]]
"""Attributes of a mask by name, for instance its stenosis; QcaError when it cannot be measured."""
Log = dict[str, str | int | float]
"""What a request's line in the log says."""


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
    log: Log


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


@dataclass(frozen=True)
class Model:
    """One model with what its answers need."""

    segmenter: Segmenter
    tracker: Tracker | None = None
    calibration: Calibration | None = None
    """What its scores are worth; without it `score_half` of the settings."""

    def curve(self, prompt: Prompt) -> Curve | None:
        """The curve for answers to a prompt, where it has been measured."""
        if self.calibration is None:
            return None
        return self.calibration.box if prompt.concept is None else self.calibration.concept

    @property
    def model_id(self) -> str:
        """The id its answers carry."""
        return self.segmenter.model_id


Choose = Callable[[View | None], Model | None]
"""The model of its own that a view has; nothing where it has none."""


@dataclass(frozen=True)
class _Seen:
    """An image and the model that was chosen for it."""

    model: Model
    embedding: Embedding
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the model looks: what it keeps of an image is for one thread at a time."""


class Handler:
    """Answers requests with one model; a new model gets a new handler."""

    def __init__(
        self,
        segmenter: Segmenter,
        labels: LabelSet,
        *,
        tracker: Tracker | None = None,
        calibration: Calibration | None = None,
        choose: Choose | None = None,
        measure: Measure | None = None,
        config: ServeConfig | None = None,
        tracks: Tracks | None = None,
    ) -> None:
        """A handler over a model.

        Args:
            segmenter: the model that answers.
            labels: what the detector looks for.
            tracker: follows what it is shown; without one a tracker's request is refused.
            calibration: what the model's scores are worth.
            choose: another model for images of a view, for instance one vessel's specialist.
            measure: attributes of a detector's masks.
            config: what an installation may choose.
            tracks: where tracked objects are remembered.
        """
        self._model = Model(segmenter, tracker, calibration)
        self._labels = labels
        self._choose = choose
        self._measure = measure
        self._config = config or ServeConfig()
        self._tracks: Tracks = tracks if tracks is not None else TrackStore()
        self._images: RecentImages[_Seen] = RecentImages(self._config.kept_images)

    @property
    def model_id(self) -> str:
        """The model that answers unless the image's view has one of its own."""
        return self._model.model_id

    def reply(self, kind: Kind, body: object) -> Reply:
        """The answer to a request, or the reason why there is none; our errors never escape."""
        watch = Watch()
        log: Log = {"function": kind}
        answer: Callable[[object, Watch, Log], str]
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

    def _model_of(self, frame: Frame, log: Log) -> Model:
        """The model for an image; its id goes into the log and the header."""
        chosen = self._choose(frame.view) if self._choose is not None else None
        model = chosen or self._model
        log["model_id"] = model.model_id
        return model

    def _see(self, image: bytes, watch: Watch, log: Log) -> _Seen:
        def look() -> _Seen:
            with watch.stage("decode"):
                frame = read_png(image)
            model = self._model_of(frame, log)
            with watch.stage("embed"):
                return _Seen(model, model.segmenter.embed(frame))

        seen, was_there = self._images.get(sha256_of(image), look)
        log["model_id"], log["cached"] = seen.model.model_id, int(was_there)
        log["height_px"], log["width_px"] = seen.embedding.frame.hw
        return seen

    def _predict(
        self, seen: _Seen, prompts: Sequence[Prompt], watch: Watch
    ) -> tuple[tuple[Prediction, ...], ...]:
        with watch.stage("predict"), seen.lock:
            return predict_all(seen.model.segmenter, seen.embedding, prompts)

    def _tidy(
        self, bitmap: Bool[np.ndarray, "h w"], inside_xy: Sequence[tuple[float, float]] = ()
    ) -> Bool[np.ndarray, "h w"]:
        kept = regions.keep_main(bitmap, inside_xy) if self._config.keep_largest else bitmap
        return regions.fill_holes(kept, self._config.fill_holes_px)

    def _confidence(self, score: float, curve: Curve | None) -> float:
        """The chance that a mask is right; uncalibrated, a rise through `score_half` at 0.5."""
        if curve is not None:
            return curve.confidence(score)
        half, clipped = self._config.score_half, min(max(score, 0.0), 1.0)
        if clipped < half:
            return 0.5 * clipped / half
        return 0.5 + 0.5 * (clipped - half) / (1 - half)

    def _interact(self, body: object, watch: Watch, log: Log) -> str:
        with watch.stage("parse"):
            request = wire.parse_request(body, wire.InteractorRequest, self._config.max_body_bytes)
        seen = self._see(request.image, watch, log)
        frame = seen.embedding.frame
        if request.prewarm:
            height, width = frame.hw
            # A model that looks only when it is asked is asked for all of the image.
            self._predict(seen, [Prompt(box_xyxy=(0.0, 0.0, width - 1.0, height - 1.0))], watch)
            return wire.ShapesAnswer().model_dump_json()
        prompts = request.prompts(frame)
        log["clicks"] = len(request.pos_points) + len(request.neg_points)
        log["box"] = int(request.obj_bbox is not None)
        kept = []
        answers = self._predict(seen, prompts, watch)
        for prompt, found in zip(prompts, answers, strict=True):
            curve = seen.model.curve(prompt)
            for entry in found:
                with watch.stage("answer"):
                    confidence = self._confidence(entry.score, curve)
                    bitmap = self._tidy(entry.bitmap, request.pos_points)
                    if bitmap.any() and confidence >= (request.threshold or 0.0):
                        kept.append((confidence, bitmap))
        log["shapes"] = len(kept)
        with watch.stage("answer"):
            return self._interactor_answer(kept, frame.hw)

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

    def _detect(self, body: object, watch: Watch, log: Log) -> str:
        with watch.stage("parse"):
            request = wire.parse_request(body, wire.DetectorRequest, self._config.max_body_bytes)
        least = self._config.threshold if request.threshold is None else request.threshold
        seen = self._see(request.image, watch, log)
        frame = seen.embedding.frame
        found = []
        asked = [Prompt(concept=label.name, view=frame.view) for label in self._labels.masks]
        answers = self._predict(seen, asked, watch)
        for label, prompt, entries in zip(self._labels.masks, asked, answers, strict=True):
            for entry in entries:
                confidence = self._confidence(entry.score, seen.model.curve(prompt))
                bitmap = entry.bitmap if label.role == "tree" else self._tidy(entry.bitmap)
                if confidence < least or not bitmap.any():
                    continue
                with watch.stage("measure"):
                    named = [("model_id", seen.model.model_id)]
                    named += self._attributes(frame, bitmap, confidence, label.role)
                with watch.stage("answer"):
                    found.append(wire.detection_of(bitmap, label.name, confidence, named))
        log["shapes"] = len(found)
        with watch.stage("answer"):
            return f"[{','.join(entry.model_dump_json() for entry in found)}]"

    def _attributes(
        self, frame: Frame, bitmap: Bool[np.ndarray, "h w"], confidence: float, role: str
    ) -> list[tuple[str, str]]:
        """CVAT drops a detector's confidence and never knows the model: both travel here."""
        named = [("confidence", str(round(confidence * 100)))]
        if self._measure is None or role not in {"segment", "lesion"}:
            return named
        try:
            return [*named, *self._measure(frame, bitmap).items()]
        except QcaError:  # a vessel too short to measure is still a vessel
            return named

    def _track(self, body: object, watch: Watch, log: Log) -> str:
        if self._model.tracker is None:
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
                self._first(frame, shape, log) if track is None else _step(track, frame)
                for (shape, _), track in zip(request.pairs, known, strict=True)
            ]
        log["model_id"] = stepped[0].model_id
        keys = tuple(self._tracks.keep(track) for track in stepped)
        answer = wire.TrackerAnswer(shapes=tuple(track.last for track in stepped), states=keys)
        return answer.model_dump_json()

    def _first(self, frame: Frame, shape: wire.TrackedShape | None, log: Log) -> Track:
        assert shape is not None  # noqa: S101 - TrackerRequest refuses an entry with neither
        model = self._model_of(frame, log)
        tracker = model.tracker or self._model.tracker
        assert tracker is not None  # noqa: S101 - `_track` refuses a model that cannot
        if shape.type == "mask":
            bitmap = masks.from_cvat(shape.points, frame.hw)
            if not bitmap.any():
                raise PromptError("the mask to follow is empty; draw one")
        else:
            prompt = Prompt(box_xyxy=shape.box_xyxy, view=frame.view).checked(frame.hw)
            segmenter = model.segmenter
            found = segmenter.predict(segmenter.embed(frame), prompt)
            bitmap = self._tidy(found[0].bitmap) if found else np.zeros(frame.hw, dtype=bool)
            if not bitmap.any():
                bitmap = _filled(prompt.box_xyxy, frame.hw)
        return Track(tracker, model.model_id, tracker.start(frame, bitmap), frame.hw, shape)


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
