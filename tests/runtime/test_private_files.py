"""Files of ours beside a repository: no link is followed, and nobody else can read them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from rocketry_otel._runtime import private_files
from rocketry_otel._runtime.private_files import (
    create_private,
    is_link,
    is_own_file,
    make_private_folder,
    open_private,
    take_mode,
)

_CREATE = os.O_RDWR | os.O_CREAT


def mode(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def _no_umask():
    """Let only the code under test decide modes."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The file of a repository."""
    path = tmp_path / "tasks.db"
    path.touch()
    return path


@pytest.mark.parametrize(
    ("its_mode", "file_mode", "folder_mode"),
    [
        (0o600, 0o600, 0o700),
        (0o640, 0o640, 0o750),
        (0o644, 0o644, 0o755),
        (0o664, 0o664, 0o775),
        (0o400, 0o600, 0o700),
        (0o755, 0o644, 0o755),
    ],
)
def test_repository_decides_who_reads_files_beside_it(
    tmp_path: Path, repository: Path, its_mode: int, file_mode: int, folder_mode: int
) -> None:
    """New files and folders, and those that an earlier version has made."""
    repository.chmod(its_mode)
    old, old_folder = tmp_path / "old", tmp_path / "old-folder"
    old.touch(0o777)
    old_folder.mkdir(0o777)
    old.chmod(0o666)
    for path in (tmp_path / "new", old):
        os.close(open_private(path, _CREATE, repository))
        assert mode(path) == file_mode
    old.chmod(0o666)
    for path in (tmp_path / "created", old):
        create_private(path, repository)
        assert mode(path) == file_mode
    for path in (tmp_path / "a/b/folder", old_folder):
        make_private_folder(path, repository)
        assert mode(path) == folder_mode


@pytest.mark.parametrize("name", [None, "missing"])
def test_without_a_repository_only_the_owner_reads(tmp_path: Path, name: str | None) -> None:
    """It is on a server, or its file is not there yet."""
    like = None if name is None else tmp_path / name
    os.close(open_private(tmp_path / "new", _CREATE, like))
    assert mode(tmp_path / "new") == 0o600


def test_another_group_reads_only_if_everybody_does(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group of a file of ours may be another than that of the repository."""
    monkeypatch.setattr(os, "getegid", lambda: -5)
    for its_mode, file_mode in ((0o640, 0o600), (0o604, 0o600), (0o644, 0o644)):
        repository.chmod(its_mode)
        assert private_files._mode(repository, -5) == file_mode


def test_file_takes_the_mode_of_another(tmp_path: Path, repository: Path, monkeypatch) -> None:
    """If it cannot have the same group, its mode grants the group nothing."""
    repository.chmod(0o640)
    path = tmp_path / "new"
    file = os.open(path, _CREATE, 0o600)
    take_mode(file, repository)
    assert mode(path) == 0o640
    group = path.stat().st_gid
    status = os.stat_result((0o100640, 0, 0, 1, 0, group + 1, 0, 0, 0, 0))

    class Like:
        def stat(self) -> os.stat_result:
            return status

    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", forbidden)
    take_mode(file, Like())
    assert mode(path) == 0o600
    os.close(file)


def test_link_is_not_followed(tmp_path: Path) -> None:
    """Neither to a file nor to nothing."""
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    for opening in (
        lambda: open_private(link, _CREATE, None),
        lambda: create_private(link, None),
    ):
        for is_there in (False, True):
            if is_there:
                target.write_text("theirs")
            with pytest.raises(OSError, match=r"link|symbolic") as raised:
                opening()
            assert is_link(raised.value)
            assert target.exists() is is_there
        assert target.read_text() == "theirs"
        target.unlink()


def test_folder_that_is_a_link_is_used_only_if_it_is_of_this_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may keep the folder elsewhere; a link of somebody else is an error."""
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    make_private_folder(link, None)
    assert mode(tmp_path / "elsewhere") == 0o700
    status = list(link.lstat())
    status[4] = os.geteuid() + 1
    monkeypatch.setattr(Path, "lstat", lambda _: os.stat_result(status))
    with pytest.raises(OSError, match="link of somebody else") as raised:
        make_private_folder(link, None)
    assert raised.value.errno == errno.ELOOP


def test_file_of_somebody_else_is_not_our_own(tmp_path: Path, monkeypatch) -> None:
    """Nor is a file that has another name as well, or a pipe."""
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    file, pipe = (os.open(tmp_path / name, os.O_RDWR) for name in ("file", "pipe"))
    assert (is_own_file(file), is_own_file(pipe)) == (True, False)
    (tmp_path / "other").hardlink_to(tmp_path / "file")
    assert is_own_file(file) is False
    (tmp_path / "other").unlink()
    monkeypatch.setattr(os, "geteuid", lambda: -5)
    assert is_own_file(file) is False
    os.close(file)
    os.close(pipe)


def test_mode_of_a_file_of_another_user_stays(tmp_path: Path, monkeypatch) -> None:
    """Several users may share a repository: a mode that cannot be changed is no error."""
    path = tmp_path / "theirs"
    path.touch(0o666)

    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "chmod", forbidden)
    create_private(path, None)
    assert mode(path) == 0o666
