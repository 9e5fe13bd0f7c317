"""The repository in a CSV file."""

from __future__ import annotations

import csv
import logging
import os
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_UN, flock
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redbird.oper import greater_equal
from redbird.repos import CSVFileRepo

from rocketry_otel._errors import RepositoryError, RepositoryMismatchError, RepositoryURLError
from rocketry_otel._model.record import TaskEventRecord
from rocketry_otel._model.text import safe_text
from rocketry_otel._repositories import csv_file, csv_repo
from rocketry_otel._repositories.open_repository import open_repository
from tests.support.processes import run_python

from .records import FULL, record

HEADER = (
    b"task_name,action,created,run_id,start,end,runtime,message,exc_text,exc_type,exc_message,"
    b"process,thread,execution,links,attributes,events,trace_id,span_id\r\n"
)


@pytest.fixture
def path(tmp_path):
    """Where the file is, or will be."""
    return tmp_path / "events.csv"


def bare_return():
    """Return Python's error for a carriage return outside of quotes; it varies."""
    with pytest.raises(csv.Error) as caught:
        next(csv.reader(["a\rb"]))
    return str(caught.value)


def open_csv(path):
    """Open the repository of a file."""
    return open_repository(f"csv://{path}")


def damaged(path):
    """Return the rows that were moved out of the file."""
    return path.with_name("events.csv.damaged").read_bytes()


def test_file_has_a_header_and_a_row_for_each_record(path):
    """It is UTF-8, and None is an empty cell."""
    repo = open_csv(path)
    assert isinstance(repo, CSVFileRepo)
    assert repo.id_field is None
    repo.add(record("Grüße", "run", 0.1, message='a "b",\n'))
    assert path.read_bytes() == HEADER + 'Grüße,run,0.1,,,,,"a ""b"",\n",,,,,,,,,,,\r\n'.encode()


def test_paths(tmp_path, monkeypatch):
    """Three slashes are absolute and two are relative to where the process was at opening."""
    monkeypatch.chdir(tmp_path)
    urls = [
        f"csv://{tmp_path}/a/absolute.csv",
        "csv://relative.csv",
        "csv://./dot.csv",
        "csv://b/deep.csv",
        "csv://100%25%3F.csv",
    ]
    repos = [open_repository(url) for url in urls]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for repo in repos:
        repo.add(record())
    names = ["a/absolute.csv", "relative.csv", "dot.csv", "b/deep.csv", "100%?.csv"]
    assert [(tmp_path / name).read_bytes()[:4] for name in names] == [b"task"] * 5
    assert [*(tmp_path / "elsewhere").iterdir()] == []


@pytest.mark.parametrize("url", ["csv://", "csv:///", "csv:///x.csv?table=a", "csv://a%00.csv"])
def test_url_without_a_file_is_refused(url):
    """A URL with an option is refused too."""
    with pytest.raises(RepositoryURLError, match="csv://"):
        open_repository(url)


def test_directory_is_refused(tmp_path):
    """A directory is no CSV file."""
    with pytest.raises(RepositoryURLError, match="this is a directory"):
        open_csv(tmp_path)


def test_path_through_a_file_is_refused(tmp_path):
    """The error has the system's message about a path that cannot be created."""
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match=r"Not a directory|File exists"):
        open_csv(tmp_path / "file" / "events.csv")


@pytest.mark.parametrize("content", [b"", HEADER, b"\xef\xbb\xbf" + HEADER])
def test_file_without_records_is_accepted(path, content):
    """It is empty or has only a header, also one of Excel's."""
    path.write_bytes(content)
    repo = open_csv(path)
    assert repo.filter_by().all() == []
    repo.add(record())
    assert path.read_bytes().startswith(content or HEADER)
    assert repo.filter_by().all() == [record()]


