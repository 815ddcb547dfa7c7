"""CSV from outside, one line at a time: never held whole, never shifted by a stray comma or quote.

Knows no column but the one it is told to expect.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from angio.source_files import size_of
from casebook.errors import DataError

MAX_LINE = 1024 * 1024
"""Longest line, in characters."""
_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class CsvFile:
    """An open question: the rows are read anew each time they are asked for."""

    path: Path
    columns: tuple[str, ...]
    """Lower case, with underscores for spaces and dashes; in the order of the file."""
    delimiter: str

    def rows(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """The cells of each row, with the number of its first line.

        Raises:
            DataError: from here on the file is not readable CSV.
        """
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as stream:
                reader = csv.reader(_lines(stream), delimiter=self.delimiter, strict=True)
                next(reader, None)
                first = reader.line_num + 1
                for cells in reader:
                    if cells:
                        yield first, tuple(cells)
                    first = reader.line_num + 1
        except (UnicodeDecodeError, csv.Error, OSError) as problem:
            raise _unreadable(self.path, problem) from None

    def values(self, cells: tuple[str, ...]) -> dict[str, str]:
        """A row by column name.

        Raises:
            DataError: more or fewer cells than columns: they may be shifted.
        """
        if len(cells) != len(self.columns):
            raise DataError(
                f"has {len(cells)} values; expected {len(self.columns)}, one a column; quote "
                "values that hold a comma, or complete the row"
            )
        return dict(zip(self.columns, cells, strict=True))


def open_csv(path: Path, needed: str) -> CsvFile:
    """A CSV, with commas, semicolons or tabs between its values.

    Args:
        path: The file, in UTF-8.
        needed: A column it must have.

    Raises:
        DataError: missing, not text, without that column, or with a column given twice.
    """
    size_of(path, str(path))
    found: tuple[str, ...] = ()
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            head = next(_lines(stream), "")
        for delimiter in _DELIMITERS:
            columns = tuple(
                _tidy(name) for name in next(csv.reader([head], delimiter=delimiter), [])
            )
            found = found or columns
            if needed in columns:
                twice = sorted({n for n in columns if n and columns.count(n) > 1})
                if twice:
                    raise DataError(f"{path} has column {twice[0]} twice; rename or remove one")
                return CsvFile(path, columns, delimiter)
    except (UnicodeDecodeError, csv.Error, OSError) as problem:
        raise _unreadable(path, problem) from None
    raise DataError(
        f"{path} has {len(found)} columns, none of them {needed}; expected {needed} among them; "
        "give its first line the names of the columns"
    )


def _unreadable(path: Path, problem: Exception) -> DataError:
    why = "not UTF-8" if isinstance(problem, UnicodeDecodeError) else str(problem)
    return DataError(f"{path} is not a readable CSV ({why}); save it as CSV in UTF-8")


def _tidy(name: str) -> str:
    return re.sub(r"[\s\-]+", "_", name.strip()).casefold()


def _lines(stream: TextIO) -> Iterator[str]:
    while line := stream.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise csv.Error(f"a line is longer than {MAX_LINE} characters")
        yield line
