"""Running the service and the worker as processes."""

import gc
import signal
import socket
import sys
import threading

import uvicorn

from ..retriever.errors import InvalidInput
from .app import create_app
from .logs import log_json_lines
from .loop import ClickLoop


def serve(loop: ClickLoop, host: str, port: int) -> None:
    """Until a signal. Exit status 1 when the first build cannot be made."""
    log_json_lines()
    config = uvicorn.Config(create_app(loop), host=host, port=port, log_config=None, access_log=False, lifespan="on")
    server = uvicorn.Server(config)
    # Everything that can fail at once does so here, with one line instead of a trace.
    try:
        with listening(host, port) as listener:  # before `start`, whose first release takes long to make and to end
            loop.start(on_failure=lambda: setattr(server, "should_exit", True))
            print(
                f"clickloop: http://{host}:{listener.getsockname()[1]} (data in {loop.settings.data_dir})",
                file=sys.stderr,
                flush=True,
            )
            shorten_collections()
            server.run(sockets=[listener])
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


def shorten_collections() -> None:
    """Leaves what the imports made out of every later garbage collection: a full one stops the process for 140 ms."""
    gc.collect()
    gc.freeze()


def listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only where TCP is named does asyncio send small packets at once; otherwise every answer waits for an ACK, 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)  # who reads the address may connect at once
    except OSError as error:
        listener.close()
        raise InvalidInput("port", f"{host}:{port}", f"it cannot be listened on ({error.strerror})") from None
    return listener
