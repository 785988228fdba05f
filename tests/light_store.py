"""A light S3 store on this machine, for benchmarks: it serves a folder, and each answer takes some time.

    python -m tests.light_store --folder FOLDER --port PORT --latency 0.02

A bucket is a folder in FOLDER, and an object is a file. It answers GET (with byte ranges), HEAD, and ListObjectsV2. It
checks no signatures, and takes little of the machine: the kernel sends files without a copy. Tests use moto, which
knows more of S3; see tests/object_store.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import NamedTuple, cast
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.object_store import free_port, wait_for

_RANGE = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d*)", re.IGNORECASE)
_SEND_BUFFER = 4 << 20  # bytes: most answers fit, so that they are sent with one call


class _Object(NamedTuple):
    descriptor: int
    size: int
    tag: str
    modified: float


class _Folder:
    """The objects in a folder, opened when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opened: dict[str, _Object] = {}

    def find(self, name: str) -> _Object | None:
        if name not in self._opened:
            path = self._folder / name
            if not path.is_file() or ".." in path.parts:
                return None
            status = path.stat()
            tag = hashlib.md5(f"{name} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()
            self._opened[name] = _Object(os.open(path, os.O_RDONLY), status.st_size, tag, status.st_mtime)
        return self._opened[name]

    def listing(self, bucket: str, prefix: str, most: int) -> bytes:
        root = self._folder / bucket
        keys = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        keys = [key for key in keys if key.startswith(prefix)][:most]
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{(root / key).stat().st_size}</Size></Contents>" for key in keys
        )
        text = f"<ListBucketResult><Name>{escape(bucket)}</Name><KeyCount>{len(keys)}</KeyCount>"
        return f"<?xml version='1.0'?>{text}<IsTruncated>false</IsTruncated>{rows}</ListBucketResult>".encode()


class _Connection(asyncio.Protocol):
    """One client, whose requests are answered one after the other."""

    def __init__(self, folder: _Folder, latency: float) -> None:
        self._folder, self._latency, self._received = folder, latency, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        socket = transport.get_extra_info("socket")
        import socket as sockets

        socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, _SEND_BUFFER)
        self._descriptor: int = socket.fileno()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received.endswith(b"\r\n\r\n"):  # requests have no bodies here, and clients wait for each answer
            request, self._received = self._received, b""
            asyncio.get_running_loop().call_later(self._latency, self._answer, request)

    def _answer(self, request: bytes) -> None:
        if self._transport.is_closing():
            return
        method, target, _ = request.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        parts = urlsplit(target)
        name = unquote(parts.path).strip("/")
        query = parse_qs(parts.query)
        if "list-type" in query:
            most = int(query.get("max-keys", ["1000"])[0])
            return self._write("200 OK", self._folder.listing(name, query.get("prefix", [""])[0], most))
        found = self._folder.find(name)
        if found is None:
            text = b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>"
            return self._write("404 Not Found", b"" if method == "HEAD" else text)
        begin, end, status = 0, found.size, "200 OK"
        lines = [f'ETag: "{found.tag}"', f"Last-Modified: {formatdate(found.modified, usegmt=True)}"]
        if asked := _RANGE.search(request):
            begin, end = int(asked[1]), min(found.size, int(asked[2] or found.size) + 1)
            if begin >= found.size:
                return self._write("416 Requested Range Not Satisfiable", b"")
            status = "206 Partial Content"
            lines.append(f"Content-Range: bytes {begin}-{end - 1}/{found.size}")
        lines += [f"Content-Length: {end - begin}", "Content-Type: binary/octet-stream", "Accept-Ranges: bytes", "", ""]
        self._transport.write("\r\n".join([f"HTTP/1.1 {status}", *lines]).encode("latin-1"))
        if method != "HEAD":
            self._send(found, begin, end)

    def _write(self, status: str, body: bytes) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode("latin-1") + body)

    def _send(self, found: _Object, begin: int, end: int) -> None:
        """Send bytes of an object, at once as far as the socket takes them."""
        if self._transport.get_write_buffer_size() == 0:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                begin += os.sendfile(self._descriptor, found.descriptor, begin, end - begin)
        if begin < end:
            self._transport.write(os.pread(found.descriptor, end - begin, begin))


async def serve(folder: Path, port: int, latency: float) -> None:
    """Serve a folder until the process ends."""
    objects, loop = _Folder(folder), asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(objects, latency), "127.0.0.1", port)
    await server.serve_forever()


def server_seconds(pid: int) -> float:
    """Return the processor time of a running process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def light_store(folder: Path, latency: float) -> Iterator[tuple[str, int]]:
    """Run the store in a process of its own; yields its address and its process id."""
    port = free_port()
    command = [sys.executable, "-m", "tests.light_store", f"--folder={folder}", f"--port={port}"]
    process = subprocess.Popen([*command, f"--latency={latency}"], cwd=Path(__file__).resolve().parents[1])
    try:
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="a light S3 store on this machine")
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency", type=float, default=0.0)
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(arguments.folder, arguments.port, arguments.latency))


if __name__ == "__main__":
    main()
