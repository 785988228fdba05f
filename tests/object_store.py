"""An S3 store on this machine: moto's server, and a proxy before it that is slow, fails, cuts bodies short or dies.

    python -m tests.object_store --upstream URL --port PORT --latency 0.02

The proxy is separate because moto keeps its buckets in memory: stopping moto would lose them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
_SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate</Message></Error>"
)
_WRONG_KEY = (
    b"<?xml version='1.0'?><Error><Code>InvalidAccessKeyId</Code>"
    b"<Message>The AWS Access Key Id you provided does not exist in our records</Message></Error>"
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def environment(url: str) -> dict[str, str]:
    """Return the variables with which S3's clients use this store, by their own conventions."""
    return {**KEYS, "AWS_ENDPOINT_URL": url, "AWS_EC2_METADATA_DISABLED": "true"}


@contextlib.contextmanager
def moto(log: Path) -> Iterator[str]:
    """Run moto's server in a process of its own; yields its address."""
    port = free_port()
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    with open(log, "wb") as file:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes], seconds: float = 60.0) -> None:
    """Wait until a server listens."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server on port {port} did not start")
        time.sleep(0.05)


def upload(url: str, bucket: str, files: Mapping[str, bytes | Path]) -> None:
    """Create a bucket if it does not exist, and put objects into it."""
    import s3fs

    fs = s3fs.S3FileSystem(
        key="testing",
        secret="testing",
        client_kwargs={"endpoint_url": url, "region_name": "us-east-1"},
        skip_instance_cache=True,
    )
    if not fs.exists(bucket):
        fs.call_s3("create_bucket", Bucket=bucket)
    for key, content in files.items():
        fs.pipe_file(f"{bucket}/{key}", content.read_bytes() if isinstance(content, Path) else content)


# -- the proxy ---------------------------------------------------------------------------------------------------------


@dataclass
class Faults:
    """What the proxy does to requests for objects; it can be changed while the proxy runs."""

    busy: float = 0.0  # share of requests answered with 503
    cut: float = 0.0  # share of bodies cut short: half of them by a lost connection, half with a length that fits
    latency: float = 0.0  # seconds
    wrong_key: bool = False  # every request is answered with 403


class _Answer(NamedTuple):
    status: str
    headers: dict[str, str]
    body: bytes


class Proxy:
    """A server before another one, in a thread of its own.

    Args:
        upstream: address of the other server.
        faults: what goes wrong.
        keep: answer repeated requests for objects from memory, so that the other server's speed does not matter.
    """

    def __init__(self, upstream: str, faults: Faults, keep: bool = False, seed: int = 0, port: int = 0) -> None:
        self.faults, self.counts = faults, Counter[str]()
        self._upstream, self._random = upstream, random.Random(seed)
        self._kept: dict[tuple[str, str, str], _Answer] | None = {} if keep else None
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self.revive()
        return self

    def __exit__(self, *error: object) -> None:
        self.die()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def die(self) -> None:
        """Close all connections, and refuse new ones."""

        async def close() -> None:
            if self._server is not None:
                self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result()

    def revive(self) -> None:
        """Accept connections again."""

        async def start() -> None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 20)

        asyncio.run_coroutine_threadsafe(start(), self._loop).result()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                start = await reader.readuntil(b"\r\n\r\n")
                line, *lines = start.decode("latin-1").rstrip().split("\r\n")
                headers = {
                    name.strip().lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)
                }
                if headers.pop("expect", None) is not None:
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, target, _ = line.split()
                if not await self._reply(writer, method, target, headers, body):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _reply(
        self, writer: asyncio.StreamWriter, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> bool:
        """Answer a request; return False if the connection must be closed."""
        if self.faults.latency:
            await asyncio.sleep(self.faults.latency)
        self.counts["requests"] += 1
        answer, cut = None, 0
        if self.faults.wrong_key:
            answer = _Answer("403 Forbidden", {"content-type": "application/xml"}, _WRONG_KEY)
        elif self._random.random() < self.faults.busy:
            self.counts["busy"] += 1
            answer = _Answer("503 Slow Down", {"content-type": "application/xml", "retry-after": "1"}, _SLOW_DOWN)
        if answer is None:
            answer = await self._forwarded(method, target, headers, body)
            if method == "GET" and len(answer.body) > 1 and self._random.random() < self.faults.cut:
                self.counts["cut"] += 1
                cut = len(answer.body) // 2
        length = answer.headers.get("content-length", "0") if method == "HEAD" else str(len(answer.body))
        quietly = cut and self.counts["cut"] % 2
        if quietly:
            length = str(cut)
        lines = [f"{name}: {value}" for name, value in answer.headers.items() if name != "content-length"]
        text = "\r\n".join([f"HTTP/1.1 {answer.status}", *lines, f"content-length: {length}", "", ""])
        writer.write(text.encode("latin-1"))
        if method != "HEAD":
            writer.write(answer.body[:cut] if cut else answer.body)
        await writer.drain()
        return not cut or bool(quietly)

    async def _forwarded(self, method: str, target: str, headers: dict[str, str], body: bytes) -> _Answer:
        kept = (method, target, headers.get("range", ""))
        if self._kept is not None and kept in self._kept:
            return self._kept[kept]
        host, _, port = self._upstream.rpartition("/")[2].partition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
        headers = {**headers, "connection": "close"}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body)
        start, _, rest = (await reader.read(-1)).partition(b"\r\n\r\n")
        writer.close()
        line, *lines_back = start.decode("latin-1").split("\r\n")
        back = {name.strip().lower(): value.strip() for name, _, value in (each.partition(":") for each in lines_back)}
        back.pop("connection", None)
        answer = _Answer(line.split(" ", 1)[1], back, rest)
        if self._kept is not None and method in ("GET", "HEAD") and answer.status.startswith("2"):
            self._kept[kept] = answer
        return answer


@contextlib.contextmanager
def separate_proxy(upstream: str, latency: float) -> Iterator[str]:
    """Run a proxy that answers from memory in a process of its own; yields its address."""
    port = free_port()
    command = [sys.executable, "-m", "tests.object_store", f"--upstream={upstream}", f"--port={port}"]
    process = subprocess.Popen([*command, f"--latency={latency}"], cwd=Path(__file__).resolve().parents[1])
    try:
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency", type=float, default=0.0)
    arguments = parser.parse_args()
    with Proxy(arguments.upstream, Faults(latency=arguments.latency), keep=True, port=arguments.port):
        threading.Event().wait()


if __name__ == "__main__":
    main()
