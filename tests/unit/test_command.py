"""What all commands do alike with their output and with a user's mistakes."""

from __future__ import annotations

import os
import sys

import pytest

from fairseq_cli import command


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def mistaken() -> int:
        raise ValueError("no such thing")

    assert command.run(mistaken, "fairseq-x", 2) == 2
    assert capsys.readouterr() == ("", "fairseq-x: no such thing\n")


@pytest.mark.parametrize("size", [1, 1 << 20], ids=["in the buffer", "more than a pipe holds"])
def test_output_that_nobody_reads_ends_the_command_quietly(size: int) -> None:
    """Such as `fairseq-data-report ... | head`."""
    read, write = os.pipe()
    os.close(read)
    error_read, error_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        os.dup2(error_write, 2)
        sys.stdout = os.fdopen(1, "w")

        def talkative() -> int:
            print("x" * size)
            return 0

        status = command.run(talkative, "fairseq-x")
        sys.stdout.flush()
        os._exit(status)
    os.close(write)
    os.close(error_write)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == command.NOBODY_READS
    with os.fdopen(error_read) as errors:
        assert errors.read() == ""
