"""One HTML page of a run: before and after, and what became of every file.

It needs nothing beside it and no network. Small pictures are inside the page, of so many files; the others are linked
by relative path and are shown when asked for. While the run goes on, what is made for the page lies in a file, so that
memory does not grow with the number of pictures.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from bfsr_edge import images
from bfsr_edge.errors import BackendError, BfsrError, ImageError, UsageError
from bfsr_edge.restore import account
from bfsr_edge.restore.faces import locate
from bfsr_edge.restore.options import Options
from bfsr_edge.restore.plan import Outcome, Task
from bfsr_edge.restore.preview import Box, Look, Pair, face_pair, look_at

TEMPLATE = Path(__file__).with_name("report.html")
EXTENSIONS = (".html", ".htm")
MARK = b'<meta name="generator" content="bfsr-edge restore"/>'
"""Stands in the first bytes of every report."""
MARK_WITHIN = 1024
EMBEDDED = 120
"""Files whose small pictures are inside the page: about 25 MB."""
FACES = 12
"""Faces of one file that are inside the page."""
FACE_SIDE = 192
"""Longest side of a face inside the page, in pixels."""
READ_MEGAPIXELS = 48.0
"""A result of an earlier run is read again for its small pictures where it is no larger than this."""
PROBLEMS = 20
"""Files that are listed at the top of the page with what went wrong."""


def is_report(path: Path) -> bool:
    """Whether an earlier run wrote that file."""
    try:
        if not os.path.isfile(path):  # a pipe would be waited for
            return False
        with open(path, "rb") as file:
            return MARK in file.read(MARK_WITHIN)
    except OSError:
        return False


def check(path: Path) -> None:
    """UsageError where no report may be written: only an earlier report is ever replaced."""
    if path.suffix.lower() not in EXTENSIONS:
        raise UsageError(f"--report {path} is no HTML file", fix=f"--report {path.with_suffix('.html')}")
    if os.path.isdir(path):  # pathlib's own raises where a name is too long
        raise UsageError(f"--report {path} is a folder", fix=f"--report {path / 'report.html'}")
    if os.path.lexists(path) and not is_report(path):
        raise UsageError(
            f"--report {path} exists and is no report of an earlier run",
            why=("only such a report is replaced, --overwrite or not",),
            fix="choose another name, or remove the file",
        )
    parent = next(folder for folder in path.absolute().parents if os.path.exists(folder))
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK):
        raise UsageError(f"--report {path} cannot be written: {parent} is no folder that may be written to")


class Report:
    """Collects what the page shows while a run goes on, and writes the page. A context manager.

    Parameters
    ----------
    path
        Of the page; see ``check``.
    options
        Of the run.
    embedded
        So many files have pictures inside the page.
    """

    def __init__(self, path: Path, options: Options, embedded: int = EMBEDDED) -> None:
        self.path, self._options, self._embedded = path, options, embedded
        self._looks: dict[Path, Look] = {}
        self._numbers: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        self._trouble = ""

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *exception: object) -> None:
        self._spool.close()

    def watch(self, task: Task, picture: images.Picture) -> Look | None:
        """For ``pipeline.run``: who is shown the rows of that result, as long as there is room for more pictures.

        Called by several threads.
        """
        with self._lock:
            self._looks.pop(task.job.target, None)
            if len(self._looks) + len(self._numbers) >= self._embedded:
                return None
            look = self._looks[task.job.target] = Look(picture, self._options.scale, task.outcome.boxes)
        return look

    def add(self, outcome: Outcome) -> None:
        """Take what was seen of a file that is finished, or look at what an earlier run made of it."""
        if outcome.target is None:
            return
        look = self._looks.pop(outcome.target, None)
        if outcome.status == "restored" and look is not None:
            self._keep(outcome, look.pairs())
        elif outcome.status == "skipped" and len(self._looks) + len(self._numbers) < self._embedded:
            sizes = [size for size in (outcome.size, outcome.result_size) if size]
            if all(width * height <= READ_MEGAPIXELS * 1e6 for width, height in sizes):
                # one that cannot be read any more still has its row
                with contextlib.suppress(ImageError, OSError):
                    picture = images.read(outcome.source)
                    self._keep(outcome, look_at(picture, images.read(outcome.target), self._located(picture)))

    def _located(self, picture: images.Picture) -> list[Box]:
        """Where the faces are in a picture whose result is there already."""
        if self._options.faces in ("off", "aligned"):
            return []
        try:
            return [box for box, _ in locate(picture.pixels)]
        except BackendError:  # without the detector the page shows another part of the picture
            return []

    def _keep(self, outcome: Outcome, pairs: Sequence[Pair]) -> None:
        assert outcome.target is not None
        number = len(self._numbers)
        shown = {
            "pictures": [_embedded(pair) for pair in pairs],
            "faces": [_embedded(pair) for pair in _faces(outcome)],
        }
        try:
            self._spool.write(b'<script type="application/json" id="p%d">' % number)
            self._spool.write(json.dumps(shown, separators=(",", ":")).encode("ascii"))
            self._spool.write(b"</script>\n")
        except OSError as error:  # of the run nothing is lost
            self._trouble = f"Not every small picture could be kept for this page: {error.strerror or error}."
            self._embedded = 0
        else:
            self._numbers[outcome.target] = number

    def write(self, told: Mapping[str, Any]) -> None:
        """Write the page, whole or not at all. May be called once.

        Parameters
        ----------
        told
            From ``account.account``.

        Raises
        ------
        BfsrError
            It cannot be written.
        """
        head, middle, tail = _page(told, [*told["notes"], *([self._trouble] if self._trouble else [])])
        temporary = images.temporary(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            images.remove_stale(self.path.parent)
            with open(temporary, "wb") as file:
                file.write(head)
                file.writelines(self._rows(told["files"]))
                file.write(middle)
                self._spool.seek(0)
                shutil.copyfileobj(self._spool, file)
                file.write(tail)
            os.replace(temporary, self.path)
        except OSError as error:
            raise BfsrError(
                f"the report {self.path} cannot be written: {error.strerror or error}",
                fix="check the free space and the permissions of the folder; pictures are safe, so run it again",
            ) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _rows(self, files: Iterable[Mapping[str, Any]]) -> Iterable[bytes]:
        between = b""
        for entry in files:
            source, result = Path(entry["source"]), entry["result"] and Path(entry["result"])
            made = result is not None and entry["status"] in ("restored", "skipped")
            row = {
                **{name: entry[name] for name in ROW},
                "name": source.name,
                "folder": str(source.parent),
                "before": self._link(source),
                "after": self._link(result) if result is not None and made else None,
                "picture": self._numbers.get(result) if result is not None and made else None,
            }
            yield between + _inert(row).encode("ascii")
            between = b",\n"

    def _link(self, path: Path) -> str:
        """A URL from the page to a file, by relative path where there is one."""
        try:
            parts = os.path.relpath(path, self.path.parent).replace(os.sep, "/")
        except ValueError:  # another drive
            return path.absolute().as_uri()
        return quote(os.fsencode(f"./{parts}"))


ROW = ("status", "reason", "fix", "size", "result_size", "faces", "faces_restored", "notes", "seconds")
"""Fields of the account that a row takes over."""


def _faces(outcome: Outcome) -> list[Pair]:
    pairs = []
    for before, after in outcome.crops[:FACES]:
        with contextlib.suppress(ImageError, OSError):
            pairs.append(face_pair(images.read(before), images.read(after), FACE_SIDE))
    return pairs


def _embedded(pair: Pair) -> list[str | int]:
    """Before, after (base64 of JPEG), width and height."""
    return [*(base64.b64encode(content).decode("ascii") for content in (pair.before, pair.after)), *pair.size]


def _inert(value: object) -> str:
    """JSON in ASCII that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _page(told: Mapping[str, Any], notes: Sequence[str]) -> tuple[bytes, bytes, bytes]:
    """The page before its rows, between rows and pictures, and after the pictures."""
    page = Template(TEMPLATE.read_text("utf-8")).substitute(
        title=escape(_headline(told)),
        tiles="".join(_tile(*tile) for tile in _tiles(told)),
        facts=_facts(_told_facts(told)),
        options=_facts([(name.replace("_", "-"), _words(value)) for name, value in told["options"].items()]),
        notes="".join(f'<p class="note">{_text(note)}</p>' for note in notes),
        problems=_problems(told),
        version=escape(told["version"]),
    )
    head, middle, tail = page.encode("utf-8").split(b"<!-- here -->")
    return head, middle, tail


