"""Running the service and the worker as processes."""

import signal
import sys
import threading

import uvicorn

from .app import create_app
from .logs import log_json_lines
from .loop import ClickLoop


def serve(loop: ClickLoop, host: str, port: int) -> None:
    """Until a signal. Exit status 1 when the first build cannot be made."""
    log_json_lines()
    _announce_admin_key(loop)
    server = uvicorn.Server(
        uvicorn.Config(create_app(loop), host=host, port=port, log_config=None, access_log=False, lifespan="on")
    )
    # Everything that can fail at once does so here, with one line instead of a trace.
    loop.start(on_failure=lambda: setattr(server, "should_exit", True))
    print(f"clickloop: http://{host}:{port} (data in {loop.settings.data_dir})", file=sys.stderr, flush=True)
    try:
        server.run()
    finally:
        loop.close()
    if loop.failure is not None:
        raise loop.failure


def work(loop: ClickLoop) -> None:
    """The schedule without HTTP, until a signal."""
    log_json_lines()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    loop.start(on_failure=stop.set)
    print("clickloop: the worker follows the schedule", file=sys.stderr, flush=True)
    try:
        stop.wait()
    finally:
        loop.close()
    if loop.failure is not None:
        raise loop.failure


def _announce_admin_key(loop: ClickLoop) -> None:
    preset = loop.settings.admin_key
    made = loop.keys.ensure_admin(None if preset is None else preset.get_secret_value())
    if made is not None:
        print(f"clickloop: the admin key, shown this once: {made}", file=sys.stderr, flush=True)
