"""Asking servers as fast as they answer, with a client that leaves the processors to them.

One thread serves all kept connections by `select`; a request costs it some 30 µs.
"""

import os
import selectors
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ..retriever.errors import ClickLoopError

PATIENCE_SECONDS = 1200  # a peer may have to index first
CHUNK = 1 << 16  # bytes
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # servers decide themselves how many they use


@dataclass(frozen=True, slots=True)
class Asked:
    """What each request took, and all of them together, in seconds."""

    each: Sequence[float]
    wall: float


def percentile(each: Sequence[float], share: float) -> float:
    """In milliseconds."""
    return 1000 * float(np.quantile(each, share))


def post(path: str, body: Any, key: str = "") -> bytes:
    content = orjson.dumps(body)
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


class Clients:
    """Each sends its next request over its kept connection when the last one is answered."""

    def __init__(self, port: int, clients: int) -> None:
        self._port = port
        self._clients = clients

    def ask(self, requests: Sequence[bytes], take: Callable[[int, bytes], None] | None = None) -> Asked:
        """`take` gets the number of each request and the body of its answer. Raises ClickLoopError unless that is 200.

        Connects first, which is not counted: between two calls a server may have closed what was idle.
        """
        with ExitStack() as stack:
            address = ("127.0.0.1", self._port)
            sockets = [stack.enter_context(socket.create_connection(address)) for _ in range(self._clients)]
            return _ask(sockets, requests, take)


def _ask(
    sockets: Sequence[socket.socket], requests: Sequence[bytes], take: Callable[[int, bytes], None] | None
) -> Asked:
    for one in sockets:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    started, following, each = time.perf_counter(), iter(enumerate(requests)), [0.0] * len(requests)
    with selectors.DefaultSelector() as selector:
        for one in sockets:
            _send_next(selector, one, following)
        while selector.get_map():
            for key, _ in selector.select():
                number, sent_at, parts = key.data
                one: Any = key.fileobj  # type: ignore[no-redef]
                parts.append(one.recv(CHUNK))
                if not parts[-1]:
                    raise ClickLoopError("a server closed a connection in the middle of an answer")
                body = _body(b"".join(parts))
                if body is not None:
                    each[number] = time.perf_counter() - sent_at
                    selector.unregister(one)
                    _send_next(selector, one, following)
                    if take is not None:
                        take(number, body)
    return Asked(each, time.perf_counter() - started)


def _send_next(selector: selectors.BaseSelector, one: socket.socket, following: Iterator[tuple[int, bytes]]) -> None:
    number, request = next(following, (-1, b""))
    if number >= 0:
        selector.register(one, selectors.EVENT_READ, (number, time.perf_counter(), []))
        one.sendall(request)


def _body(received: bytes) -> bytes | None:
    """The body once it is whole."""
    head, mark, body = received.partition(b"\r\n\r\n")
    if not mark:
        return None
    start = head.lower().find(b"content-length:")
    if start < 0:
        raise ClickLoopError("a server does not tell the length of its answers, so it cannot be measured")
    if len(body) < int(head[start + 15 :].split(b"\r\n", 1)[0]):
        return None
    if head.split(b" ", 2)[1] != b"200":
        raise ClickLoopError(
            f"a server answered {head.splitlines()[0].decode()}: {body[:200].decode(errors='replace')}"
        )
    return body


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def served(
    command: Sequence[str], port: int, ready: bytes, log: Path, core: int | None = None, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process of its own that has answered the request `ready`; on one core where it is given."""
    environment = {name: value for name, value in os.environ.items() if name not in THREADS} | variables
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not _answers(port, ready):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ClickLoopError(f"a server does not answer: see {log}")
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait()


def _answers(port: int, request: bytes) -> bool:
    try:
        Clients(port, 1).ask([request])
        return True
    except (ClickLoopError, OSError):
        return False


def resident(process: subprocess.Popen[bytes]) -> int:
    """Memory of the process in MiB, of which mapped files are part."""
    status: Mapping[str, str] = dict(
        line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
    )
    return int(status["VmRSS"].split()[0]) // 1024
