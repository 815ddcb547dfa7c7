"""Shared fixtures: real angiograms when they lie beside the checkout, else a skip that says so."""

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[2] / "shared"


def _folder(variable: str, name: str) -> Path:
    path = Path(os.environ.get(variable) or _BESIDE / name)
    if not path.is_dir():
        pytest.skip(f"{name} sample is absent; set {variable} to its folder")
    return path


@pytest.fixture(scope="session")
def xa_dir() -> Path:
    """The NEMA XA1 image in eight transfer syntaxes."""
    return _folder("ANGIOLOOP_XA_DIR", "xa")


@pytest.fixture(scope="session")
def arcade_dir() -> Path:
    """A sample of ARCADE in the official layout."""
    return _folder("ANGIOLOOP_ARCADE_DIR", "arcade")
