"""A TCP proxy that fails on purpose: it takes the server behind it away, or breaks some of the requests to it."""

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_METHODS = (b"GET ", b"PUT ", b"HEAD ", b"POST ", b"DELETE ")


class FlakyProxy:
    """Passes connections on to a server, from a thread of its own.

    Attributes:
        url: Where it listens.
        requests: How many requests it has seen.
        broken: How many of them it broke: by turns with a reset connection and with a 503.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._loop = asyncio.new_event_loop()
        self._share = 0.0
        self._random = random.Random(0)
        self._writers: set[asyncio.StreamWriter] = set()
        self.requests = self.broken = 0
        self._thread = threading.Thread(target=self._loop.run_forever, name="flaky-proxy", daemon=True)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self._port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    def go_away(self) -> None:
        """Nobody listens any more, and open connections are reset."""
        self._run(self._close())

    def come_back(self) -> None:
        """Listens at the same port again."""
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", self._port))

    @contextmanager
    def breaking(self, share: float) -> Iterator[None]:
        """Breaks a share of the requests for a while."""
        self._share = share
        try:
            yield
        finally:
            self._share = 0.0

    def stop(self) -> None:
        """Ends it."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine):  # type: ignore[no-untyped-def]
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _close(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        back = asyncio.ensure_future(self._pass_on(there_reader, writer))
        try:
            while data := await reader.read(2**16):
                if data.startswith(_METHODS) and not await self._lets_pass(writer):
                    break
                there_writer.write(data)
                await there_writer.drain()
        except OSError:
            pass
        finally:
            back.cancel()
            there_writer.transport.abort()
            writer.transport.abort()
            self._writers.discard(writer)

    async def _lets_pass(self, writer: asyncio.StreamWriter) -> bool:
        self.requests += 1
        if self._random.random() >= self._share:
            return True
        self.broken += 1
        if self.broken % 2:
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        return False

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
