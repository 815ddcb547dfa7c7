"""Which models the functions serve, and how each is loaded.

`teacher`: the promoted adapter over its base, or the bare tiny base before the first promotion.
`student`: the released ONNX bundle, which needs no torch. Any other name is a segmenter a package
brings (`casebook/members.py`), with its weights in `models/NAME`. The environment says which:
ANGIOLOOP_HOME (the workspace), ANGIOLOOP_CONF (the configuration), ANGIOLOOP_MODEL (see above),
ANGIOLOOP_TRACKS (Redis for tracks, else this process), ANGIOLOOP_SHARED (the shared model process).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from casebook.calibration import calibration_path, read_calibration
from casebook.cases import View
from casebook.config import read_config
from casebook.documents import Document
from casebook.errors import ConfigError, ModelError
from casebook.following import Follower
from casebook.handler import Handler, Kind, Model, ServeConfig
from casebook.home import Home
from casebook.labels import LabelSet, read_labels
from casebook.members import members, open_member, tracker_of
from casebook.protocols import Segmenter, Tracker
from casebook.registry import Registry
from casebook.specialists import Specialists, read_specialists
from casebook.tracks import Tracks, TrackStore
from serverless.door import Function, Logger
from serverless.forward import Forwarder
from serverless.live import LiveModel, Tell
from serverless.measure import vessel_attributes
from serverless.redis_tracks import RedisTracks


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


@dataclass(frozen=True)
class Choice:
    """All that decides which models serve; a difference means loading."""

    model_id: str | None
    """None is the bare base."""
    specialists: Specialists = field(default_factory=Specialists)
    measured_ns: tuple[int, ...] = ()
    """When each model's calibration was written."""

    def __str__(self) -> str:
        """The name of it in the log."""
        return self.model_id or "the bare base"


def choice_of(home: Home, model_id: str | None, base_id: str) -> Choice:
    """What is to be served now: the model, the specialists, and how they are calibrated.

    Raises:
        DataError: the list of specialists is damaged.
    """
    specialists = read_specialists(home)
    names = (model_id or base_id, *(entry.model_id for entry in specialists.specialists))
    paths = [calibration_path(home, name) for name in names]
    measured = tuple(path.stat().st_mtime_ns for path in paths if path.exists())
    return Choice(model_id, specialists, measured)


def live_model(tell: Tell) -> LiveModel[Choice]:
    """The model in use, as the environment says.

    Raises:
        ConfigError: a setting is wrong.
    """
    home, conf = Home.resolve(), _conf()
    config, labels = read_serving(conf)
    load, pointer = _source(home, conf, config)
    elsewhere = os.environ.get("ANGIOLOOP_TRACKS") or None
    if elsewhere is not None and config.tracker == "memory":
        raise ConfigError(
            "ANGIOLOOP_TRACKS is set and tracker is memory, which stays in its process; set "
            "tracker: follow in serving.yaml, or leave the variable empty"
        )
    here, base_id = TrackStore(), _base_folder(config.base, home, conf).name

    def open_handler(wanted: Choice | None) -> Handler:
        choice = wanted or Choice(None)
        model = _model(load, choice.model_id, home)
        others = {
            entry.model_id: _model(load, entry.model_id, home)
            for entry in choice.specialists.specialists
        }

        def choose(view: View | None) -> Model | None:
            found = choice.specialists.choose(view)
            return None if found is None else others[found.model_id]

        tracks: Tracks = here
        tracker = model.tracker
        if elsewhere is not None:  # only what a follower remembers can leave the process
            tracker = Follower(model.segmenter)
            tracks = RedisTracks(elsewhere, tracker, model.model_id)
        return Handler(
            model.segmenter,
            labels,
            tracker=tracker,
            calibration=model.calibration,
            choose=choose if others else None,
            measure=vessel_attributes,
            config=config.answers,
            tracks=tracks,
        )

    return LiveModel(lambda: choice_of(home, pointer(), base_id), open_handler, tell)


def open_function(kind: Kind, logger: Logger) -> Function | Forwarder:
    """The function of a kind: with the model in use, or over the shared model process.

    Raises:
        ConfigError: a setting is wrong; the function does not start.
    """
    shared = os.environ.get("ANGIOLOOP_SHARED") or None
    if shared is not None:
        return Forwarder(kind, shared)

    def tell(message: str, fields: dict[str, str]) -> None:
        logger.info_with(message, **fields)

    return Function(kind, live_model(tell))


def model_in_use() -> tuple[Model, LabelSet]:
    """The model the functions would serve, loaded here, and the labels they look for.

    Raises:
        ConfigError: a setting is wrong.
        ModelError: it cannot be loaded.
    """
    home, conf = Home.resolve(), _conf()
    config, labels = read_serving(conf)
    load, pointer = _source(home, conf, config)
    return _model(load, pointer(), home), labels


Load = Callable[[str | None], tuple[Segmenter, Tracker]]


def _source(home: Home, conf: Path, config: ServingConfig) -> tuple[Load, Callable[[], str | None]]:
    """How a model of an id is loaded, and the pointer to the one in use."""
    kind, registry = os.environ.get("ANGIOLOOP_MODEL") or "teacher", Registry(home)
    if kind == "teacher":
        return _teachers(home, conf, config), registry.promoted
    if kind == "student":
        return _students(home), registry.released
    if kind in members():
        return _member(home, kind), lambda: kind
    raise ConfigError(
        f"ANGIOLOOP_MODEL is {kind!r}; expected teacher, student, or an installed segmenter "
        f"({', '.join(members())})"
    )


def _teachers(home: Home, conf: Path, config: ServingConfig) -> Load:
    registry, base = Registry(home), _base_folder(config.base, home, conf)

    def load(model_id: str | None) -> tuple[Segmenter, Tracker]:
        from segmenter.teacher import load_teacher  # the student's image has no torch
        from segmenter.tracking import MemoryTracker

        if model_id is not None:
            registry.verify(model_id)
        teacher = load_teacher(home.models, model_id, base=base)
        tracker = MemoryTracker(teacher) if config.tracker == "memory" else Follower(teacher)
        return teacher, tracker

    return load


def _students(home: Home) -> Load:
    def load(version: str | None) -> tuple[Segmenter, Tracker]:
        from export.runtime import load_student  # the teacher's image has no need of it

        if version is None:
            raise ModelError(f"no student is released in {home.models}; run `make distil` first")
        student = load_student(home.models / "released" / version)
        return student, Follower(student)

    return load


def _member(home: Home, name: str) -> Load:
    def load(_: str | None) -> tuple[Segmenter, Tracker]:
        segmenter = open_member(name, home.models / name)
        return segmenter, tracker_of(segmenter)

    return load


def _model(load: Load, model_id: str | None, home: Home) -> Model:
    segmenter, tracker = load(model_id)
    return Model(segmenter, tracker, read_calibration(home, segmenter.model_id))


def _base_folder(name: str, home: Home, conf: Path) -> Path:
    known = {"tiny": conf / "tiny-base", "sam3": home.models / "sam3"}
    return known.get(name) or Path(name)
