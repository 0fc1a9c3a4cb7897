"""Feed broken files to everything that reads files, and say what did not hold.

    python -m tools.fuzz                        # 1,000 inputs of a new seed
    python -m tools.fuzz --seed 7 --count 5000  # others, the same each time
    python -m tools.fuzz --keep build/fuzz      # also keep the inputs that failed

Inputs are damaged real files and what hypothesis makes: pictures of every format, EXIF, TOML, JSON, safetensors, ONNX,
``.pth`` and tars. ``tests/fuzz/properties.py`` says what must hold for each. Exits with 1 where something did not.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import sys
import time
from pathlib import Path

from tests.fuzz import campaign


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=None, help="of the inputs; a new one by default")
    parser.add_argument("--count", type=int, default=1000, help="how many inputs (default: %(default)s)")
    parser.add_argument(
        "--jobs", type=int, default=min(4, os.cpu_count() or 1), help="processes (default: %(default)s)"
    )
    parser.add_argument("--keep", type=Path, help="folder for the inputs that failed")
    given = parser.parse_args()
    seed = random.randrange(1 << 32) if given.seed is None else given.seed
    started = time.monotonic()
    inputs = campaign.corpus(seed, given.count)
    kinds = collections.Counter(entry.kind for entry in inputs)
    print(f"seed {seed}, {len(inputs)} inputs ({', '.join(f'{number} {kind}' for kind, number in kinds.items())})")
    print(f"corpus sha256 {campaign.corpus_hash(inputs)}", flush=True)
    failures = campaign.run(inputs, jobs=given.jobs, tell=lambda line: print(f"FAILED {line}", flush=True))
    if given.keep and failures:
        given.keep.mkdir(parents=True, exist_ok=True)
        for failure in failures:
            for entry in failure.inputs:
                (given.keep / entry.name).write_bytes(entry.content)
    print(f"{len(inputs)} inputs, {len(failures)} failures, {time.monotonic() - started:.0f} s")
    if failures:
        print(f"again: {sys.executable} -m tools.fuzz --seed {seed} --count {given.count}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
