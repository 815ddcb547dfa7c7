"""Where CVAT is, who we are there, and how a round is cut into tasks."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field

from casebook.config import environment, read_config
from casebook.documents import Document
from casebook.errors import ConfigError

PAGE = "docs/cvat.md"
URL_VARIABLE = "ANGIOLOOP_CVAT_URL"
TOKEN_VARIABLE = "ANGIOLOOP_CVAT_TOKEN"  # noqa: S105 - a variable's name
USER_VARIABLE = "ANGIOLOOP_CVAT_USER"
PASSWORD_VARIABLE = "ANGIOLOOP_CVAT_PASSWORD"  # noqa: S105 - a variable's name


class WatchConfig(Document):
    """When the watch acts on its own."""

    min_cases: int | None = Field(default=None, ge=1)
    """Completed frames that start the pull; by default all of the round."""
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
    frames_per_task: int = Field(default=25, ge=1)
    frames_per_job: int = Field(default=5, ge=1)
    """What one annotator takes at a time."""
    parallel: int = Field(default=4, ge=1, le=16)
    """Tasks uploaded at the same time."""
    watch: WatchConfig = WatchConfig()
    quality: QualityConfig = QualityConfig()


class Access(Document):
    """Where CVAT is and how to log in: a token, or a user and password."""

    url: str
    token: str | None = Field(default=None, repr=False)
    user: str | None = None
    password: str | None = Field(default=None, repr=False)


def read_exchange(conf: Path) -> ExchangeConfig:
    """The configuration folder's `cvat.yaml`, or the defaults when it has none.

    Raises:
        ConfigError: the file has unknown or wrong values.
    """
    path = conf / "cvat.yaml"
    return read_config(path, ExchangeConfig) if path.exists() else ExchangeConfig()


def read_access() -> Access:
    """Address and credentials from the environment.

    Raises:
        ConfigError: the address or both kinds of credentials are missing.
    """
    url = environment(URL_VARIABLE, "address of the CVAT server", PAGE).rstrip("/")
    if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
        raise ConfigError(f"{URL_VARIABLE} is {url!r}; expected an address such as https://cvat")
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if token:
        return Access(url=url, token=token)
    user = os.environ.get(USER_VARIABLE, "").strip()
    password = os.environ.get(PASSWORD_VARIABLE, "")
    if not user or not password:
        raise ConfigError(
            f"no credentials for CVAT; set {TOKEN_VARIABLE} (a personal access token), or "
            f"{USER_VARIABLE} and {PASSWORD_VARIABLE}; see {PAGE}"
        )
    return Access(url=url, user=user, password=password)
