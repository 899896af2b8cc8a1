"""The data folder that a command is about. Libraries are loaded by the command that needs them."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .loop import ClickLoop
    from .settings import Settings


def _folder(name: str | Path) -> Path:
    if not str(name).strip():  # as a path it would be the current folder
        raise typer.BadParameter("name a folder")
    return Path(name)


DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", parser=_folder, metavar="PATH", help="holds all state; default: ./clickloop-data"),
]
EmptiedDir = Annotated[Path, typer.Option("--data-dir", parser=_folder, metavar="PATH", help="is emptied first")]


def existing(data_dir: Path | None) -> "ClickLoop":
    """The service in this folder. Raises SettingsError where there is none."""
    from .settings import existing_settings

    return _opened(existing_settings(data_dir=data_dir))


def begun(data_dir: Path | None) -> "ClickLoop":
    """The service in this folder, which may be its first moment."""
    from .settings import read_settings

    return _opened(read_settings(data_dir=data_dir))


def _opened(settings: "Settings") -> "ClickLoop":
    from .loop import ClickLoop

    signal.siginterrupt(signal.SIGINT, True)  # polars takes that away, and Ctrl-C would wait for the next line of input
    return ClickLoop(settings)
