"""Serve the page of runs to this machine only, and rebuild it when there are new records."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from fairseq.doctor.reading import CHECKPOINTS, LOCK
from fairseq.pages.page import Page

logger = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
_HOSTS = ("127.0.0.1", "localhost")
_PAUSE = 3.0  # seconds between two builds, at least
_SHARE = 10  # and as many times as long as the last build took


class Built(NamedTuple):
    """A page that has been built."""

    content: bytes
    tag: str
    policy: str


class Watched:
    """The newest page of runs.

    Args:
        paths: folders of runs, or logs.
        build: builds the page from the records.
        clock: seconds.
    """

    def __init__(
        self, paths: Sequence[Path], build: Callable[[], Page], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._paths, self._build, self._clock = paths, build, clock
        self._lock = threading.Lock()
        self._seen: list[tuple[str, int, int]] = []
        self._next = 0.0
        self._built = self._newly_built()
        self._complaint = ""

    def newest(self) -> Built:
        """Return the page, rebuilt if there are new records; the page before if that fails, which is logged."""
        with self._lock:
            if self._clock() >= self._next and list(self._files()) != self._seen:
                try:
                    self._built = self._newly_built()
                except (ValueError, OSError) as error:
                    if str(error) != self._complaint:
                        self._complaint = str(error)
                        logger.warning("the page is not rebuilt: %s", error)
            return self._built

    def _newly_built(self) -> Built:
        start = self._clock()
        self._seen = list(self._files())  # before reading: what comes meanwhile makes the next page
        page = self._build()
        content = page.html().encode("utf-8", "backslashreplace")
        end = self._clock()
        self._next = end + max(_PAUSE, _SHARE * (end - start))
        return Built(content, f'"{hashlib.sha256(content).hexdigest()[:32]}"', page.policy())

    def _files(self) -> Iterator[tuple[str, int, int]]:
        """Yield path, size and time of all files with records."""
        for path in self._paths:
            folders = (path, path / CHECKPOINTS)
            found = [path] if path.is_file() else []
            for folder in folders:
                found += [*sorted(folder.glob("*.jsonl")), *sorted(folder.glob("*.log")), folder / LOCK]
            for file in found:
                try:
                    status = file.stat()
                except OSError:
                    continue
                yield str(file), status.st_size, status.st_mtime_ns


def make_server(watched: Watched, port: int) -> ThreadingHTTPServer:
    """Bind a server of the page to this machine's own address.

    Args:
        port: 0: any that is free.
    Raises:
        OSError: the port is taken.
    """

    class Handler(_Handler):
        page = watched

    server = ThreadingHTTPServer((ADDRESS, port), Handler)
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    """Answers for one path, `/`."""

    page: Watched
    server_version, sys_version = "fairseq-report", ""
    timeout = 30  # seconds for a request to arrive

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def _answer(self, with_content: bool) -> None:
        host = (self.headers.get("Host") or "").rpartition(":")
        name = host[0] if host[2].isdigit() else host[2]
        if name not in _HOSTS:  # a site elsewhere whose name was made to lead here
            self._say(HTTPStatus.FORBIDDEN, with_content)
        elif self.path.partition("?")[0] != "/":
            self._say(HTTPStatus.NOT_FOUND, with_content)
        else:
            built = self.page.newest()
            headers = {
                "Content-Type": "text/html; charset=utf-8",
                "ETag": built.tag,
                "Content-Security-Policy": f"{built.policy}; frame-ancestors 'none'",
            }
            self._send(HTTPStatus.OK, headers, built.content, with_content)

    def _say(self, status: HTTPStatus, with_content: bool) -> None:
        headers = {"Content-Type": "text/plain; charset=utf-8", "Content-Security-Policy": "default-src 'none'"}
        self._send(status, headers, f"{status.value} {status.phrase}\n".encode(), with_content)

    def _send(self, status: HTTPStatus, headers: dict[str, str], content: bytes, with_content: bool) -> None:
        self.send_response(status)
        always = {
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in {**headers, **always}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_content:
            try:
                self.wfile.write(content)
            except ConnectionError:
                logger.debug("the browser did not wait for the page")

    def log_message(self, format: str, *args: object) -> None:
        logger.debug(format, *args)
