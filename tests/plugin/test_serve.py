"""Serving as a process."""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

from clickloop.plugin.serve import listening

NIGHTLY = ("torch", "polars", "scipy", "ir_measures", "faiss", "alembic", "qdrant_client")


def test_what_only_nights_and_migrations_need_is_not_loaded(data_dir: Path, tiny_model: Path) -> None:
    """A second of processor time at the start, and tens of megabytes."""
    code = (
        "import sys, clickloop.plugin.serve\n"
        "from clickloop.plugin.loop import ClickLoop\n"
        "with ClickLoop() as loop: print(len(loop.search('map')))\n"
        f"print([name for name in {NIGHTLY} if name in sys.modules])"
    )
    settings = {"CLICKLOOP_DATA_DIR": str(data_dir), "CLICKLOOP_MODEL": str(tiny_model)}
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | settings
    )
    found, loaded = ended.stdout.splitlines()
    assert int(found) > 0
    assert loaded == "[]"


def test_answers_leave_at_once_instead_of_waiting_for_an_acknowledgement() -> None:
    """A socket without TCP_NODELAY delays every answer on a kept connection by about 40 ms."""

    async def accepted() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listening("127.0.0.1", 0) as listener:
            server = await asyncio.start_server(connected, sock=listener)
            async with server:
                _, writer = await asyncio.open_connection(*listener.getsockname())
                answer = await found
                writer.close()
        return answer

    assert asyncio.run(accepted()) != 0
