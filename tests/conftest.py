"""What every test may use: where the photographs are, and which tests run.

``slow`` tests run with ``--slow``. ``shared_data`` tests need photographs that may not be published: without them they
are skipped with the reason, but with ``CI=true`` they fail, so that a run that left them out never looks green.
"""

from __future__ import annotations

import ast
import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from tests.runtime.engine_files import Bench

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before any test imports numpy: waiting threads cost more than they do

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("BFSR_EDGE_SHARED_DATA") or ROOT.parent / "shared" / "data")
NEED_TORCH = ("torch", "bfsr_edge.models", "bfsr_edge.train", "bfsr_edge.runtime.torch")


# a shell's background jobs begin with SIGINT ignored and hand that on to every process that a test interrupts
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# speed belongs in benchmarks; where a change is judged, the same inputs come every time
IN_CI = os.environ.get("CI", "").lower() in ("1", "true")
hypothesis.settings.register_profile("suite", deadline=None, derandomize=IN_CI)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def imports(path: Path) -> set[str]:
    """The modules that a file imports at its top level."""
    names: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leaves out the test files that need torch where it is not installed: the rest of the package works without."""
    if collection_path.suffix != ".py" or importlib.util.find_spec("torch"):
        return None
    needs = any(name == need or name.startswith(f"{need}.") for name in imports(collection_path) for need in NEED_TORCH)
    return True if needs else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker("shared_data")
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("shared_data") and not SHARED_DATA.is_dir():
        reason = f"the photographs are not in {SHARED_DATA}; name their folder in BFSR_EDGE_SHARED_DATA"
        if IN_CI:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


class SignalStack(ctypes.Structure):
    """``stack_t`` of Linux's sigaltstack(2)."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@pytest.fixture(autouse=True)
def own_signal_stack() -> None:
    """Begin each test on the thread's normal stack for signals.

    OpenVINO sets an alternative one and, when engines are freed oldest first, leaves it set and freed: the next signal,
    such as that of a child's end, then kills the process, many tests later.
    """
    if sys.platform == "linux":
        disabled = SignalStack(None, 2, 0)  # SS_DISABLE
        ctypes.CDLL(None).sigaltstack(ctypes.byref(disabled), None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of photographs that may not be published; a test that takes it is marked ``shared_data``."""
    return SHARED_DATA


@pytest.fixture(scope="session")
def tracked() -> list[Path]:
    """Every file of the repository that git does not ignore, relative to its root."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout, so what belongs to it is not known")
    return sorted({Path(name) for name in listing.split("\0") if name and (ROOT / name).is_file()})


@pytest.fixture(scope="session")
def checkout(tracked: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository without what git ignores, as a fresh clone would be."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="session")
def samples() -> Path:
    """The published samples: ``gt/`` and ``lq/`` hold the same file names."""
    return ROOT / "samples"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A machine with fakes of one GPU and of TensorRT 10.3."""
    from tests.runtime.engine_files import Bench

    return Bench(monkeypatch, "10.3.0")


@pytest.fixture
def empty_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine of this machine's user or of the checkout is found; ``tmp_path`` is the working folder."""
    from bfsr_edge.runtime import built

    monkeypatch.setenv("BFSR_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(built, "stage_folder", lambda stage: tmp_path / "checkout" / stage)
