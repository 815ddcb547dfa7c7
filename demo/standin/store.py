"""The stand-in's memory: one SQLite file and one folder of uploaded media.

Knows tables and transactions; knows nothing of HTTP or of what the records mean.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Record = dict[str, Any]
"""One JSON document or table row of a foreign API: its fields are CVAT's, not ours."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
  id INTEGER PRIMARY KEY AUTOINCREMENT, username TEXT UNIQUE NOT NULL, password TEXT NOT NULL,
  email TEXT NOT NULL DEFAULT '', is_superuser INTEGER NOT NULL DEFAULT 0, joined TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tokens (
  id INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT UNIQUE NOT NULL, name TEXT NOT NULL,
  user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE, created TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (
  id TEXT PRIMARY KEY, user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
  csrf TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS projects (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, bug_tracker TEXT NOT NULL DEFAULT '',
  owner_id INTEGER, assignee_id INTEGER, created TEXT NOT NULL, updated TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  project_id INTEGER REFERENCES projects ON DELETE CASCADE,
  name TEXT NOT NULL, bug_tracker TEXT NOT NULL DEFAULT '', subset TEXT NOT NULL DEFAULT '',
  owner_id INTEGER, assignee_id INTEGER, segment_size INTEGER NOT NULL DEFAULT 0,
  overlap INTEGER NOT NULL DEFAULT 0, size INTEGER NOT NULL DEFAULT 0, image_quality INTEGER,
  chunk_size INTEGER, deleted_frames TEXT NOT NULL DEFAULT '[]',
  created TEXT NOT NULL, updated TEXT NOT NULL, replicas INTEGER NOT NULL DEFAULT 0,
  validation_mode TEXT);
CREATE TABLE IF NOT EXISTS labels (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  project_id INTEGER REFERENCES projects ON DELETE CASCADE,
  task_id INTEGER REFERENCES tasks ON DELETE CASCADE,
  name TEXT NOT NULL, color TEXT NOT NULL, type TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS attributes (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  label_id INTEGER NOT NULL REFERENCES labels ON DELETE CASCADE,
  name TEXT NOT NULL, mutable INTEGER NOT NULL, input_type TEXT NOT NULL,
  default_value TEXT NOT NULL, choices TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS uploads (
  task_id INTEGER NOT NULL REFERENCES tasks ON DELETE CASCADE, filename TEXT NOT NULL,
  UNIQUE (task_id, filename));
CREATE TABLE IF NOT EXISTS frames (
  task_id INTEGER NOT NULL REFERENCES tasks ON DELETE CASCADE, frame INTEGER NOT NULL,
  name TEXT NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL,
  PRIMARY KEY (task_id, frame));
CREATE TABLE IF NOT EXISTS jobs (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  task_id INTEGER NOT NULL REFERENCES tasks ON DELETE CASCADE,
  start_frame INTEGER NOT NULL, stop_frame INTEGER NOT NULL, assignee_id INTEGER,
  stage TEXT NOT NULL DEFAULT 'annotation', state TEXT NOT NULL DEFAULT 'new',
  created TEXT NOT NULL, updated TEXT NOT NULL, type TEXT NOT NULL DEFAULT 'annotation',
  parent_job_id INTEGER REFERENCES jobs ON DELETE CASCADE, included TEXT);
CREATE TABLE IF NOT EXISTS tags (
  id INTEGER PRIMARY KEY AUTOINCREMENT, job_id INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
  label_id INTEGER NOT NULL REFERENCES labels ON DELETE CASCADE, frame INTEGER NOT NULL,
  body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS shapes (
  id INTEGER PRIMARY KEY AUTOINCREMENT, job_id INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
  label_id INTEGER NOT NULL REFERENCES labels ON DELETE CASCADE, frame INTEGER NOT NULL,
  body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tracks (
  id INTEGER PRIMARY KEY AUTOINCREMENT, job_id INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
  label_id INTEGER NOT NULL REFERENCES labels ON DELETE CASCADE, frame INTEGER NOT NULL,
  body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS issues (
  id INTEGER PRIMARY KEY AUTOINCREMENT, job_id INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
  frame INTEGER NOT NULL, position TEXT NOT NULL, owner_id INTEGER, assignee_id INTEGER,
  resolved INTEGER NOT NULL DEFAULT 0, created TEXT NOT NULL, updated TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS comments (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  issue_id INTEGER NOT NULL REFERENCES issues ON DELETE CASCADE, owner_id INTEGER,
  message TEXT NOT NULL, created TEXT NOT NULL, updated TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS requests (
  id TEXT PRIMARY KEY, status TEXT NOT NULL, message TEXT NOT NULL DEFAULT '',
  operation TEXT NOT NULL, owner_id INTEGER, created TEXT NOT NULL, started TEXT, finished TEXT,
  result_file TEXT, result_id INTEGER);
CREATE TABLE IF NOT EXISTS events (
  id INTEGER PRIMARY KEY AUTOINCREMENT, scope TEXT NOT NULL, timestamp TEXT NOT NULL,
  source TEXT NOT NULL DEFAULT '', duration INTEGER, count INTEGER, project_id INTEGER,
  task_id INTEGER, job_id INTEGER, user_id INTEGER, user_name TEXT NOT NULL DEFAULT '',
  payload TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS shapes_of_job ON shapes (job_id);
CREATE INDEX IF NOT EXISTS tags_of_job ON tags (job_id);
CREATE INDEX IF NOT EXISTS jobs_of_task ON jobs (task_id);
CREATE INDEX IF NOT EXISTS tasks_of_project ON tasks (project_id);
CREATE INDEX IF NOT EXISTS labels_of_project ON labels (project_id);
CREATE INDEX IF NOT EXISTS attributes_of_label ON attributes (label_id);
"""

_ADDED = (
    ("tasks", "replicas", "INTEGER NOT NULL DEFAULT 0"),
    ("tasks", "validation_mode", "TEXT"),
    ("jobs", "type", "TEXT NOT NULL DEFAULT 'annotation'"),
    ("jobs", "parent_job_id", "INTEGER REFERENCES jobs ON DELETE CASCADE"),
    ("jobs", "included", "TEXT"),
)
"""Columns that a database of an earlier version lacks."""


def now() -> str:
    """The present in UTC, as CVAT writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class _Connection:
    """A connection to the database, for one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.lock = threading.RLock()
        self.db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.db.row_factory = sqlite3.Row


class Store:
    """One SQLite file shared by the server's threads, and the folder of media.

    Changes go one after the other; whoever only reads does not wait for them, and sees what they
    have left when they are done.
    """

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self.data_dir = data_dir
        self._writer = _Connection(data_dir / "standin.sqlite")
        self._changes_in: int | None = None
        """The thread whose transaction it is: it alone sees what it has changed so far."""
        self._lock, self._db = self._writer.lock, self._writer.db
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.executescript(SCHEMA)
        for table, column, declared in _ADDED:
            if column not in {
                row["name"] for row in self._db.execute(f"PRAGMA table_info({table})")
            }:
                self._db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {declared}")

        self._reader = _Connection(data_dir / "standin.sqlite")
        self.job_saved: Callable[[int, Record], None] = lambda _job_id, _before: None
        """Told of each job that was saved, with the fields as they were before."""

    def close(self) -> None:
        """Close the database; the files stay."""
        for connection in (self._reader, self._writer):
            with connection.lock:
                connection.db.close()

    def _looking(self) -> _Connection:
        return self._writer if self._changes_in == threading.get_ident() else self._reader

    def rows(self, sql: str, *values: object) -> list[Record]:
        """All rows of a query."""
        looking = self._looking()
        with looking.lock:
            return [dict(row) for row in looking.db.execute(sql, values)]

    def row(self, sql: str, *values: object) -> Record | None:
        """The first row of a query, or None."""
        found = self.rows(sql, *values)
        return found[0] if found else None

    def count(self, sql: str, *values: object) -> int:
        """The integer a counting query answers."""
        looking = self._looking()
        with looking.lock:
            return int(looking.db.execute(sql, values).fetchone()[0])

    def run(self, sql: str, *values: object) -> int:
        """Run one statement; the id of the row it inserted, if any."""
        with self._lock:
            return int(self._db.execute(sql, values).lastrowid or 0)

    def run_many(self, sql: str, values: Iterable[tuple[object, ...]]) -> None:
        """Run one statement for many rows."""
        with self._lock:
            self._db.executemany(sql, values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside are kept, or none."""
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            self._changes_in = threading.get_ident()
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            else:
                self._db.execute("COMMIT")
            finally:
                self._changes_in = None

    def media_dir(self, task_id: int) -> Path:
        """The folder that holds a task's original files."""
        folder = self.data_dir / "media" / str(task_id)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
