"""The store: a study's answers in one SQLite file, each once, whatever happens to the processes that write them.

Every answer is a transaction of its own in SQLite's write-ahead log, so a process that is killed at any moment loses what it
had not put and nothing else, and several processes may write.  An answer's key is a hash of all that it depends on, so the
same question asked again is found, and stores of different runs or machines can be merged.  (SQLite's locks want a file system
of this machine: processes elsewhere send their answers to the one that writes.)
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from bourn.errors import UsageError

T = TypeVar("T")

_APPLICATION, _VERSION = 0x626F7572, 1
"""Marks of a store in SQLite's header: "bour", and the version of its tables."""

_PATIENCE = 60.0
"""Seconds to wait for another process that writes."""

_TABLES = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS records (
  number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, study TEXT NOT NULL, task TEXT NOT NULL, result TEXT NOT NULL,
  seconds REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL);
PRAGMA user_version = {version};
PRAGMA application_id = {application};
COMMIT;
"""

_LABELS = ("network", "mode")
"""Entries of a task that name things for people; its answer does not depend on them.

Nor does it on the image's number, but a set that holds an image twice is to count it twice.
"""


@dataclass(frozen=True)
class Record:
    """One answer: ``task`` says what was asked, ``result`` what came out, both as JSON; ``seconds`` of processor time.

    A task has ``study``, ``network`` (its name), ``network_hash``, ``mode`` (how it was trained, "" if unknown), ``image`` (its
    number), ``input_hash``, ``label`` (the class that is to be kept), ``radius`` (None where that is what is sought), ``clip``
    ([low, high] or None), ``method`` and ``options``.
    """

    key: str
    task: Mapping[str, Any]
    result: Mapping[str, Any]
    seconds: float

    @classmethod
    def of(cls, task: Mapping[str, Any], result: Mapping[str, Any], seconds: float) -> Record:
        """The record of a task's answer under the task's own key."""
        return cls(key_of(task), task, result, seconds)


def key_of(task: Mapping[str, Any]) -> str:
    """SHA-256 of all of the task that its answer depends on, in canonical JSON: everything but names for people."""
    asked = {name: value for name, value in task.items() if name not in _LABELS}
    return hashlib.sha256(_json(asked).encode()).hexdigest()


class Store:
    """Answers by key, in the file ``path``, made where there is none unless ``create`` is False; a context manager.

    Raises :class:`UsageError`, here and in every method, where the file is no store or cannot be read or written.
    """

    def __init__(self, path: str | Path, create: bool = True) -> None:
        self.path = Path(path)
        if not create and not self.path.is_file():
            raise UsageError(f"{self.path}: there is no such store; 'bourn study' writes one")
        if not self.path.parent.is_dir():
            raise UsageError(f"{self.path}: there is no folder {str(self.path.parent)!r} to put the store in")
        self._connection = self._run(lambda: sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None))
        try:
            self._run(self._open)
        except BaseException:
            self._connection.close()
            raise

    def _open(self) -> None:
        marks = [self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if marks[0] != _APPLICATION and (tables or marks != [0, 0]):
            raise UsageError(f"{self.path}: is a database, but no store of a study")
        if marks[1] > _VERSION:
            raise UsageError(f"{self.path}: was written by a later version of bourn; use that one")
        self._log_ahead()
        # Nothing is lost when a process dies; at a power cut the last answers may be, and only these.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        if marks != [_APPLICATION, _VERSION]:
            self._connection.executescript(_TABLES.format(version=_VERSION, application=_APPLICATION))

    def _log_ahead(self) -> None:
        """Turn the write-ahead log on, which SQLite refuses, without waiting, while another process does the same."""
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; a store that is not closed loses nothing."""
        self._connection.close()

    def __contains__(self, key: object) -> bool:
        return bool(self._rows("SELECT 1 FROM records WHERE key = ?", (key,)))

    def __len__(self) -> int:
        return int(self._rows("SELECT count(*) FROM records")[0][0])

    def keys(self) -> set[str]:
        """The keys of all answers."""
        return {key for (key,) in self._rows("SELECT key FROM records")}

    def put(self, record: Record) -> None:
        """Keep an answer, wholly or not at all; of two with one key the first stays."""
        self.put_all([record])

    def put_all(self, records: Iterable[Record]) -> int:
        """Keep answers in one transaction; returns how many were new."""
        rows = [(r.key, r.task["study"], _json(r.task), _json(r.result), r.seconds) for r in records]

        def write() -> int:
            before = self._connection.total_changes
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(
                    "INSERT OR IGNORE INTO records (key, study, task, result, seconds) VALUES (?, ?, ?, ?, ?)", rows
                )
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            return self._connection.total_changes - before

        return self._run(write)

    def records(self, study: str | None = None) -> Iterator[Record]:
        """All answers, or those of one kind of study, in the order in which they came in."""
        last = 0
        while True:  # in pieces, so that a store may be larger than memory and be written while it is read
            rows = self._rows(
                "SELECT number, key, task, result, seconds FROM records WHERE number > ? AND (? IS NULL OR study = ?) "
                "ORDER BY number LIMIT 1000",
                (last, study, study),
            )
            if not rows:
                return
            last = rows[-1][0]
            for _, key, task, result, seconds in rows:
                yield Record(key, json.loads(task), json.loads(result), seconds)

    def merge(self, other: str | Path) -> int:
        """Take over the answers of another store that this one does not have, and its notes; returns how many they were."""
        with Store(other, create=False) as source:
            for name, value in source.notes().items():
                if name not in self.notes():
                    self.note(name, value)
            return self.put_all(source.records())

    def notes(self) -> dict[str, Any]:
        """What was noted beside the answers, by name: of a study under its name its description as JSON."""
        return {name: json.loads(value) for name, value in self._rows("SELECT name, value FROM notes ORDER BY name")}

    def note(self, name: str, value: Any) -> None:
        """Note something (JSON) under a name, instead of what stood there."""
        self._rows("INSERT OR REPLACE INTO notes (name, value) VALUES (?, ?)", (name, _json(value)))

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        return self._run(lambda: self._connection.execute(query, values).fetchall())

    def _run(self, action: Callable[[], T]) -> T:
        """What ``action`` returns; SQLite's complaints become one line."""
        try:
            return action()
        except sqlite3.Error as error:
            raise UsageError(f"{self.path}: {_reason(error)}") from None


def _reason(error: sqlite3.Error) -> str:
    text = str(error)
    if "not a database" in text or "malformed" in text or "no such table" in text or "no such column" in text:
        return f"is no store of a study ({text})"
    return f"the store cannot be read or written: {text}"


def _json(value: Any) -> str:
    """Canonical JSON: names sorted, no spaces, and no NaN or infinity, which JSON does not have."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
