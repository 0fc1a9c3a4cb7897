"""The other end of ``worker.py``: one engine in another process, as an object."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import Any

from bfsr_edge.benchmarks.subjects import Subject
from bfsr_edge.errors import BackendError

END_SECONDS = 5.0


class Client:
    """A worker process; use it in a ``with``, or ``close`` it.

    Parameters
    ----------
    subject
        What it loads; ``None``: nothing, for measuring the machine.
    tile
        Side of the input in pixels.
    threads
        CPU threads.

    Raises
    ------
    BackendError
        The subject cannot be loaded, from here as from every method: the process ended or its library failed.
    """

    def __init__(self, subject: Subject | None, tile: int, threads: int) -> None:
        self.name = subject.id if subject else "worker"
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  # see close
        environment = {**os.environ, "OPENCV_LOG_LEVEL": "OFF", "PYTHONWARNINGS": "ignore"}
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[variable] = str(threads)  # torch's and ncnn's; the others are told
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bfsr_edge.benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # a Ctrl-C at the terminal reaches this process alone
        )
        self.opened: dict[str, Any] = {}
        if subject is not None:
            try:
                self.opened = self.ask("open", subject=dataclasses.asdict(subject), tile=tile, threads=threads)
            except BaseException:
                self.close()
                raise
        self.cold_start = time.perf_counter() - started
        """Seconds from starting the process to the first result."""

    def ask(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": name, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except (BrokenPipeError, ValueError):
            line = ""
        if not line:
            raise BackendError(f"{self.name} ended while it was measured", why=(self._last_words(),))
        answer = json.loads(line)
        if "error" in answer:
            raise BackendError(answer["error"])
        assert isinstance(answer, dict)
        return answer

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # it is gone already
                    pipe.close()
        try:
            self._process.wait(0.2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(END_SECONDS)
        self._errors.close()

    def _last_words(self) -> str:
        code = self._process.wait(END_SECONDS)
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"{how}: {lines[-1]}" if lines else how

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