def _text(value: object) -> str:
    """Escaped for HTML; bytes of a path that are no UTF-8 become question marks in a box."""
    return escape(os.fsencode(str(value)).decode("utf-8", "replace"))


def _headline(told: Mapping[str, Any]) -> str:
    total, done = len(told["files"]), told["restored"] + told["skipped"]
    noun = "photograph" if total == 1 else "photographs"
    if told["interrupted"]:
        return f"Interrupted: {done:,} of {total:,} {noun} restored"
    return f"{done:,} {noun} restored" if done == total else f"{done:,} of {total:,} {noun} restored"


def _tiles(told: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Kind, number, and what it is."""
    tiles = [("good" if told["restored"] else "", f"{told['restored']:,}", "restored in this run")]
    if told["skipped"]:
        tiles.append(("", f"{told['skipped']:,}", "already made by the same weights and options"))
    for status, meaning in (
        ("failed", "failed"),
        ("kept", "kept: something else lies at the result's place"),
        ("interrupted", "not reached before the run was interrupted"),
    ):
        if told[status]:
            tiles.append(("bad", f"{told[status]:,}", meaning))
    if told["faces"] is not None:
        rest = "; the others are sharp enough, or were left out" if told["faces_restored"] < told["faces"] else ""
        tiles.append(("", f"{told['faces_restored']:,} of {told['faces']:,}", f"faces found were restored{rest}"))
    if told["restored"]:
        rate = told["megapixels"] / max(told["seconds"], 1e-9)
        tiles.append(("", _duration(told["seconds"]), f"for {told['megapixels']:.1f} megapixels, {rate:.2f} a second"))
    return tiles


def _tile(kind: str, number: str, meaning: str) -> str:
    return f'<div class="tile {kind}"><b>{escape(number)}</b><span>{escape(meaning)}</span></div>'


def _told_facts(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    model, options = told["model"], told["options"]
    faces = {
        "auto": "each restored by itself, and the rest",
        "only": "each restored by itself, the rest only enlarged",
        "largest": "the largest restored by itself, and the rest",
        "aligned": "every picture is one aligned face",
        "off": "not looked for",
    }
    facts = [
        ("written", datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")),
        ("model", f"{model['model']}, {model['precision'].upper()}"),
        ("run by", f"{model['backend']} {model['backend_version']} on {model['device']}"),
        ("size of the results", "that of the inputs" if options["scale"] == 1 else f"{options['scale']} × the inputs"),
        ("faces", faces[options["faces"]]),
        ("results in", told["out"]),
    ]
    if told["passed_over"]:
        facts.append(("passed over", f"{told['passed_over']:,} files in the folders that are no inputs"))
    return facts


def _facts(pairs: Sequence[tuple[str, str]]) -> str:
    return "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in pairs)


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not set" if value is None else str(value)


def _problems(told: Mapping[str, Any]) -> str:
    """What went wrong, and what to do about it."""
    files = [entry for entry in told["files"] if entry["status"] in account.UNDONE and entry["reason"]]
    if not files:
        return ""
    items = []
    for entry in files[:PROBLEMS]:
        fix = f'<span class="next">Next: {_text(entry["fix"])}</span>' if entry["fix"] else ""
        pill = f'<span class="pill {entry["status"]}">{entry["status"]}</span>'
        items.append(f"<li>{pill} <b>{_text(entry['source'])}</b><p>{_text(entry['reason'])}</p>{fix}</li>")
    more = (
        f"<p class='soft'>{len(files) - PROBLEMS:,} more: choose failed or kept below.</p>" if files[PROBLEMS:] else ""
    )
    return f'<section id="problems"><h2>What needs attention</h2><ul>{"".join(items)}</ul>{more}</section>'


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