@pytest.mark.parametrize(
    ("header", "differs"),
    [
        (HEADER.replace(b"run_id,", b""), "missing: run_id"),
        (HEADER.replace(b"\r\n", b",colour\r\n"), "unexpected: colour"),
        (
            HEADER.replace(b"start,end", b"begin,end"),
            "missing: start; unexpected: begin",
        ),
        (HEADER.replace(b"start,end", b"end,start"), "their order is not task_name"),
        (b"one line of something else", "unexpected: one line of something else"),
        (b"\n", "missing: task_name, action"),
        (b"\xff\0\n", r"unexpected: \\xff\\x00"),
    ],
)
def test_other_columns(path, header, differs):
    """A file with other columns is refused with the differences, and is not changed."""
    content = header + b"1,2,3"
    path.write_bytes(content)
    with pytest.raises(RepositoryMismatchError, match=differs) as caught:
        open_csv(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_every_cut_of_the_last_row(path, caplog):
    """Wherever a kill cuts the last row, the rows before and after are whole."""
    repo = open_csv(path)
    repo.add(record("a"))
    start = path.stat().st_size
    repo.add(FULL.copy(update={"message": 'quotes " and\nlines\r\n'}))
    content = path.read_bytes()
    for end in range(start + 1, len(content)):
        path.write_bytes(content[:end])
        path.with_name("events.csv.damaged").unlink(missing_ok=True)
        caplog.clear()
        again = open_csv(path)
        again.add(record("b"))
        assert again.filter_by().all() == [record("a"), record("b")]
        assert damaged(path) == content[start:end].rstrip(b"\r\n") + b"\n"
        assert [one.levelname for one in caplog.records] == ["WARNING"]
        assert caplog.records[0].name == "rocketry_otel"
        assert caplog.records[0].getMessage() == (
            f"the last row of {path} was cut short, and is now in {path}.damaged"
        )


def test_every_cut_of_the_header(path):
    """Wherever a kill cuts the header, it is written anew."""
    for end in range(1, len(HEADER)):
        path.write_bytes(HEADER[:end])
        repo = open_csv(path)
        repo.add(record("a"))
        assert path.read_bytes() == HEADER + b"a,run,1.0" + b"," * 16 + b"\r\n"


def test_damage_is_gathered(path):
    """A second damaged row is added to the first in the other file."""
    open_csv(path).add(record("a"))
    for cut in (b"x,run,", b'y,run,1.0,"'):
        with path.open("ab") as file:
            file.write(cut)
        open_csv(path)
    assert damaged(path) == b'x,run,\ny,run,1.0,"\n'


def test_row_that_was_cut_short_is_moved(path, caplog):
    """It is moved before the next row is written."""
    repo = open_csv(path)
    repo.add(record("a"))
    with path.open("ab") as file:
        file.write(b'x,run,1.0,,,,,"half')
    assert repo.filter_by().all() == [record("a")]
    assert repo.filter_by(task_name="x", action="run").last() is None
    repo.add(record("b"))
    assert repo.filter_by().all() == [record("a"), record("b")]
    assert damaged(path) == b'x,run,1.0,,,,,"half\n'
    assert len(caplog.records) == 1


def test_rows_of_another_repository(path):
    """Rows that another repository of the same file has written are seen at once."""
    one, two = open_csv(path), open_csv(path)
    asked = {"task_name": "fetch", "action": "run"}
    for number in range(4):
        (one, two)[number % 2].add(record(created=number))
        assert [repo.filter_by(**asked).last().created for repo in (one, two)] == [number] * 2
    one.filter_by(created=3.0).delete()
    assert two.filter_by(**asked).last().created == 2.0


def test_rewritten_file_is_read_again(path):
    """After another process has changed the file, rows are neither lost nor taken for damage."""
    one, two = open_csv(path), open_csv(path)
    asked = {"task_name": "fetch", "action": "run"}
    for number in range(6):
        one.add(record(created=number, message='a "quoted" text\n' * number))
        two.filter_by(created=number - 3).delete()
        two.add(record(created=number + 100))
        assert [repo.filter_by(**asked).last().created for repo in (one, two)] == [number + 100] * 2
    expected = [3, 103, 4, 104, 5, 105]
    assert [int(one.created) for one in open_csv(path).filter_by() if one.created % 100 > 2] == (
        expected
    )
    assert not path.with_name("events.csv.damaged").exists()


def test_file_overwritten_in_place_is_checked_again(path):
    """It has the same inode and another content."""
    repo = open_csv(path)
    asked = {"task_name": "a", "action": "run"}
    repo.add(record("a", created=1))
    assert repo.filter_by(**asked).last().created == 1.0
    path.write_bytes(HEADER + b'a,run,2.0,,,,,"' + b"long, " * 99 + b'",,,,,,,,,,,\r\nb,run,')
    assert repo.filter_by(**asked).last().created == 2.0
    repo.add(record("a", created=3))
    assert repo.filter_by(**asked).last().created == 3.0
    assert damaged(path) == b"b,run,\n"


def test_missing_file_begins_again(path):
    """It gets its header too."""
    repo = open_csv(path)
    repo.add(record("a"))
    assert repo.filter_by(task_name="a", action="run").last() == record("a")
    path.rename(path.with_suffix(".old"))
    assert repo.filter_by().all() == []
    assert repo.filter_by(task_name="a", action="run").last() is None
    repo.add(record("b"))
    assert path.read_bytes().startswith(HEADER)
    assert repo.filter_by().all() == [record("b")]


def test_long_traceback_is_read(path):
    """It is longer than Python's default limit for a field."""
    repo = open_csv(path)
    repo.add(record(exc_text="line\n" * 100_000))
    (kept,) = repo.filter_by().all()
    assert kept.exc_text == "line\n" * 100_000
    assert csv.field_size_limit() > 2**31


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (b"too,few\r\n", "it has 2 columns"),
        (b"a,run,1.0" + b"," * 17 + b"\r\n", "it has 20 columns"),
        (b"\r\n", "it has 0 columns"),
        (
            b"a,run,no number" + b"," * 16 + b"\r\n",
            (
                "1 validation error for TaskEventRecord created value is not a valid float "
                "(type=type_error.float)"
            ),
        ),
        (b"a,run\rb,1.0\r\n", bare_return()),
    ],
)
def test_unreadable_row_is_skipped(path, caplog, row, why):
    """It is logged once, and changes leave it as it is."""
    repo = open_csv(path)
    repo.add(record("a", message="before"))
    with path.open("ab") as file:
        file.write(row)
    repo.add(record("b", message="after"))
    assert [one.task_name for one in repo.filter_by()] == ["a", "b"]
    assert repo.filter_by(task_name="a", action="run").last().message == "before"
    repo.filter_by(message="after").update(message="changed")
    repo.filter_by(message="before").delete()
    assert [one.message for one in repo.filter_by()] == ["changed"]
    assert row in path.read_bytes()
    assert [one.getMessage() for one in caplog.records] == [
        f"rows of {path} that cannot be read are left out: {why}"
    ]


