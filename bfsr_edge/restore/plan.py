"""What to do with each picture, decided before any pixel is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bfsr_edge import images
from bfsr_edge.errors import BfsrError, ImageError
from bfsr_edge.restore.faces import face_code
from bfsr_edge.restore.options import Job, Options
from bfsr_edge.restore.record import Record, digest_of, recipe_of, record_of


@dataclass
class Outcome:
    """What became of one input."""

    source: Path
    """The input."""
    target: Path | None
    """Its result's place, ``None`` where it has none."""
    status: str = "planned"
    """planned, restored, skipped (already made), kept (something else lies there), failed, or interrupted."""
    reason: str = ""
    """Why, where the status does not say everything."""
    fix: str = ""
    """The next step, where there is one."""
    size: tuple[int, int] | None = None
    """Width and height of the input."""
    result_size: tuple[int, int] | None = None
    """Width and height of the result."""
    faces: int | None = None
    """Faces found, ``None`` where none were looked for."""
    faces_restored: int = 0
    """Of them, those that were pasted in; the others were sharp enough, or too many."""
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    """Left, top, right and bottom of each face found, in pixels of the upright input."""
    crops: tuple[tuple[Path, Path], ...] = ()
    """Files of each face before and after, where ``Options.save_faces`` asked for them."""
    reduced: int | None = None
    """How many times the input was reduced before the network saw it; ``None`` where it did not."""
    notes: tuple[str, ...] = ()
    """What is worth knowing of a picture that was restored, a sentence each: what could not be kept, what was done."""
    seconds: float = 0.0
    """From the start of decoding to the finished file; pictures overlap, so the sum exceeds the run's time."""

    @property
    def done(self) -> bool:
        """Whether the result asked for lies at its place (or would, on a dry run)."""
        return self.status in ("restored", "skipped", "planned")

    @property
    def megapixels(self) -> float:
        """Of the input."""
        return self.size[0] * self.size[1] / 1e6 if self.size else 0.0


@dataclass(frozen=True)
class Task:
    """A picture that will be restored."""

    job: Job
    tile: int
    """Side of its tiles."""
    recipe: str
    """For its record."""
    outcome: Outcome


def decide(
    jobs: Sequence[Job], options: Options, weights: str, looked_at: Callable[[Job], None] = lambda job: None
) -> tuple[list[Task], list[Outcome]]:
    """Look at each input and at what lies at its result's place.

    Parameters
    ----------
    jobs, options
        What is asked for.
    weights
        sha256 of the network's file.
    looked_at
        Called with each job when it was looked at: where there are results already, inputs are read whole.

    Returns
    -------
    tasks
        What is to be restored.
    outcomes
        One for each job, in order; those of tasks are still "planned".
    """
    tasks: list[Task] = []
    outcomes: list[Outcome] = []
    for job in jobs:
        outcome = Outcome(job.source, job.target)
        outcomes.append(outcome)
        try:
            task = _task(job, options, weights, outcome)
        except BfsrError as error:
            outcome.status, outcome.reason, outcome.fix = "failed", error.what, error.fix
        except OSError as error:  # it vanished meanwhile, or its result's name is too long for the system
            outcome.status, outcome.reason = "failed", f"{error.strerror or error}: {error.filename or job.source}"
            outcome.fix = "look at the file, and at --out and --suffix"
        else:
            if task is not None:
                tasks.append(task)
        looked_at(job)
    return tasks, outcomes


def _task(job: Job, options: Options, weights: str, outcome: Outcome) -> Task | None:
    header = images.probe(job.source, max_megapixels=options.max_megapixels)
    width, height = header.width * options.scale, header.height * options.scale
    outcome.size, outcome.result_size = (header.width, header.height), (width, height)
    images.check_holds(job.format, width, height, header.channels, header.bits)
    if "heic" in (job.format, header.format):
        images.register_heif()
    tile = options.tile_for(header.height, header.width)
    recipe = recipe_of(
        weights,
        scale=options.scale,
        tile=tile,
        overlap=options.overlap,
        offset=options.offset,
        quality=options.quality,
        format=job.format,
        faces=options.faces,
        face_code=face_code(options),
        max_faces=options.max_faces,
        strength=options.strength,
        reduce=options.reduce,
        strip_metadata=options.strip_metadata,
        **({"tta": True} if options.tta else {}),  # results from before there was any stay what they are
    )
    if job.target.is_dir():
        raise ImageError(f"a folder lies where the result goes: {job.target}")
    if job.target.exists() and not options.overwrite:
        found = record_of(job.target)
        source = digest_of(job.source) if found else ""
        if found == Record(source, recipe):
            outcome.status, outcome.reason = "skipped", "already made by the same weights and options"
            return None
        if found is None or found.source != source:
            outcome.status, outcome.fix = "kept", "add --overwrite to replace it, or choose another --out or --suffix"
            outcome.reason = f"{job.target} exists and was not made from this input"
            if job.format == "bmp":
                outcome.reason = f"{job.target} exists, and a BMP cannot hold what it was made from"
                outcome.fix = "add --overwrite to make it again, or take --format png, which is skipped when it is done"
            return None
        outcome.reason = "made anew, as weights or options have changed"
    return Task(job, tile, recipe, outcome)
