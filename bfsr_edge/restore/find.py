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

EXAMPLE = "bfsr-edge restore photos/ --out results/"


@dataclass(frozen=True)
class Found:
    """What the arguments amount to."""

    jobs: list[Job]
    """What to do; no two write the same file."""
    unreadable: list[tuple[Path, str]]
    """Folders that could not be read, and files whose name says no format, each with the reason."""
    passed_over: int
    """Files inside folders that are no pictures by their extension, or results of an earlier run."""
    notes: tuple[str, ...] = ()
    """What of the arguments was left out on purpose."""


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
        Asked for every picture found in a folder: those that an earlier run made, wherever it put them, are not inputs.

    Raises
    ------
    UsageError
        An argument is not there, nothing was found, two inputs would give the same result, or a result would replace
        an input.
    """
    if os.sep in suffix or "/" in suffix:
        raise UsageError(f"--suffix {suffix!r} holds a path separator", fix="use letters, digits, - and _")
    search = _Search(out, is_result)
    for argument in search.without_out(arguments):
        search.argument(argument)
    jobs: dict[str, Job] = {}
    for source, below in search.files:
        name = format or EXTENSIONS.get(source.suffix.lower())
        if name is None:
            search.unreadable.append((source, f"the extension {source.suffix or '(none)'} names no picture format"))
            continue
        extension = source.suffix if EXTENSIONS.get(source.suffix.lower()) == name else FORMATS[name].extensions[0]
        place = below.with_name(below.stem + suffix + extension)
        job = Job(source, out / place, name, place)
        other = jobs.setdefault(os.path.normcase(job.target), job)
        if other.source == source:
            continue
        if _same(other.source, source):
            search.passed_over += 1  # the same file by another path, or a hard link: its result is made already
        else:
            raise UsageError(
                f"{other.source} and {source} would both become {job.target}",
                fix="restore them into different folders, or leave out --format",
            )
    _spare_inputs(jobs, search)
    if not jobs and not search.unreadable:
        raise UsageError(
            f"no picture found in {', '.join(arguments) or 'nothing'}",
            why=(
                f"pictures are told by their extension: {', '.join(sorted(EXTENSIONS))}",
                *([f"{search.results} results of earlier runs were passed over"] if search.results else []),
            ),
            fix="name results themselves to restore them once more" if search.results else EXAMPLE,
        )
    return Found(list(jobs.values()), search.unreadable, search.passed_over, tuple(search.notes))


def _spare_inputs(jobs: dict[str, Job], search: _Search) -> None:
    """No result may replace an input; inputs that are another's result by name (a_x4.jpg of a.jpg) are not inputs."""
    folders: dict[Path, str] = {}
    sources = {_place(job.source, folders): key for key, job in jobs.items()}
    for key, job in list(jobs.items()):
        if os.path.lexists(job.target) and _same(job.source, job.target):
            raise UsageError(
                f"the result of {job.source} would replace it",
                fix="use another --out folder, or add --suffix _restored",
            )
        other = sources.get(_place(job.target, folders))
        if other is not None and other != key and jobs.pop(other, None) is not None:
            search.passed_over += 1


def _place(path: Path, folders: dict[Path, str]) -> str:
    """Where a file lies, one text for one place: links in its folder are followed, a link that it is itself is not."""
    if path.parent not in folders:
        folders[path.parent] = os.path.realpath(path.parent)
    return os.path.normcase(os.path.join(folders[path.parent], path.name))


