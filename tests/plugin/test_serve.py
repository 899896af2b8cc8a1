"""Serving as a process."""

import asyncio
import socket

from clickloop.plugin.serve import listening


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