def test_bytes_that_are_no_text(path):
    """Bytes that are not UTF-8, and a NUL, do not keep a row from being read."""
    open_csv(path)
    path.write_bytes(HEADER + b"caf\xe9\0,run,1.0" + b"," * 16 + b"\r\n")
    assert open_csv(path).filter_by().all() == [record("caf\\xe9\\x00")]


def test_failed_change_leaves_the_file_as_it_was(path):
    """Nothing is left beside it."""
    repo = open_csv(path)
    repo.add(record())
    before = path.read_bytes()
    with pytest.raises(ValueError, match="has no field"):
        repo.filter_by().update(colour="red")
    assert path.read_bytes() == before
    assert [*path.parent.iterdir()] == [path]
    repo.add(record("b"))
    assert repo.filter_by().count() == 2


def test_others_add_while_the_file_is_written_anew(path):
    """Writers do not wait for a change, and new records are there afterwards, changed as well."""
    repo = open_csv(path)
    for name in "ab":
        repo.add(record(name, run_id="1"))
    names = iter("cd")

    def is_unwanted(one):
        # The lock is not held: else this would wait for itself.
        if one.task_name in "ab":
            open_csv(path).add(record(next(names), run_id="1"))
        return one.task_name in "ac"

    assert repo.remove({"run_id": "1"}, is_unwanted) == 2
    assert [one.task_name for one in repo.filter_by()] == ["b", "d"]
    assert [*path.parent.iterdir()] == [path]


