"""The exceptions of bfsr-edge.

The tree::

    BfsrError                 anything this package raises on purpose
    ├── UsageError            the request itself is wrong (exit code 2)
    ├── ImageError            a picture cannot be read or written
    ├── ModelError            a network, checkpoint, ONNX or engine cannot be used
    ├── BackendError          a backend is missing, or failed while running
    │   └── OutOfMemory       there is not enough memory for what it was to run
    └── TrainingError         training cannot start or go on

Every error says what happened, the likely reasons and the next command. The command line prints that text and never a
traceback; Python callers catch ``BfsrError``.
"""

from __future__ import annotations

from collections.abc import Sequence


class BfsrError(Exception):
    """What happened, why it probably did, and what to do next.

    Parameters
    ----------
    what
        One sentence: what happened, naming the file or option.
    why
        The likely reasons, most likely first.
    fix
        The next step, best as a command that can be pasted.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: Sequence[str] = (), fix: str = "") -> None:
        self.what = what
        self.why = tuple(why)
        self.fix = fix
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        lines += [f"  likely because {reason}" for reason in self.why]
        if self.fix:
            lines.append(f"  next: {self.fix}")
        return "\n".join(lines)


class UsageError(BfsrError):
    """The request itself is wrong: an option, a combination of options, a path that is not there."""

    exit_code = 2


class ImageError(BfsrError):
    """A picture cannot be read or written."""


class ModelError(BfsrError):
    """A network, checkpoint, ONNX file or engine cannot be used."""


class BackendError(BfsrError):
    """A backend is not installed, cannot do what was asked, or failed while running."""


class OutOfMemory(BackendError):
    """There is not enough memory, on a device or in the machine, for what a backend was to run: smaller tiles help."""


class TrainingError(BfsrError):
    """Training cannot start or go on."""


def first_line(error: BaseException) -> str:
    """What a library's exception says, without its stack of C++ frames; its class where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # OpenVINO begins with the place in its source; what happened follows
    told = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (told or lines or [type(error).__name__])[0]
