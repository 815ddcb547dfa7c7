"""A form sent piece by piece says what a form written at once says."""

from email import message_from_bytes
from email.policy import HTTP
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casebook.errors import DataError
from cvat_sync.forms import form, groups


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@given(payloads=st.lists(st.binary(max_size=200), max_size=4), quality=st.integers(0, 100))
def test_what_is_read_from_a_form_is_what_went_in(
    place: Path, payloads: list[bytes], quality: int
) -> None:
    files = {}
    for number, payload in enumerate(payloads):
        files[f"case-{number}.f00000.png"] = place / str(number)
        (place / str(number)).write_bytes(payload)
    made = form({"image_quality": quality, "sorting_method": "natural"}, files, "image/png")
    body = b"".join(map(bytes, made.pieces()))
    assert len(body) == made.n_bytes
    read = message_from_bytes(f"Content-Type: {made.content_type}\r\n\r\n".encode() + body)
    parts = [part.get_payload(decode=True) for part in read.walk() if not part.is_multipart()]
    assert parts[:2] == [str(quality).encode(), b"natural"]
    assert parts[2:] == payloads
    names = [part.get_filename() for part in read.walk()][3:]
    assert names == list(files)


def test_each_file_has_a_name_of_its_own_in_the_form_and_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    made = form({}, {"a.png": tmp_path / "a", "b.png": tmp_path / "a"}, "image/png")
    body = b"".join(map(bytes, made.pieces()))
    read = message_from_bytes(
        f"Content-Type: {made.content_type}\r\n\r\n".encode() + body, policy=HTTP
    )
    assert [
        (part.get_param("name", header="content-disposition"), part.get_content_type())
        for part in read.iter_parts()
    ] == [("client_files[0]", "image/png"), ("client_files[1]", "image/png")]


@pytest.mark.parametrize("now", [b"", b"1", b"123"], ids=["emptied", "shorter", "longer"])
def test_a_file_that_changes_while_it_is_sent_is_refused(tmp_path: Path, now: bytes) -> None:
    path = tmp_path / "frame.png"
    path.write_bytes(b"12")
    made = form({}, {"a.png": path}, "image/png")
    path.write_bytes(now)
    with pytest.raises(DataError, match=r"frame.png no longer has the 2 bytes"):
        list(made.pieces())


def test_files_are_shared_out_to_forms_of_a_limited_size(tmp_path: Path) -> None:
    files = {}
    for name, size in (("a", 3), ("b", 3), ("c", 4), ("d", 9), ("e", 1)):
        files[name] = tmp_path / name
        files[name].write_bytes(b"x" * size)
    assert [list(part) for part in groups(files, 7)] == [["a", "b"], ["c"], ["d"], ["e"]]
    assert groups({}, 7) == [{}]