def test_another_file_is_put_there_while_it_is_written_anew(path):
    """Then it is begun again with that: a program that knows no lock loses nothing either."""
    repo = open_csv(path)
    for name in "abcd":
        repo.add(record(name))
    other = open_csv(path.with_name("other.csv"))
    for name in "abcd":
        other.add(record(name, message="changed" if name == "b" else None))

    def is_unwanted(one):
        if other.filename.exists():
            other.filename.replace(path)
        return one.task_name in "ac"

    assert repo.remove({}, is_unwanted) == 2
    assert [(one.task_name, one.message) for one in repo.filter_by()] == [
        ("b", "changed"),
        ("d", None),
    ]


def test_own_rewrite_costs_no_further_reading(path):
    """Neither the next record nor the next query reads the whole file."""
    repo = open_csv(path)
    for name in ("a" * 2_000, "b", "c" * 2_000):
        repo.add(record(name))
    repo.filter_by(task_name="b").delete()
    path.write_bytes(path.read_bytes().replace(b"a" * 2_000, b"x" * 2_000))
    assert repo.filter_by(task_name="a" * 2_000, action="run").last() is not None
    repo.add(record("d"))
    assert repo.filter_by(task_name="d", action="run").last() == record("d")
    assert repo.filter_by(task_name="b", action="run").last() is None


def test_missing_file_has_nothing_to_remove(path):
    """No error is raised."""
    repo = open_csv(path)
    path.unlink()
    assert repo.remove({}, lambda _: True) == 0
    repo.add(record())
    assert repo.filter_by().all() == [record()]


def test_row_without_a_time_is_skipped(path, caplog):
    """It is logged; it is neither found nor removed."""
    repo = open_csv(path)
    repo.add(record(created=5.0))
    row = path.read_bytes().splitlines(keepends=True)[1]
    with path.open("ab") as file:
        file.write(row.replace(b"5.0", b"soon"))
    assert repo.filter_by(created=greater_equal(1.0)).all() == [record(created=5.0)]
    assert len(caplog.records) == 1
    repo.filter_by(created=greater_equal(1.0)).delete()
    assert b"soon" in path.read_bytes()


def test_change_keeps_the_permissions(path):
    """A change keeps the permissions of the file."""
    repo = open_csv(path)
    repo.add(record())
    path.chmod(0o640)
    repo.filter_by().update(message="x")
    assert path.stat().st_mode & 0o777 == 0o640


def test_full_disk_raises_and_leaves_no_half_row(path):
    """The disk has no room for the record."""
    repo = open_csv(path)
    repo.add(record("a"))
    size = path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            repo.add(record("b", message="x" * 5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.stat().st_size == size
    repo.add(record("c"))
    assert repo.filter_by().all() == [record("a"), record("c")]


@pytest.mark.slow
def test_processes_write_at_once(path):
    """Rows of several processes, larger than any buffer, are all there and all whole."""
    script = """
        import sys
        from rocketry_otel._model.record import TaskEventRecord
        from rocketry_otel._repositories.open_repository import open_repository
        repo = open_repository(sys.argv[1])
        for number in range(30):
            repo.add(TaskEventRecord(
                task_name=sys.argv[2], action="run", created=number, message="x\\n" + "x" * 100_000
            ))
    """
    with ThreadPoolExecutor(3) as threads:
        finished = [
            threads.submit(run_python, script, f"csv://{path}", name) for name in ("a", "b", "c")
        ]
        assert [one.result().stderr for one in finished] == [""] * 3
    repo = open_csv(path)
    for name in ("a", "b", "c"):
        kept = repo.filter_by(task_name=name).all()
        assert [one.created for one in kept] == list(range(30))
        assert {one.message for one in kept} == {"x\n" + "x" * 100_000}
    assert not path.with_name("events.csv.damaged").exists()


@pytest.mark.parametrize("is_replaced", [True, False])
def test_waiting_writer_writes_to_the_new_file(path, is_replaced):
    """The file was replaced or removed while it waited."""
    repo = open_csv(path)
    repo.add(record("a"))
    with path.open("rb") as old:
        flock(old, LOCK_EX)
        writer = threading.Thread(target=repo.add, args=[record("b")])
        writer.start()
        await_waiting_lock(path)
        if is_replaced:
            copy = path.with_suffix(".new")
            copy.write_bytes(path.read_bytes())
            copy.replace(path)
        else:
            path.unlink()
        flock(old, LOCK_UN)
        writer.join()
    assert repo.filter_by().all() == [record("a"), record("b")][not is_replaced :]


def await_waiting_lock(path):
    """Wait until somebody waits for the lock on a file, of which the kernel keeps a list."""
    inode = path.stat().st_ino
    deadline = time.monotonic() + 30
    while not any(
        "->" in line and f":{inode} " in line
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()
    ):
        assert time.monotonic() < deadline, "nobody waits for the lock"
        os.sched_yield()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(st.text(), st.text(), st.floats(-6e10, 2.5e11))))
