"""Documents on disk are whole or not there."""

import stat
from pathlib import Path

import pytest

from casebook.documents import (
    Document,
    append_line,
    read_document,
    read_lines,
    sha256_of,
    sha256_of_file,
    write_bytes,
    write_document,
)
from casebook.errors import DataError, StateError


class Note(Document):
    text: str
    number: int = 0


def test_a_document_reads_back(tmp_path: Path) -> None:
    write_document(tmp_path / "deep" / "note.json", Note(text="ä", number=3))
    assert read_document(tmp_path / "deep" / "note.json", Note) == Note(text="ä", number=3)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["note.json"]


def test_a_changed_copy_is_checked_again() -> None:
    note = Note(text="a")
    assert note.with_(number=2) == Note(text="a", number=2)
    with pytest.raises(ValueError, match="number"):
        note.with_(number="many")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "inside").touch()
    with pytest.raises(OSError, match="folder"):
        write_bytes(path, b"x")
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


def test_a_private_file_is_private(tmp_path: Path) -> None:
    write_bytes(tmp_path / "key", b"secret", mode=0o600)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_what_is_missing_or_damaged_is_said(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="is not there"):
        read_document(tmp_path / "gone.json", Note)
    (tmp_path / "bad.json").write_text('{"text": 3, "more": 1}')
    with pytest.raises(DataError, match=r"more: .*text: "):
        read_document(tmp_path / "bad.json", Note)
    (tmp_path / "torn.json").write_text('{"te')
    with pytest.raises(DataError, match="document: Invalid JSON"):
        read_document(tmp_path / "torn.json", Note)


def test_a_journal_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert read_lines(path, Note) == []
    append_line(path, Note(text="one"))
    with path.open("a") as stream:
        stream.write('{"text": "to')
    append_line(path, Note(text="two"))
    assert [note.text for note in read_lines(path, Note)] == ["one", "two"]


def test_a_whole_line_of_another_kind_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"other": 1}\n\n')
    with pytest.raises(DataError, match="not a valid Note"):
        read_lines(path, Note)


def test_digests_of_bytes_and_files_agree(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "file") == sha256_of(b"abc")
    assert sha256_of(b"abc").startswith("ba7816bf")
