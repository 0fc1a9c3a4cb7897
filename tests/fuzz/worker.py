"""One process of a campaign: reads a request a line, checks it, answers a line.

Requests and answers are JSON. Whatever a decoder prints goes to stderr; a process that ends or hangs is seen by the one
that started it.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.fuzz import properties


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what native code prints must not mix with the answers
    faulthandler.enable()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        found = answer(json.loads(line))
        answers.write(json.dumps({"findings": [asdict(finding) for finding in found], "peak": peak()}) + "\n")
        answers.flush()


def answer(request: dict[str, Any]) -> list[properties.Finding]:
    """The findings of one request."""
    folder = Path(request["folder"])
    reset_peak()
    if request["kind"] == "picture":
        return properties.pictures(
            folder, Path(request["out"]), Path(request["model"]), request["options"], request["sentinels"]
        )
    return [finding for name in request["names"] for finding in properties.read(request["kind"], folder / name)]


def reset_peak() -> None:
    """Begin to measure the peak of memory anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak() -> int:
    """Largest memory since then in bytes, 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    main()
