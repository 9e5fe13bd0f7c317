"""The command ``rocketry-otel stack init``."""

from __future__ import annotations

from pathlib import Path

import pytest

from rocketry_otel import RocketryOTelError
from rocketry_otel._cli.main import main
from rocketry_otel._cli.stack import source_of

Output = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[2]


def test_files(tmp_path: Path, capsys: Output) -> None:
    """All of them, as they are in the project; a second time changes nothing."""
    folder = tmp_path / "my" / "stack"
    for _ in range(2):
        assert main(["stack", "init", str(folder)]) == 0
        assert capsys.readouterr().out.endswith(f"  cd {folder} && docker compose up -d\n")
    written = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    expected = {Path("docker-compose.yml"), Path("collector-config.yaml")}
    expected |= {p.relative_to(ROOT) for p in (ROOT / "stack").rglob("*") if p.is_file()}
    assert written == expected
    assert all((folder / it).read_bytes() == (ROOT / it).read_bytes() for it in expected)


def test_nothing_is_overwritten(tmp_path: Path, capsys: Output) -> None:
    """A file that differs stays, and nothing is written, without ``--force``."""
    (tmp_path / "collector-config.yaml").write_text("mine")
    assert main(["stack", "init", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"rocketry-otel: {tmp_path} has other files of these names: collector-config.yaml; "
        "nothing was written (--force overwrites them)\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["collector-config.yaml"]
    assert main(["stack", "init", str(tmp_path), "--force"]) == 0
    assert (tmp_path / "collector-config.yaml").read_text() != "mine"


def test_folder_that_cannot_be_written(tmp_path: Path, capsys: Output) -> None:
    """A sentence and status 2."""
    (tmp_path / "file").touch()
    assert main(["stack", "init", str(tmp_path / "file" / "x")]) == 2
    assert capsys.readouterr().err.startswith(f"rocketry-otel: cannot write {tmp_path}/file/x: ")


def test_where_the_files_are(tmp_path: Path) -> None:
    """Within the package of a wheel, or in the folder of the project."""
    package = tmp_path / "src" / "rocketry_otel"
    with pytest.raises(RocketryOTelError, match="has no Compose file"):
        source_of(package)
    (tmp_path / "docker-compose.yml").touch()
    package.mkdir(parents=True)
    assert source_of(package) == tmp_path
    (package / "_stack").mkdir()
    (package / "_stack" / "docker-compose.yml").touch()
    assert source_of(package) == package / "_stack"
