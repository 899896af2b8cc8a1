"""Child processes for work that must not slow down searches: a new interpreter at low priority, never a fork."""

import logging
import os
import subprocess
import sys
from typing import Any

import orjson

from .logs import log_json_lines
from .settings import Settings

NICENESS = 10  # searches go first


def spawn(settings: Settings, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """Runs this module of ours; the settings travel through its standard input because of the secrets."""
    child = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.{module}", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the server's terminal is the server's to handle
    )
    assert child.stdin is not None
    child.stdin.write(orjson.dumps(settings.for_child()))
    child.stdin.close()
    return child


def begin() -> Settings:
    """What the child does first: it takes its place behind everything else and reads its settings."""
    os.nice(NICENESS)
    log_json_lines(logging.WARNING)
    values: dict[str, Any] = orjson.loads(sys.stdin.buffer.read())
    return Settings(**values)
