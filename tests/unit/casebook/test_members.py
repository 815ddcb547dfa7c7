from importlib.metadata import entry_points
from pathlib import Path

import pytest

from casebook.errors import ConfigError, ModelError
from casebook.following import Follower
from casebook.members import GROUP, members, open_member, tracker_of

CODE = """
from tests.fakes.threshold_model import ThresholdSegmenter

def dark(folder):
    return ThresholdSegmenter(folder.name)

def wrong(folder):
    return folder
"""
ENTRIES = f"""[{GROUP}]
dark_for_test = brought_for_test:dark
wrong_for_test = brought_for_test:wrong
absent_for_test = not_installed_here:open
"""


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that brings three members, as pip would leave it."""
    (tmp_path / "brought_for_test.py").write_text(CODE)
    info = tmp_path / "brought_for_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brought-for-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_member_is_opened_with_the_folder_of_its_weights() -> None:
    assert {"absent_for_test", "dark_for_test", "wrong_for_test"} <= set(members())
    segmenter = open_member("dark_for_test", Path("weights/mine"))
    assert segmenter.model_id == "mine"
    assert isinstance(tracker_of(segmenter), Follower)


def test_entries_of_the_backport_are_taken_where_it_stands_in_for_pythons() -> None:
    pytest.importorskip("importlib_metadata", reason="importlib_metadata is not installed")
    assert open_member("dark_for_test", Path("weights/mine")).model_id == "mine"


def test_a_name_nobody_brings_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no segmenter is called 'dork'; installed.*dark_for_"):
        open_member("dork", Path())


def test_what_a_member_needs_is_said_when_it_is_not_installed() -> None:
    with pytest.raises(ConfigError, match=r"needs what is not installed .*not_installed_here"):
        open_member("absent_for_test", Path())


def test_a_member_that_gives_something_else_is_refused() -> None:
    with pytest.raises(ModelError, match=r"gave a .*Path, expected a Segmenter"):
        open_member("wrong_for_test", Path())


def test_a_name_two_packages_bring_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "second" / "second_for_test-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: second-for-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\ndark_for_test = other_for_test:dark\n")
    monkeypatch.syspath_prepend(str(tmp_path / "second"))
    with pytest.raises(ConfigError, match=r"'dark_for_test' is brought twice.*other_for_test"):
        open_member("dark_for_test", Path())


def test_our_own_members_are_installed_and_open_what_they_say() -> None:
    ours = {entry.name: entry for entry in entry_points(group=GROUP)}
    for name in ("nnunet", "sam2"):
        assert callable(ours[name].load())
