"""The store: every answer once, files that are none, merging, and processes that write at the same time or are killed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from bourn.errors import UsageError
from bourn.studies.store import Record, Store, key_of


def record(image: int, method: str = "crown", value: float = 1.0) -> Record:
    task = {"study": "adversarial-error", "network": "a", "network_hash": "0", "image": image, "input_hash": str(image)}
    return Record.of({**task, "method": method}, {"bound": value}, 0.5)


def test_an_answer_is_kept_once_and_the_first_stays(tmp_path: Path) -> None:
    with Store(tmp_path / "a.db") as store:
        store.put(record(0))
        store.put(record(0, value=2.0))
        assert store.put_all([record(0), record(1), record(2)]) == 2
        assert record(0).key in store
        assert record(3).key not in store
        assert len(store) == 3
    with Store(tmp_path / "a.db", create=False) as again:
        assert list(again.records()) == [record(0), record(1), record(2)]
        assert list(again.records("ladder")) == []
        assert again.keys() == {record(i).key for i in range(3)}


def test_names_for_people_are_no_part_of_the_key() -> None:
    task = dict(record(0).task)
    assert key_of({**task, "network": "b", "mode": "ADV"}) == key_of(task)
    changed = {"input_hash": "1", "network_hash": "1", "method": "ibp", "study": "ladder", "image": 7, "options": {"gap": 1}}
    keys = {key_of({**task, name: value}) for name, value in changed.items()}
    assert len(keys | {key_of(task)}) == 7


def test_what_json_does_not_have_is_not_kept(tmp_path: Path) -> None:
    with Store(tmp_path / "a.db") as store:
        with pytest.raises(ValueError, match="not JSON compliant"):
            store.put_all([record(0), record(1, value=float("nan"))])
        assert len(store) == 0


def test_stores_are_merged(tmp_path: Path) -> None:
    with Store(tmp_path / "a.db") as a, Store(tmp_path / "b.db") as b:
        a.put_all([record(0), record(1)])
        b.put_all(record(i, value=3.0) for i in range(1, 2500))
        a.note("one", {"x": 1})
        b.note("one", {"x": 2})
        b.note("two", [1, None])
        assert a.merge(b.path) == 2498
        assert a.merge(b.path) == 0
        found = list(a.records())
        assert a.notes() == {"one": {"x": 1}, "two": [1, None]}
    assert [r.task["image"] for r in found] == list(range(2500))
    assert found[1] == record(1)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    text, foreign, later = tmp_path / "text", tmp_path / "foreign.db", tmp_path / "later.db"
    text.write_text("study = 1\n" * 100, encoding="utf-8")
    for path, script in ((foreign, "CREATE TABLE t (x); "), (later, "PRAGMA user_version = 9; PRAGMA application_id = 1651471730")):
        connection = sqlite3.connect(path)
        connection.executescript(script)
        connection.close()
    for path, why in (
        (text, "is no store of a study"),
        (foreign, "is a database, but no store"),
        (later, "later version"),
        (tmp_path / "none" / "a.db", "there is no folder"),
        (tmp_path, "cannot be read or written"),
    ):
        with pytest.raises(UsageError, match=why):
            Store(path)
    with pytest.raises(UsageError, match="no such store"):
        Store(tmp_path / "none.db", create=False)
    assert not (tmp_path / "none.db").exists()


WRITER = """
import sys
sys.path.insert(0, sys.argv[3])
from test_store import record
from bourn.studies.store import Store
with Store(sys.argv[1]) as store:
    for i in range(int(sys.argv[2])):
        store.put(record(i))
        print(i, flush=True)
"""


def writer(path: Path, count: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, str(path), str(count), str(Path(__file__).parent)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_several_processes_write_and_one_that_is_killed_has_kept_what_it_put(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with writer(path, 100_000) as killed, writer(path, 60) as other:
        assert killed.stdout is not None
        assert other.stdout is not None
        for _ in range(40):
            said = int(killed.stdout.readline())
        killed.kill()
        _, complaints = other.communicate(timeout=60)
        assert other.returncode == 0, complaints
    with Store(path) as store:
        images = [r.task["image"] for r in store.records()]
        store.put(record(-1))
    assert len(images) == len(set(images))
    assert set(range(max(said + 1, 60))) <= set(images)
