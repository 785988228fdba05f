"""The page served to this machine: headers, no path but one, rebuilt when there are new records."""

from __future__ import annotations

import http.client
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairseq.doctor.report.server import Watched, make_server
from fairseq.pages.page import Page


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Builder:
    """Builds pages that count; raises what it is told to."""

    count = 0
    error: Exception | None = None

    def __call__(self) -> Page:
        if self.error is not None:
            raise self.error
        self.count += 1
        return Page(f"page {self.count}", "", [], [], watched=True)


@pytest.fixture()
def served(tmp_path: Path) -> Iterator[tuple[Watched, Builder, Clock, int]]:
    pytest.importorskip("youplot", reason="extra report")
    (tmp_path / "metrics.jsonl").write_text("a\n")
    builder, clock = Builder(), Clock()
    watched = Watched([tmp_path], builder, clock)
    server = make_server(watched, 0)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    yield watched, builder, clock, server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def ask(port: int, method: str = "GET", path: str = "/", host: str | None = None) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    content = answer.read().decode()
    connection.close()
    return answer.status, dict(answer.getheaders()), content


def test_the_page_and_its_headers(served: tuple[Watched, Builder, Clock, int]) -> None:
    watched, _, _, port = served
    status, headers, content = ask(port)
    assert status == 200 and "<h1>page 1</h1>" in content
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert int(headers["Content-Length"]) == len(watched.newest().content)
    assert headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; connect-src 'self'")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert ask(port, "HEAD")[::2] == (200, "") and ask(port, "HEAD")[1]["ETag"] == headers["ETag"]
    assert ask(port, host=f"localhost:{port}")[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "host", "status"),
    [
        ("GET", "/metrics.jsonl", None, 404),
        ("GET", "/../metrics.jsonl", None, 404),
        ("GET", "//etc/passwd", None, 404),
        ("GET", "/", "elsewhere.example", 403),  # its name was made to lead here
        ("GET", "/", "127.0.0.1.elsewhere.example:80", 403),
        ("POST", "/", None, 501),
    ],
)
def test_nothing_else_is_served(
    served: tuple[Watched, Builder, Clock, int], method: str, path: str, host: str | None, status: int
) -> None:
    found, headers, content = ask(served[3], method, path, host)
    assert found == status and "<h1>page" not in content and "page 1" not in headers.get("ETag", "")


def test_only_this_machine_can_ask(served: tuple[Watched, Builder, Clock, int]) -> None:
    server = make_server(served[0], 0)
    assert server.server_address[0] == "127.0.0.1"
    server.server_close()
    with pytest.raises(OSError):
        make_server(served[0], served[3])


def test_new_records_make_a_new_page_after_a_pause(
    served: tuple[Watched, Builder, Clock, int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched, builder, clock, port = served
    first = watched.newest().tag
    clock.now = 100.0
    assert watched.newest().tag == first and builder.count == 1
    (tmp_path / "metrics.jsonl").write_text("a\nb\n")
    assert watched.newest().tag != first and builder.count == 2
    (tmp_path / "metrics.jsonl").write_text("a\nb\nc\n")
    clock.now = 102.0
    assert watched.newest() and builder.count == 2, "too soon"
    clock.now, builder.error = 104.0, ValueError("no records")
    with caplog.at_level(logging.WARNING):
        assert "<h1>page 2</h1>" in ask(port)[2] and "<h1>page 2</h1>" in ask(port)[2]
    assert caplog.messages == ["the page is not rebuilt: no records"]
