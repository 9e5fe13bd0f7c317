"""The command that sets up a collector and its backends in containers."""

from __future__ import annotations

from pathlib import Path

import click

from rocketry_otel._errors import RocketryOTelError

from .screen import Screen

_PACKAGE = Path(__file__).parent.parent
_COMPOSE = "docker-compose.yml"
_PARTS = (_COMPOSE, "collector-config.yaml", "stack")


@click.group("stack")
def command() -> None:
    """Set up a collector, Jaeger, Loki, Prometheus and Grafana in containers."""


@command.command("init")
@click.argument(
    "folder", type=click.Path(file_okay=False, path_type=Path), default=Path("rocketry-stack")
)
@click.option("--force", is_flag=True, help="Overwrite files that differ.")
def init(*, folder: Path, force: bool) -> int:
    """Write the Compose file and all that it needs into FOLDER (default: rocketry-stack).

    A file that is there already and differs is not overwritten without --force: then nothing is
    written at all.
    """
    screen = Screen()
    source = source_of(_PACKAGE)
    files = {
        path.relative_to(source): path.read_bytes()
        for part in _PARTS
        for path in sorted([source / part, *(source / part).rglob("*")])
        if path.is_file()
    }
    try:
        differing = [
            str(name)
            for name, content in files.items()
            if (folder / name).exists() and (folder / name).read_bytes() != content
        ]
        if differing and not force:
            raise RocketryOTelError(
                f"{folder} has other files of these names: {', '.join(differing)}; nothing was "
                "written (--force overwrites them)"
            )
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    except OSError as error:
        raise RocketryOTelError(f"cannot write {folder}: {error}") from error
    screen.line(f"{len(files)} files are in {folder}. Start the containers there:")
    screen.line(f"  cd {folder} && docker compose up -d")
    return 0


def source_of(package: Path) -> Path:
    """Return the folder with the files: within the package, or in the project's own folder.

    Args:
        package: The folder of the package.

    Raises:
        RocketryOTelError: They are in neither.
    """
    for source in (package / "_stack", package.parent.parent):
        if (source / _COMPOSE).is_file():
            return source
    raise RocketryOTelError("this installation has no Compose file; install it from the wheel")
