"""hl-smi and ethtool where they are installed: what they print is read, and nothing happens where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairseq.preflight import host
from fairseq.preflight.report import Section

LISTING = """\
+-----------------------------------------------------------------------------+
| HL-SMI Version:                              hl-1.19.0-fw-57.1.0.0          |
| Driver Version:                                     1.19.0-427ed81          |
|-------------------------------+----------------------+----------------------+
| AIP  Name        Persistence-M| Bus-Id        Disp.A | Volatile Uncor-Events|
|===============================+======================+======================|
|   0  HL-225              N/A  | 0000:33:00.0     N/A |                   0  |
| N/A   22C   N/A    97W / 600W |    768MiB / 98304MiB |     0%           N/A |
|   1  HL-225              N/A  | 0000:9a:00.0     N/A |                   0  |
+===============================+======================+======================+
"""


def script(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture()
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with two cards and three interfaces, one of them not the cards'."""
    tools, interfaces = tmp_path / "bin", tmp_path / "net"
    tools.mkdir()
    (tmp_path / "listing").write_text(LISTING)
    script(
        tools,
        "hl-smi",
        f'[ "$1" = "-v" ] && echo "HL-SMI Version: hl-1.19.0-fw-57.1.0.0" || cat {tmp_path / "listing"}',
    )
    script(
        tools,
        "ethtool",
        'name="$2"; [ "$1" = "-i" ] || name="$1"\n'
        'if [ "$1" = "-i" ]; then [ "$name" = eth0 ] && echo "driver: virtio_net" || echo "driver: habanalabs"; exit 0; fi\n'
        '[ "$name" = hl1 ] && echo "	Link detected: no" || echo "	Link detected: yes"',
    )
    for name in ("eth0", "hl0", "hl1"):
        (interfaces / name).mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    return interfaces


def test_version_card_and_links_that_are_down(machine: Path) -> None:
    tools = host.ask_tools(machine)
    assert tools == host.Tools("1.19.0", "gaudi2", 2, 2, ["hl1"])
    section = Section("Host")
    host.add_tools(section, tools)
    assert "software 1.19.0, 2 card(s) of type gaudi2" in "\n".join(section.lines)
    (problem,) = section.problems
    assert problem.name == "links-down" and "sudo ip link set hl1 up" in problem.change


def test_machines_without_the_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    tools = host.ask_tools(tmp_path)
    assert tools == host.Tools(None, None, 0, 0, [])
    section = Section("Host")
    host.add_tools(section, tools)
    assert section.lines == [] and section.problems == []


def test_tools_that_fail_are_not_there(machine: Path, tmp_path: Path) -> None:
    script(tmp_path / "bin", "hl-smi", "echo 'no device found' >&2; exit 1")
    script(tmp_path / "bin", "ethtool", "exit 75")
    assert host.ask_tools(machine) == host.Tools(None, None, 0, 0, [])
