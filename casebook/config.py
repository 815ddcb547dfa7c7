"""Configuration: YAML into frozen models, every problem in one message.

Knows no room's settings; each model is declared beside the code that uses it. Only addresses,
secrets and data locations come from the environment, read when used.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from casebook.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


def read_config(path: Path, kind: type[M], overrides: Sequence[str] = ()) -> M:
    """A configuration file as a model, after `a.b=value` overrides.

    Raises:
        ConfigError: the file is missing, not YAML, or has unknown or wrong values; all of them
            are listed at once.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise ConfigError(
            f"{path}: cannot be read ({problem.strerror}); give another file"
        ) from None
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as problem:
        raise ConfigError(f"{path}: not YAML: {problem}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected settings by name, found {type(values).__name__}")
    for override in overrides:
        _apply(values, override)
    return parse_config(values, kind, str(path))


def parse_config(values: dict[str, Any], kind: type[M], where: str) -> M:
    """Settings by name as a model.

    Raises:
        ConfigError: all unknown or wrong values, at once.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as problem:
        lines = [
            f"  {'.'.join(str(part) for part in error['loc']) or '(all)'}: {error['msg']}"
            for error in problem.errors()
        ]
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        raise ConfigError(f"{where}: {count}\n" + "\n".join(lines)) from None


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override!r}: expected NAME=VALUE, for instance train.lr=1e-4")
    *parents, last = key.split(".")
    place = values
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {override!r}: {parent} is a value, not a group of settings")
    place[last] = yaml.safe_load(text)


def environment(name: str, purpose: str, page: str) -> str:
    """A required environment variable.

    Raises:
        ConfigError: it is not set; says what it is for and where that is documented.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        raise ConfigError(f"{name} is not set ({purpose}); see {page}")
    return value
