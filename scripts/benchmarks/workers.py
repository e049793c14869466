"""Worker processes from the outside: started in their environment, asked one question at a time."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).parent / "programs"


class WorkerError(Exception):
    """The worker answered with an error, died, or was too slow."""


@dataclass(frozen=True)
class Program:
    """One column of the report.

    Attributes:
        name: of the column.
        peer: which library it drives: columns of one peer differ in their settings.
        file: in the folder of programs.
        python: interpreter of its environment.
        threads: thread settings to choose from.
        is_trusted: whether its output is compared; where not, that of its peer's other column stands for it.
    """

    name: str
    peer: str
    file: Path
    python: Path
    threads: tuple[int, ...]
    is_trusted: bool = True


class Worker:
    """A running program. Use as a context manager: it ends with the block.

    Args:
        program: what to run.
        log: file for what it prints.
        environment: further variables.
    """

    def __init__(self, program: Program, log: Path, environment: dict[str, str] | None = None) -> None:
        self.program = program
        self._log = log
        threads = str(max(program.threads))
        settings = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [program.python, PROGRAMS / "serve.py", program.file],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=os.environ | settings | (environment or {}),
                text=True,
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def ask(self, what: str, limit: float = 600, **fields: Any) -> dict[str, Any]:
        """Send a command and wait for the answer.

        Raises:
            WorkerError: there is none within ``limit`` seconds, or it is an error.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        timer = threading.Timer(limit, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps({"do": what, **fields}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            raise WorkerError(self._reason(limit))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _reason(self, limit: float) -> str:
        code = self._process.wait()
        if code == -9:
            return f"it gave no answer within {limit:g} s, or was killed"
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"it ended with code {code}: {lines[-1] if lines else 'no message'}"

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
