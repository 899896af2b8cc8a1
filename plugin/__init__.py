"""What apps, schedules and admins touch.

from clickloop.plugin import ClickLoop, Settings
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loop import ClickLoop
    from .settings import Settings

__all__ = ["ClickLoop", "Settings"]


def __getattr__(name: str) -> Any:
    """Loads on first use: the command line answers `--help` without the libraries behind it."""
    if name == "ClickLoop":
        from .loop import ClickLoop

        return ClickLoop
    if name == "Settings":
        from .settings import Settings

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
