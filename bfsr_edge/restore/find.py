"""Which pictures to restore, and where each result goes.

Folders are read recursively and mirrored below the result folder; a glob is mirrored from its first wildcard on.
Names that begin with a dot and files whose extension names no picture are passed over in folders; whatever is named
itself is taken. The order is that of the arguments, then of the names.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bfsr_edge.errors import UsageError
from bfsr_edge.images import EXTENSIONS, FORMATS
from bfsr_edge.restore.options import Job


@dataclass(frozen=True)
class Found:
    """What the arguments amount to."""

    jobs: list[Job]
    """What to do; no two write the same file."""
    unreadable: list[tuple[Path, str]]
    """Folders that could not be read, and files whose name says no format, each with the reason."""
    passed_over: int
    """Files inside folders that are no pictures by their extension, or results of an earlier run."""


def find(
    arguments: Sequence[str],
    out: Path,
    *,
    format: str | None = None,
    suffix: str = "",
    is_result: Callable[[Path], bool] = lambda path: False,
) -> Found:
    """Turn arguments into jobs.

    Parameters
    ----------
    arguments
        Files, folders and globs.
    out
        The result folder. Where it lies inside an input folder it is not read as input.
    format
        Of all results, a name from ``images.FORMATS``; by default each keeps its extension.
    suffix
        Put between a result's name and its extension.
    is_result
        Asked for pictures found below ``out``: those that an earlier run made are not inputs.

    Raises
    ------
    UsageError
        An argument is not there, nothing was found, two inputs would give the same result, or a result would replace
        an input.
    """
    if os.sep in suffix or "/" in suffix:
        raise UsageError(f"--suffix {suffix!r} holds a path separator", fix="use letters, digits, - and _")
    search = _Search(out, is_result)
    for argument in arguments:
        search.argument(argument)
    jobs: dict[str, Job] = {}
    for source, below in search.files:
        name = format or EXTENSIONS.get(source.suffix.lower())
        if name is None:
            search.unreadable.append((source, f"the extension {source.suffix or '(none)'} names no picture format"))
            continue
        extension = source.suffix if EXTENSIONS.get(source.suffix.lower()) == name else FORMATS[name].extensions[0]
        job = Job(source, out / below.with_name(below.stem + suffix + extension), name)
        other = jobs.setdefault(os.path.normcase(job.target), job)
        if not _same(other.source, source):
            raise UsageError(
                f"{other.source} and {source} would both become {job.target}",
                fix="restore them into different folders, or leave out --format",
            )
    _spare_inputs(jobs, search)
    if not jobs and not search.unreadable:
        raise UsageError(
            f"no picture found in {', '.join(arguments) or 'nothing'}",
            why=(f"pictures are told by their extension: {', '.join(sorted(EXTENSIONS))}",),
            fix="bfsr-edge restore photos/ --out results/",
        )
    return Found(list(jobs.values()), search.unreadable, search.passed_over)


def _spare_inputs(jobs: dict[str, Job], search: _Search) -> None:
    """No result may replace an input; inputs that are another's result by name (a_x4.jpg of a.jpg) are not inputs."""
    for key, job in list(jobs.items()):
        target = os.path.normcase(job.target)
        if os.path.exists(job.target) and _same(job.source, job.target):
            raise UsageError(
                f"the result of {job.source} would replace it",
                fix="use another --out folder, or add --suffix _restored",
            )
        for other_key, other in list(jobs.items()):
            if other_key != key and os.path.normcase(os.path.abspath(other.source)) == os.path.abspath(target):
                del jobs[other_key]
                search.passed_over += 1


class _Search:
    def __init__(self, out: Path, is_result: Callable[[Path], bool]) -> None:
        self.files: list[tuple[Path, Path]] = []
        self.unreadable: list[tuple[Path, str]] = []
        self.passed_over = 0
        self._out = Path(os.path.realpath(out))
        self._is_result = is_result

    def argument(self, argument: str) -> None:
        path = Path(argument)
        if path.is_dir():
            self._folder(path, path)
        elif path.exists():
            self.files.append((path, Path(path.name)))
        elif glob.has_magic(argument):
            matches = sorted(glob.glob(argument, recursive=True))
            if not matches:
                raise UsageError(f"nothing matches {argument}")
            base = _fixed_part(argument)
            for match in map(Path, matches):
                if match.is_dir():
                    # "**" lists folders and their files: files come as matches of their own
                    if "**" not in argument:
                        self._folder(match, base)
                else:
                    self._take(match, base)
        else:
            raise UsageError(f"there is no file or folder {argument}", fix="check the path; quote names with spaces")

    def _folder(self, folder: Path, base: Path) -> None:
        for file in self._walk(folder, set()):
            self._take(file, base)

    def _take(self, file: Path, base: Path) -> None:
        """A file that was found rather than named."""
        picture = file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")
        # the header of a picture is only read where results may lie
        if not picture or (self._out in Path(os.path.realpath(file)).parents and self._is_result(file)):
            self.passed_over += 1
        else:
            self.files.append((file, file.relative_to(base)))

    def _walk(self, folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
        """Files in order of name; each folder once, so that loops of links end."""
        try:
            status = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            self.unreadable.append((folder, error.strerror or str(error)))
            return
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            path = folder / entry.name
            if not os.path.isdir(path):  # entry.is_dir raises for a link to itself
                yield path
            elif not entry.name.startswith(".") and Path(os.path.realpath(path)) != self._out:
                yield from self._walk(path, seen)


def _fixed_part(pattern: str) -> Path:
    """The folder before the first wildcard."""
    parts = Path(pattern).parts
    first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first])


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