def test_any_text_comes_back(path, rows):
    """Whatever the text and the time are, the file gives them back."""
    path.unlink(missing_ok=True)
    repo = open_csv(path)
    for name, message, created in rows:
        repo.add(record(name, "run", created, message=message))
    assert open_csv(path).filter_by().all() == [
        record(safe_text(name), "run", created, message=safe_text(message) or None)
        for name, message, created in rows
    ]


def test_repository_of_red_bird_reads_the_file(path):
    """Red Bird's plain repository with the same model reads our file."""
    open_csv(path).add(FULL)
    plain = CSVFileRepo(filename=path, model=TaskEventRecord)
    assert plain.filter_by().all() == [FULL]
    plain.add(record("plain"))
    assert open_csv(path).filter_by().all() == [FULL, record("plain")]


def test_warnings_go_to_our_logger(path, caplog):
    """Only our logger reports damage."""
    open_csv(path).add(record())
    with path.open("ab") as file:
        file.write(b"x")
    with caplog.at_level(logging.CRITICAL, "rocketry_otel"):
        open_csv(path)
    assert caplog.records == []


@pytest.mark.parametrize("kind", ["link", "dangling", "hard", "pipe", "file"])
def test_planted_file_is_not_written_by_a_removal(path, tmp_path, kind):
    """A link that somebody else has put there is removed; what it leads to stays as it is."""
    repo = open_csv(path)
    repo.add(record("a"))
    repo.add(record("b"))
    path.chmod(0o600)
    victim, planted = tmp_path / "victim", path.with_name(f".{path.name}.tmp")
    if kind != "dangling":
        victim.write_text("theirs")
    if kind == "hard":
        planted.hardlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(planted)
    elif kind == "file":
        planted.write_text("the rest of a killed process")
    else:
        planted.symlink_to(victim)
    repo.filter_by(task_name="a").delete()
    assert repo.filter_by().all() == [record("b")]
    assert (victim.read_text() if victim.exists() else None) == (
        None if kind == "dangling" else "theirs"
    )
    assert (path.is_symlink(), path.stat().st_mode & 0o777) == (False, 0o600)
    assert not os.path.lexists(planted)


def test_new_file_that_is_replaced_meanwhile_takes_no_place(path, monkeypatch):
    """Another program has put its own file there: the repository stays as it is."""
    repo = open_csv(path)
    repo.add(record("a"))
    monkeypatch.setattr(csv_repo, "is_at", lambda *_: False)
    with pytest.raises(OSError, match="was replaced by another program"):
        repo.filter_by().delete()
    assert repo.filter_by().all() == [record("a")]


