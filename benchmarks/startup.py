"""How long ``bfsr-edge --help`` takes: median of several runs, the first left out because it reads from the disk.

python benchmarks/startup.py [RUNS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

GOAL = 0.2  # seconds
COMMANDS = ("", "restore", "train", "export", "evaluate", "degrade")


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(runs: int) -> None:
    for name in COMMANDS:
        command = [sys.executable, "-m", "bfsr_edge.cli", *name.split(), "--help"]
        times = [seconds(command) for _ in range(runs + 1)][1:]
        median = statistics.median(times)
        label = " ".join(["bfsr-edge", *name.split(), "--help"])
        print(f"{label:<28}{median:7.3f} s   (fastest {min(times):.3f}, slowest {max(times):.3f}, goal {GOAL})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
