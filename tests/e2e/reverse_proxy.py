"""A small reverse proxy that serves a service below a path, as nginx does with `X-Forwarded-Prefix`."""

from __future__ import annotations

import asyncio
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from contextlib import contextmanager

CHUNK = 1 << 16


@contextmanager
def proxied(port: int, prefix: str) -> Iterator[str]:
    """The address at which a service on this port of this machine answers below `prefix`."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
            up_writer.write(_below(head, prefix.encode()))
            await asyncio.gather(_pipe(reader, up_writer), _pipe(up_reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    starting = asyncio.start_server(serve, "127.0.0.1", 0)
    server = asyncio.run_coroutine_threadsafe(starting, loop).result()
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{prefix}"
    asyncio.run_coroutine_threadsafe(_stop(server), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def _stop(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _below(head: bytes, prefix: bytes) -> bytes:
    """The head of a request without the prefix, and with what the service is told of it."""
    line, *headers = head.rstrip().split(b"\r\n")
    method, path, version = line.split(b" ")
    if path != prefix and not path.startswith(prefix + b"/"):
        path = b"/this-is-not-below-the-prefix"
    else:
        path = path.removeprefix(prefix) or b"/"
    if not any(header.lower().startswith(b"upgrade:") for header in headers):
        # One request a connection: the next one's head would have to be found in the stream.
        headers = [header for header in headers if not header.lower().startswith(b"connection:")]
        headers.append(b"Connection: close")
    headers += [b"X-Forwarded-Prefix: " + prefix, b"X-Forwarded-For: 127.0.0.1"]
    return b"\r\n".join([b" ".join([method, path, version]), *headers, b"", b""])


async def _pipe(reader: StreamReader, writer: StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    writer.close()