def test_folder_in_the_place_of_the_new_file_is_an_error(path):
    """The repository stays as it is."""
    repo = open_csv(path)
    repo.add(record("a"))
    path.with_name(f".{path.name}.tmp").mkdir()
    with pytest.raises(IsADirectoryError):
        repo.filter_by().delete()
    assert repo.filter_by().all() == [record("a")]


@pytest.mark.parametrize("kind", ["link", "hard"])
def test_planted_file_does_not_get_the_rest_of_a_row(path, tmp_path, caplog, kind):
    """The rest is kept under another name, and the next record is added."""
    victim, damaged = tmp_path / "victim", path.with_name(f"{path.name}.damaged")
    victim.write_text("theirs")
    damaged.symlink_to(victim) if kind == "link" else damaged.hardlink_to(victim)
    repo = open_csv(path)
    repo.add(record("a"))
    path.chmod(0o640)
    with path.open("ab") as file:
        file.write(b"half a row")
    repo.add(record("b"))
    assert repo.filter_by().all() == [record("a"), record("b")]
    assert victim.read_text() == "theirs"
    (kept,) = [one for one in tmp_path.iterdir() if one.name.startswith(f"{damaged.name}-")]
    assert (kept.read_bytes(), kept.stat().st_mode & 0o777) == (b"half a row\n", 0o640)
    assert [one.getMessage() for one in caplog.records] == [
        f"the last row of {path} was cut short, and is now in {kept}"
    ]


def descriptors(path):
    """Return the descriptors that this process has of a file."""
    found = []
    for one in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            if one.readlink() == path.resolve():
                found.append(int(one.name))
    return found


def test_file_is_kept_open_and_closed_with_the_repository(path):
    """Records are added through one descriptor."""
    repo = open_csv(path)
    repo.add(record())
    before = descriptors(path)
    assert len(before) == 1
    repo.add(record())
    assert descriptors(path) == before
    del repo
    assert descriptors(path) == []


FORK = """
    import os, sys
    from pathlib import Path
    from rocketry_otel._model.record import TaskEventRecord
    from rocketry_otel._repositories.open_repository import open_repository

    def add(name):
        repo.add(TaskEventRecord(task_name=name, action="run", created=1))

    path = Path(sys.argv[1])
    repo = open_repository(f"csv://{path}")
    add("parent")
    kept = repo._file._file
    assert os.path.samestat(os.fstat(kept), path.stat())
    child = os.fork()
    if child == 0:
        try:
            os.fstat(kept)
        except OSError:
            add("child")
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    add("parent again")
    assert repo._file._file == kept
    print([one.task_name for one in repo.filter_by()])
"""


def test_child_has_no_copy_of_the_file(path):
    """A forked child opens the file anew, and a lock of its parent does not outlive the parent."""
    done = run_python(FORK, str(path))
    assert (done.stdout, done.stderr) == ("['parent', 'child', 'parent again']\n", "")


def test_rotated_file_gets_no_more_records(path):
    """A file that was renamed while it is kept open is left alone."""
    repo = open_csv(path)
    repo.add(record("old"))
    rotated = path.with_name("rotated.csv")
    path.rename(rotated)
    content = rotated.read_bytes()
    repo.add(record("new"))
    assert rotated.read_bytes() == content
    assert [one.task_name for one in repo.filter_by()] == ["new"]


def test_threads_write_at_once(path):
    """Eight threads add records to the one open file, and each row is whole."""
    repo = open_csv(path)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: repo.add(record(created=number)), range(200)))
    assert sorted(one.created for one in repo.filter_by()) == list(range(200))


def test_file_beside_that_is_replaced_during_the_wait(path, monkeypatch):
    """The new one is locked; what the old one held is not written to."""
    beside, lock = path.with_name("beside"), csv_file._lock
    old = []

    def replace_first(file, operation):
        if not old:
            old.append(beside.rename(path.with_name("old")))
            beside.write_bytes(b"new")
        lock(file, operation)

    path.touch()
    monkeypatch.setattr(csv_file, "_lock", replace_first)
    with csv_file.locked_beside(beside, path) as file:
        assert file.read() == b"new"
    assert old[0].read_bytes() == b""