class _Search:
    def __init__(self, out: Path, is_result: Callable[[Path], bool]) -> None:
        self.files: list[tuple[Path, Path]] = []
        self.unreadable: list[tuple[Path, str]] = []
        self.passed_over = 0
        self.results = 0
        """Of them, those that an earlier run made."""
        self.notes: list[str] = []
        self._out = Path(os.path.realpath(out))
        self._is_result = is_result
        self._real: dict[Path, Path] = {}

    def without_out(self, arguments: Sequence[str]) -> list[str]:
        """All but the result folder where what lies beside it is named too: "photos/*" in a shell names both."""
        places = {argument: Path(os.path.realpath(argument)) for argument in arguments}
        beside = {place.parent for place in places.values() if place != self._out}
        kept = [name for name in arguments if places[name] != self._out or self._out.parent not in beside]
        self.notes += [
            f"{name} is the folder for the results, so it is not read" for name in arguments if name not in kept
        ]
        return kept

    def argument(self, argument: str) -> None:
        path = Path(argument)
        # os.path answers no where Path raises: a name too long for the system, one with a zero byte
        if os.path.isdir(path):
            self._folder(path, path)
        elif os.path.exists(path) and not os.path.isfile(path):
            self.unreadable.append((path, "it is a pipe, a socket or a device"))
        elif os.path.lexists(path):
            self.files.append((path, Path(path.name)))
        elif glob.has_magic(argument):
            self._glob(argument)
        else:
            raise UsageError(f"there is no file or folder {argument}", fix="check the path; quote names with spaces")

    def _glob(self, pattern: str) -> None:
        matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
        if not matches:
            raise UsageError(f"nothing matches {pattern}")
        base = _fixed_part(pattern)
        if "**" in pattern:
            matches = self._without_loops(matches)
        if not self._is_in_out(base):  # else the results lie beside their inputs, as asked
            matches = [match for match in matches if not self._is_in_out(match if match.is_dir() else match.parent)]
        named = set(matches)
        for match in matches:
            if not match.is_dir():
                self._take(match, base)
            elif Path(pattern).name != "**":  # which lists folders and their files: those are matches of their own
                for file in self._walk(match):
                    if file not in named:
                        named.add(file)
                        self._take(file, base)

    def _without_loops(self, matches: Sequence[Path]) -> list[Path]:
        """Each folder by its shortest path alone: "**" follows links, round and round where they form a loop."""
        shortest: dict[Path, Path] = {}
        for match in sorted(matches, key=lambda match: len(match.parts)):
            shortest.setdefault(self._realpath(match.parent), match.parent)
        return [match for match in matches if shortest[self._realpath(match.parent)] == match.parent]

    def _is_in_out(self, folder: Path) -> bool:
        return self._realpath(folder).is_relative_to(self._out)

    def _realpath(self, folder: Path) -> Path:
        if folder not in self._real:
            self._real[folder] = Path(os.path.realpath(folder))
        return self._real[folder]

    def _folder(self, folder: Path, base: Path) -> None:
        for file in self._walk(folder):
            self._take(file, base)

    def _take(self, file: Path, base: Path) -> None:
        """A file that was found rather than named."""
        picture = file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")
        picture = picture and (os.path.isfile(file) or not os.path.exists(file))  # no pipe, but a broken link is told
        result = picture and self._is_result(file)
        self.results += result
        if result or not picture:
            self.passed_over += 1
        else:
            self.files.append((file, file.relative_to(base)))

    def _walk(self, folder: Path) -> Iterator[Path]:
        """Files in order of name; each folder once, so that loops of links end."""
        seen: set[tuple[int, int]] = set()
        # not recursive: folders can be nested deeper than Python calls
        levels = [self._entries(folder, seen)]
        while levels:
            entry = next(levels[-1], None)
            if entry is None:
                levels.pop()
                continue
            path, is_folder = entry
            if not is_folder:
                yield path
            elif not path.name.startswith(".") and Path(os.path.realpath(path)) != self._out:
                levels.append(self._entries(path, seen))

    def _entries(self, folder: Path, seen: set[tuple[int, int]]) -> Iterator[tuple[Path, bool]]:
        """What a folder that was not seen yet holds, in order of name, and whether each is a folder."""
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                return iter(())
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                found = sorted((entry.name, _is_folder(entry)) for entry in entries)
        except OSError as error:
            self.unreadable.append((folder, error.strerror or str(error)))
            return iter(())
        return iter([(folder / name, is_folder) for name, is_folder in found])


def _fixed_part(pattern: str) -> Path:
    """The folder before the first wildcard."""
    parts = Path(pattern).parts
    first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first])


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
