"""Where CVAT is, who we are there, and how a round is cut into tasks."""

import os
import ssl
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from casebook.config import environment, read_config
from casebook.documents import Document
from casebook.errors import ConfigError
from cvat_sync.credentials import stored_token

PAGE = "docs/cvat.md"
CONF = Path("conf")
"""The configuration folder where none is named."""
URL_VARIABLE = "ANGIOLOOP_CVAT_URL"
TOKEN_VARIABLE = "ANGIOLOOP_CVAT_TOKEN"  # noqa: S105 - a variable's name
USER_VARIABLE = "ANGIOLOOP_CVAT_USER"
PASSWORD_VARIABLE = "ANGIOLOOP_CVAT_PASSWORD"  # noqa: S105 - a variable's name
ORGANISATION_VARIABLE = "ANGIOLOOP_CVAT_ORGANISATION"
CA_VARIABLE = "ANGIOLOOP_CVAT_CA_FILE"


class Validation(Document):
    """Frames of each task that CVAT keeps for its quality page."""

    mode: Literal["ground_truth", "honeypots"]
    """ground_truth: some frames are annotated a second time, by an expert, in a job of its own.
    honeypots: frames an expert annotates are hidden among those of every job."""
    share: float = Field(default=0.1, gt=0, lt=1)
    """Fraction of a task's frames; at least one."""
    per_job: int = Field(default=1, ge=1)
    """Honeypots in each job."""


class WatchConfig(Document):
    """When the watch acts on its own."""

    min_cases: int | None = Field(default=None, ge=1)
    """Completed cases that start the pull; by default all of the round."""
    train: bool = True
    """Whether a round the watch has pulled is trained at once."""
    window_s: float = Field(default=900.0, gt=0)
    """A delivery about a change older than this is refused as a replay."""


class QualityConfig(Document):
    """What is worth telling an annotator about a finished mask."""

    max_pieces: int = Field(default=1, ge=1)
    """More unconnected pieces than this are told."""
    min_piece_px: int = Field(default=4, ge=1)
    """Pieces smaller than this are specks, told as such."""
    min_iou: float = Field(default=0.5, ge=0, le=1)
    """Less agreement than this with the model's proposal is told."""
    measure: bool = True
    """Whether a vessel segment that cannot be measured is told."""
    review_cases: int = Field(default=20, ge=1)
    """Frames sent back for a second look, at most."""


class ExchangeConfig(Document):
    """How rounds appear in CVAT: `cvat.yaml` in the configuration folder, when there is one."""

    project: str | None = None
    """Name of the project; by default `angioloop` and the label set's name."""
    form: Literal["frames", "cines"] = "frames"
    """frames: the frames to annotate, some to a task. cines: a task for each case, its whole run
    in order as one job, so that annotators see the motion."""
    frames_per_task: int = Field(default=25, ge=1)
    frames_per_job: int = Field(default=5, ge=1)
    """What one annotator takes at a time."""
    parallel: int = Field(default=10, ge=1, le=16)
    """Tasks uploaded at the same time."""
    assignees: tuple[str, ...] = ()
    """User names in CVAT; jobs go to them in turn."""
    subset: Literal["", "Train", "Validation", "Test"] = "Train"
    """What CVAT's exports call the frames of a round."""
    link: str | None = Field(default=None, pattern=r"^https?://[^\s#]+$")
    """A page about the round, for instance of its report: the address tasks point to."""
    validation: Validation | None = None
    replicas: int = Field(default=0, ge=0, le=10)
    """Copies of every job for CVAT's consensus: 0, or 2 and more."""
    watch: WatchConfig = WatchConfig()
    quality: QualityConfig = QualityConfig()

    @model_validator(mode="after")
    def _possible(self) -> "ExchangeConfig":
        if self.replicas == 1:
            raise ValueError("replicas is 1; CVAT takes 0 (none) or 2 and more")
        if self.form == "cines" and self.validation is not None:
            raise ValueError("a cine is one job, from which CVAT takes no validation frames")
        if self.replicas and self.validation is not None and self.validation.mode == "honeypots":
            raise ValueError("replicas and honeypots exclude each other; choose one")
        if len(set(self.assignees)) != len(self.assignees):
            raise ValueError("assignees has a name twice")
        if self.assignees and self.replicas > len(self.assignees):
            raise ValueError("more replicas than assignees; one person would do a job twice")
        return self


class Access(Document):
    """Where CVAT is and how to log in: a token, or a user and password."""

    url: str
    organisation: str | None = None
    """Short name of the organisation to work in; by default the personal workspace."""
    ca_file: Path | None = None
    """Certificates to trust beside the system's, for a server with one of its own."""
    token: str | None = Field(default=None, repr=False)
    user: str | None = None
    password: str | None = Field(default=None, repr=False)


def read_exchange(conf: Path) -> ExchangeConfig:
    """The configuration folder's `cvat.yaml`, or the defaults when it has none.

    Raises:
        ConfigError: the file has unknown or wrong values, or a folder that was named is not there.
    """
    if conf != CONF and not conf.is_dir():
        raise ConfigError(
            f"the configuration folder {conf} is not there; correct --conf, or make the folder. "
            "Without its cvat.yaml the round would go to another project"
        )
    path = conf / "cvat.yaml"
    return read_config(path, ExchangeConfig) if path.exists() else ExchangeConfig()


def read_address() -> str:
    """The server's address from the environment.

    Raises:
        ConfigError: it is not set, or not an address.
    """
    url = environment(URL_VARIABLE, "address of the CVAT server", PAGE).rstrip("/")
    found = urlsplit(url)
    if found.scheme not in {"http", "https"} or not found.hostname:
        raise ConfigError(f"{URL_VARIABLE} is {url!r}; expected an address such as https://cvat")
    if found.username is not None or found.password is not None:
        raise ConfigError(
            f"{URL_VARIABLE} holds a user or password; expected the address alone. Set "
            f"{USER_VARIABLE} and {PASSWORD_VARIABLE}"
        )
    return url


def read_access(token: str | None = None) -> Access:
    """Address and credentials: a token given, from the environment, else from the keyring.

    Raises:
        ConfigError: the address or all kinds of credentials are missing, or the certificates.
    """
    url = read_address()
    place = Access(url=url, organisation=_text(ORGANISATION_VARIABLE), ca_file=_ca_file())
    token = token or _text(TOKEN_VARIABLE)
    if token is not None:
        return place.with_(token=token)
    user, password = _text(USER_VARIABLE), os.environ.get(PASSWORD_VARIABLE, "")
    if user is not None and password:
        return place.with_(user=user, password=password)
    token = stored_token(url)
    if token is None:
        raise ConfigError(
            f"no credentials for CVAT; run `cvatsync login`, or set {TOKEN_VARIABLE} (a personal "
            f"access token), or {USER_VARIABLE} and {PASSWORD_VARIABLE}; see {PAGE}"
        )
    return place.with_(token=token)


def _text(name: str) -> str | None:
    return os.environ.get(name, "").strip() or None


def _ca_file() -> Path | None:
    given = _text(CA_VARIABLE)
    if given is None:
        return None
    try:
        ssl.create_default_context(cafile=given)
    except OSError as problem:  # not there, not readable, or not certificates
        raise ConfigError(
            f"{CA_VARIABLE} is {given}: not a file of certificates in PEM form "
            f"({problem.strerror or problem}); see {PAGE}"
        ) from None
    return Path(given)
