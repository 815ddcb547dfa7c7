"""Which models the functions serve, and how each is loaded.

`teacher`: the promoted adapter over its base, or the bare tiny base before the first promotion.
`student`: the released ONNX bundle, which needs no torch. The environment says which and where:
ANGIOLOOP_HOME (the workspace), ANGIOLOOP_CONF (the configuration), ANGIOLOOP_MODEL (see above).
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from casebook.config import read_config
from casebook.documents import Document
from casebook.errors import ConfigError, ModelError
from casebook.following import Follower
from casebook.handler import Handler, Kind, ServeConfig
from casebook.home import Home
from casebook.labels import LabelSet, read_labels
from casebook.protocols import Segmenter, Tracker
from casebook.registry import Registry
from casebook.tracks import TrackStore
from serverless.door import Function, Logger
from serverless.live import LiveModel, Tell
from serverless.measure import vessel_attributes


class ServingConfig(Document):
    """conf/serving.yaml."""

    labels: str = "labels/coronary.yaml"
    """Label set the detector looks for, beside this file."""
    base: str = "tiny"
    """`tiny`: the shipped base; `sam3`: the real weights (`make weights`); or a base's folder."""
    tracker: Literal["follow", "memory"] = "follow"
    """`follow`: each answer prompts the next frame, with any model; `memory`: SAM 3's own, which
    the tiny base never learned."""
    answers: ServeConfig = ServeConfig()


def read_serving(conf: Path) -> tuple[ServingConfig, LabelSet]:
    """The configuration of the functions and its labels.

    Raises:
        ConfigError: a file is missing or has wrong values.
    """
    config = read_config(conf / "serving.yaml", ServingConfig)
    return config, read_labels(conf / config.labels)


def _conf() -> Path:
    return Path(os.environ.get("ANGIOLOOP_CONF") or "conf")


def configured_labels() -> LabelSet:
    """The labels the detector answers, as the environment's configuration says.

    Raises:
        ConfigError: a file is missing or has wrong values.
    """
    return read_serving(_conf())[1]


def live_model(tell: Tell) -> LiveModel:
    """The model in use, as the environment says.

    Raises:
        ConfigError: a setting is wrong.
    """
    home, conf = Home.resolve(), _conf()
    config, labels = read_serving(conf)
    kind = os.environ.get("ANGIOLOOP_MODEL") or "teacher"
    if kind == "teacher":
        pointer, load = _teachers(home, _base_folder(config.base, home, conf), config, labels)
    elif kind == "student":
        pointer, load = _students(home, config, labels)
    else:
        raise ConfigError(f"ANGIOLOOP_MODEL is {kind!r}; expected teacher or student")
    return LiveModel(pointer, load, tell)


def _base_folder(name: str, home: Home, conf: Path) -> Path:
    known = {"tiny": conf / "tiny-base", "sam3": home.models / "sam3"}
    return known.get(name) or Path(name)


def open_function(kind: Kind, logger: Logger) -> Function:
    """The function of a kind, with the model in use loaded.

    Raises:
        ConfigError: a setting is wrong; the function does not start.
    """

    def tell(message: str, fields: dict[str, str]) -> None:
        logger.info_with(message, **fields)

    return Function(kind, live_model(tell))


Source = tuple[Callable[[], str | None], Callable[[str | None], Handler]]


def _teachers(home: Home, base: Path, config: ServingConfig, labels: LabelSet) -> Source:
    registry, tracks = Registry(home), TrackStore()

    def load(model_id: str | None) -> Handler:
        from segmenter.teacher import load_teacher  # the student's image has no torch
        from segmenter.tracking import MemoryTracker

        if model_id is not None:
            registry.verify(model_id)
        teacher = load_teacher(home.models, model_id, base=base)
        tracker = MemoryTracker(teacher) if config.tracker == "memory" else Follower(teacher)
        return _handler(teacher, tracker, config, labels, tracks)

    return registry.promoted, load


def _students(home: Home, config: ServingConfig, labels: LabelSet) -> Source:
    registry, tracks = Registry(home), TrackStore()

    def load(version: str | None) -> Handler:
        from export.runtime import load_student  # the teacher's image has no need of it

        if version is None:
            raise ModelError(f"no student is released in {home.models}; run `make distil` first")
        student = load_student(home.models / "released" / version)
        return _handler(student, Follower(student), config, labels, tracks)

    return registry.released, load


def _handler(
    segmenter: Segmenter,
    tracker: Tracker,
    config: ServingConfig,
    labels: LabelSet,
    tracks: TrackStore,
) -> Handler:
    return Handler(
        segmenter,
        labels,
        tracker=tracker,
        measure=vessel_attributes,
        config=config.answers,
        tracks=tracks,
    )
