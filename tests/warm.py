"""Run commands in a warm process: the package is imported once, and each command runs in a fork.

A command that takes 3 s on its own, mostly for imports, takes 0.1 s this way. It does the same as the console command.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

REPOSITORY = Path(__file__).resolve().parents[1]
SECONDS = 500  # time limit of a command; the longest takes 25 on a free machine
# imported before the first fork; the last is what torch imports at the first use of DDP, of its lazy device or of
# fake tensors
_MODULES = (
    "fairseq_cli.train",
    "fairseq_cli.hydra_train",
    "fairseq_cli.preflight",
    "fairseq_cli.infer",
    "fairseq_cli.transcribe",
    "fairseq_cli.align",
    "fairseq_cli.extract",
    "fairseq_cli.convert",
    "fairseq_cli.average_checkpoints",
    "fairseq_cli.consolidate",
    "fairseq_cli.data_report",
    "fairseq_cli.doctor",
    "fairseq_cli.segment",
    "fairseq_cli.validate",
    "fairseq_cli.report",
    "fairseq_cli.pack",
    "torch._dynamo",
)


class Done(NamedTuple):
    """Result of a command."""

    code: int
    output: str  # standard output and standard error


class Warm:
    """The warm process, for use in a `with` block."""

    def __init__(self, **environment: str) -> None:
        self._environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **environment}

    def __enter__(self) -> Warm:
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "tests.warm"]
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=self._environment, cwd=REPOSITORY
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def module(
        self,
        name: str,
        arguments: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        *,
        forks: bool = False,
        stop: tuple[str, int] | None = None,
    ) -> Done:
        """Run `cli_main` of a module, as its console command does.

        Args:
            forks: fork also the processes that the command spawns, which then import nothing.
            stop: a pattern and a signal's number, which is sent once a file of this pattern is in `cwd`.
        """
        request = {"module": name, "arguments": list(arguments), "forks": forks, "stop": stop}
        return self._run(request, cwd, environment)

    def script(self, path: Path, arguments: Sequence[str], cwd: Path) -> Done:
        return self._run({"script": str(path), "arguments": list(arguments)}, cwd, None)

    def python(self, text: str, cwd: Path) -> Done:
        """Run lines of Python, as in a document."""
        return self._run({"text": text, "arguments": []}, cwd, None)

    def _run(self, request: dict[str, Any], cwd: Path, environment: Mapping[str, str] | None) -> Done:
        output = cwd / ".output"
        request |= {"cwd": str(cwd), "output": str(output), "environment": dict(environment or {})}
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline() or -1)
        said = output.read_text(errors="replace")
        output.unlink()
        return Done(code, said)


def _serve() -> None:
    for name in _MODULES:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _end(_exit_status(request))
        if request.get("stop"):
            _send_once_there(child, Path(request["cwd"]), *request["stop"])
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _send_once_there(child: int, folder: Path, pattern: str, number: int) -> None:
    """Send the signal once a file of this pattern is there, or return when the child has ended without one."""
    while not any(folder.glob(pattern)):
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.002)
    os.kill(child, number)


def _exit_status(request: dict[str, Any]) -> int:
    try:
        _be(request)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(status: int) -> NoReturn:
    """Exit as a separate process would; no exception, with the objects that it refers to, is alive here."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _be(request: dict[str, Any]) -> None:
    """Take on the command's folder, output, environment and arguments, and run it."""
    signal.alarm(SECONDS)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the background jobs of a shell ignore these two, and so
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # would what they start
    if request.get("forks"):
        processes = importlib.import_module("torch.multiprocessing")
        processes.spawn = functools.partial(processes.start_processes, start_method="fork")
    os.chdir(request["cwd"])
    file = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number in (1, 2):
        os.dup2(file, number)
    os.environ.update(request["environment"])
    sys.path[:0] = [entry for entry in request["environment"].get("PYTHONPATH", "").split(os.pathsep) if entry]
    if "module" in request:
        sys.argv = [request["module"], *request["arguments"]]
        sys.exit(importlib.import_module(request["module"]).cli_main())
    if "script" in request:
        sys.argv = [request["script"], *request["arguments"]]
        sys.path.insert(0, str(Path(request["script"]).parent))
        runpy.run_path(request["script"], run_name="__main__")
    else:
        exec(compile(request["text"], "<document>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    _serve()
