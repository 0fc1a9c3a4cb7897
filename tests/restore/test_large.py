"""Fifty megapixels: the working set stays flat apart from the decoded input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bfsr_edge import images

CODE = """
import sys
from bfsr_edge.cli import main
try:
    main(sys.argv[1:])
finally:  # ru_maxrss would count the process that started this one
    print("peak", next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.jpg"
    y, x = np.mgrid[:5774, :8660].astype(np.float32)
    planes = [127 + 100 * np.sin(x / 97), 127 + 100 * np.sin(y / 71), 127 + 100 * np.sin((x + y) / 131)]
    images.write(path, np.stack([plane.astype(np.uint8) for plane in planes], axis=2))
    return path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("scale", [1, 4])
def test_the_working_set_is_flat(scale: int, large: Path, nearest: Path, tmp_path: Path) -> None:
    words = ["restore", str(large), "-o", str(tmp_path), "--model", str(nearest), "--scale", str(scale)]
    done = subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split("peak")[1]) < 1.4 * 1024**2  # KiB
    # 800 megapixels are more than probe takes for an input
    size = (5774 * scale).to_bytes(2, "big") + (8660 * scale).to_bytes(2, "big")
    assert b"\xff\xc0\x00\x11\x08" + size in (tmp_path / "large.jpg").read_bytes()[:4096]
