"""Every error angioloop raises on purpose.

AngioloopError
├── ConfigError        a setting or configuration file is wrong
├── DataError          an input file or value cannot be used
│   ├── MaskError      a mask, polygon or run-length code is not valid
│   ├── TooLargeError  a request or image is larger than anything we accept
│   └── DeidError      a frame is not proven to be de-identified
├── QcaError           a vessel cannot be measured
├── PromptError        a prompt is empty, contradictory or outside the image
├── ModelError         weights, an adapter or a bundle cannot be loaded
├── TrainingError      training stopped (NaN loss, no gradient)
├── StateError         a round lacks the file this step needs, or already has it
│   └── TrackerStateError  a tracker state is unknown or expired
├── BusyError          somebody else holds the lock
└── RemoteError        another service refused
    ├── AccessError    wrong or missing credentials
    └── UnreachableError  no answer, or the answer was a temporary failure

The edges (click, Nuclio, Celery) read `exit_code`, `http_status` and `transient`; none lists types.
"""

from typing import ClassVar


class AngioloopError(Exception):
    """A failure the user can act on; its text says what was found, expected and what to do."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    transient: ClassVar[bool] = False


class ConfigError(AngioloopError):
    """A setting or configuration file is wrong."""

    exit_code = 2
    http_status = 500


class DataError(AngioloopError):
    """An input file or value cannot be used."""

    exit_code = 3
    http_status = 422


class MaskError(DataError):
    """A mask, polygon or run-length code is not valid."""


class TooLargeError(DataError):
    """A request or image is larger than anything we accept."""

    http_status = 413


class DeidError(DataError):
    """A frame is not proven to be de-identified."""


class QcaError(AngioloopError):
    """A vessel cannot be measured."""

    exit_code = 3
    http_status = 422


class PromptError(AngioloopError):
    """A prompt is empty, contradictory or outside the image."""

    exit_code = 3
    http_status = 400


class ModelError(AngioloopError):
    """Weights, an adapter or a bundle cannot be loaded."""

    exit_code = 4
    http_status = 503


class TrainingError(AngioloopError):
    """Training stopped."""

    exit_code = 5


class StateError(AngioloopError):
    """A round lacks the file this step needs, or already has the one it writes."""

    exit_code = 6
    http_status = 409


class TrackerStateError(StateError):
    """A tracker state is unknown or expired."""


class BusyError(AngioloopError):
    """Somebody else holds the lock."""

    exit_code = 7
    http_status = 503
    transient = True


class RemoteError(AngioloopError):
    """Another service refused."""

    exit_code = 8
    http_status = 502


class AccessError(RemoteError):
    """Wrong or missing credentials."""

    exit_code = 9


class UnreachableError(RemoteError):
    """No answer, or a temporary failure."""

    exit_code = 10
    transient = True
