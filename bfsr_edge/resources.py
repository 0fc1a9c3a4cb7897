"""Recipes, plans and profiles by name: the TOML files of a stage, in a checkout or in a wheel."""

from __future__ import annotations

from pathlib import Path

from bfsr_edge.errors import UsageError

STAGES = ("train", "calibrate", "engines", "benchmarks")
PACKAGE = Path(__file__).resolve().parent


def stage_folder(stage: str) -> Path:
    """Where the TOMLs of a stage lie: the top-level folder in a checkout, ``bfsr_edge/data`` in a wheel."""
    checkout = PACKAGE.parent / stage
    return checkout if (PACKAGE.parent / "setup.py").is_file() else PACKAGE / "data" / stage


def list_tomls(stage: str) -> list[str]:
    """The names that ``find_toml`` knows for a stage, sorted."""
    return sorted(path.stem for path in stage_folder(stage).glob("*.toml"))


def find_toml(stage: str, name_or_path: str) -> Path:
    """The file that a user meant: a path if there is such a file, else a name, with or without ``.toml``.

    Parameters
    ----------
    stage
        One of ``STAGES``.
    name_or_path
        What the user wrote.

    Raises
    ------
    UsageError
        Neither a file nor a known name; the message lists the names.
    """
    if stage not in STAGES:
        raise ValueError(f"{stage!r} is none of the stages {STAGES}")
    path = Path(name_or_path)
    if path.is_file():
        return path
    name = name_or_path.removesuffix(".toml")
    names = list_tomls(stage)
    if name in names:
        return stage_folder(stage) / f"{name}.toml"
    raise UsageError(
        f"{name_or_path} is neither a file nor a name known for {stage}",
        why=["the file lies elsewhere", "the name is misspelt"],
        fix=f"give a path, or one of: {', '.join(names)}" if names else "give the path of a TOML file",
    )
