"""One distilled, exported bundle of a very small student, made once."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from casebook.home import Home
from casebook.registry import Registry
from export.bundle import Bundle
from export.distil import release, teach, version_of
from export.release import Teaching
from export.settings import DistilConfig
from export.syllabus import read_syllabus
from tests.unit.export.workshop import Rememberer, make_home, small_config, unchecked


@dataclass(frozen=True)
class Workshop:
    """A workspace with a released student."""

    home: Home
    teacher: Rememberer
    config: DistilConfig
    bundle: Bundle

    @property
    def folder(self) -> Path:
        return self.home.models / "released" / self.bundle.version


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    home, teacher = make_home(tmp_path_factory.mktemp("workshop"))
    config = small_config()
    syllabus = read_syllabus(home, neighbours=config.neighbours, unannotated=config.unannotated)
    version = version_of(teacher.model_id, syllabus, config)
    told: list[str] = []
    with unchecked():
        teach(
            home,
            version,
            teacher.model_id,
            Teaching(teacher, 7),
            syllabus,
            config,
            lambda message, _share: told.append(message),
        )
    assert told
    return Workshop(home, teacher, config, release(Registry(home), version, config, "a test"))
