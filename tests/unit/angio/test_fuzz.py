"""Damaged files of every format, a few of the many that bench.fuzz reads; and a flat memory."""

from pathlib import Path

import pytest

from bench.fuzz import fuzz, judge
from bench.fuzz_readers import Format, formats
from bench.growth import QUICK_ROWS, write_rows


# pycocotools' own decoder, the plain tool here, is older than NumPy 2's copy keyword.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("sound", formats(), ids=lambda sound: str(sound.name))
def test_the_sound_file_of_a_format_is_read_as_it_is(sound: Format, tmp_path: Path) -> None:
    assert judge(sound, sound.payload, tmp_path) == ("true", "")


def test_a_reader_that_lies_would_be_found(tmp_path: Path) -> None:
    npy = next(sound for sound in formats() if sound.name == "npy")
    liar = Format("npy", ".npy", npy.payload, lambda path: npy.read(path) + 1, npy.agrees)
    assert judge(liar, npy.payload, tmp_path)[0] == "silent_wrong"


def test_damaged_files_are_refused_or_read_as_what_they_say() -> None:
    outcomes, wrong = fuzz(400, 3)
    assert wrong == []
    assert outcomes["refused"] + outcomes["true"] == 400
    assert outcomes["refused"] > 100


def test_rows_of_the_growth_bench_share_one_cine(tmp_path: Path) -> None:
    table = write_rows(tmp_path, QUICK_ROWS[0])
    assert len(table.read_text().splitlines()) == QUICK_ROWS[0] + 1
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".npy"]
