"""What holds for the project as a whole: light imports, layers, the public face, documents, size."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import bfsr_edge
from bfsr_edge import errors
from bfsr_edge.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "bfsr_edge"
README = (ROOT / "README.md").read_text("utf-8")
HEAVY = ("torch", "openvino", "onnxruntime", "onnx", "cv2")
STAGES = {"restore", "train", "export", "evaluate", "calibrate", "engines", "benchmarks"}
FRONT = {"cli", "commands"}
MEGABYTE = 1_000_000
SIZE_LIMIT = 24 * MEGABYTE

FACE = [
    "BackendError",
    "BfsrError",
    "ImageError",
    "ModelError",
    "TrainingError",
    "UsageError",
    "__version__",
    "load",
    "restore",
]


# ---- imports


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=["bfsr-edge", *COMMANDS])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from bfsr_edge.cli import main\n"
        f"main({[*arguments, '--help']}, standalone_mode=False)\n"
        f"sys.exit(' '.join(name for name in {HEAVY} if name in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == ""  # sys.exit of a non-empty text prints it here
    assert run.stdout.startswith("Usage:")


def test_package_imports_nothing_heavy() -> None:
    code = f"import sys, bfsr_edge; sys.exit(' '.join(name for name in {HEAVY} if name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == ""


def imported(path: Path) -> Iterator[str]:
    """The first name below ``bfsr_edge`` of every import in a file, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in modules if name.startswith("bfsr_edge."))


def part(path: Path) -> str:
    """The first name below ``bfsr_edge`` of a file."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_layers(path: Path) -> None:
    """Commands use stages, stages use the core, and no stage uses another: they meet through files."""
    here, used = part(path), set(imported(path))
    if here in FRONT or here == "__init__":  # the package itself offers `restore`, imported on use
        return
    forbidden = (STAGES | FRONT) - ({here} if here in STAGES else set())
    assert not used & forbidden


# ---- the public face


def test_public_face_is_locked() -> None:
    assert sorted(bfsr_edge.__all__) == FACE
    for name in bfsr_edge.__all__:
        assert getattr(bfsr_edge, name) is not None


def test_restore_stays_a_function() -> None:
    """Importing the package ``bfsr_edge.restore`` binds its name in ``bfsr_edge``, where the function has it."""
    importlib.import_module("bfsr_edge.restore")
    assert callable(bfsr_edge.restore)


def test_errors_are_one_documented_tree() -> None:
    classes = [thing for _, thing in inspect.getmembers(errors, inspect.isclass) if thing.__module__ == errors.__name__]
    assert len(classes) >= 6
    for cls in classes:
        assert issubclass(cls, errors.BfsrError)
        assert cls.__doc__
        assert cls.__name__ in (errors.__doc__ or "")


def test_every_package_module_has_a_docstring() -> None:
    modules = [path for path in PACKAGE.rglob("*.py") if path.read_text("utf-8").strip()]
    assert not [str(path) for path in modules if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]


@pytest.mark.parametrize("arguments", ["nonsense", *(f"{name} --nonsense" for name in COMMANDS)])
def test_wrong_usage_exits_with_2(arguments: str) -> None:
    command = [sys.executable, "-m", "bfsr_edge.cli", *arguments.split()]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr


# ---- documents


def blocks(language: str) -> list[str]:
    """The fenced blocks of the README in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def readme_commands() -> list[str]:
    """Every ``bfsr-edge …`` line of the README's shell blocks, comments dropped."""
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.startswith("bfsr-edge")]


# training and benchmarks take long and an export needs a checkpoint: these are parsed, and run in their own tests
NOT_RUN = ("bfsr-edge train", "bfsr-edge ablate", "bfsr-edge export", "bfsr-edge benchmark")


def make_example_folders(folder: Path, samples: Path) -> None:
    """The folders that the README's examples name."""
    shutil.copytree(samples / "lq", folder / "photos")
    shutil.copytree(samples / "gt", folder / "faces")
    shutil.copytree(samples, folder / "samples")
    (folder / "runs" / "mine").mkdir(parents=True)
    (folder / "runs" / "mine" / "best.safetensors").touch()


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_documented(name: str) -> None:
    assert any(command.split()[1] == name for command in readme_commands())


@pytest.mark.parametrize("line", readme_commands())
def test_readme_command_parses(line: str, tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_example_folders(tmp_path, samples)
    monkeypatch.chdir(tmp_path)
    name, *arguments = shlex.split(line)[1:]
    if name not in COMMANDS:
        assert name.startswith("-")
        return
    with click.Context(main) as context:
        command = main.get_command(context, name)
        assert command is not None
        with contextlib.suppress(click.exceptions.Exit):  # --help and --list-models end here
            command.make_context(name, arguments)


@pytest.mark.slow
def test_readme_runs(tmp_path: Path, samples: Path) -> None:
    """The README's commands, in their order, as a reader would paste them; then its Python."""
    make_example_folders(tmp_path, samples)
    for line in readme_commands():
        if line.startswith(NOT_RUN) and "--dry-run" not in line:
            continue
        command = [sys.executable, "-m", "bfsr_edge.cli", *shlex.split(line)[1:]]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, f"{line}\n{run.stdout}\n{run.stderr}"
    for block in blocks("python"):
        run = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, f"{block}\n{run.stderr}"


def test_readme_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert targets
    assert not [target for target in targets if not (ROOT / target).exists()]


def test_changelog_has_this_version() -> None:
    assert f"## {bfsr_edge.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


# ---- the tree


def test_tree_is_small(tracked: list[Path]) -> None:
    sizes = {name: (ROOT / name).stat().st_size for name in tracked}
    largest = sorted(sizes, key=lambda name: sizes[name])[-5:]
    assert sum(sizes.values()) < SIZE_LIMIT, f"the largest are {[str(name) for name in largest]}"


def test_no_path_of_one_machine(tracked: list[Path]) -> None:
    """A path that exists on its author's machine alone helps no reader."""
    pattern = re.compile(r"(?<![\w.])/(?:root|work|home/\w+|Users/\w+|tmp/\w+)/")
    found = []
    for name in tracked:
        try:
            text = (ROOT / name).read_text("utf-8")
        except UnicodeDecodeError:  # a picture or weights
            continue
        found += [f"{name}: {match[0]}" for match in pattern.finditer(text)]
    assert not found


def test_every_command_module_is_listed() -> None:
    modules = {path.stem for path in (PACKAGE / "commands").glob("*.py")} - {"__init__"}
    names = {name.replace("-", "_") for name in COMMANDS}
    assert modules == names
    for name in names:
        assert isinstance(importlib.import_module(f"bfsr_edge.commands.{name}").command, click.Command)
