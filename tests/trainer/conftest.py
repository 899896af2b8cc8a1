"""What several test modules of the trainer use."""

from pathlib import Path

import pytest
from logbook import Log


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "clickloop.db")
