"""A folder of pictures, restored, as the zip that the challenge's server scores.

The challenge is NTU's "blind face super-resolution" on CodaLab, which pairs PNGs by file name. Its rules are not
public; the zips that participants describe hold 8-bit RGB PNGs that keep the input's name. Ours holds them at its top
level, where CodaLab's scoring programs find what was submitted. A submission is whole or it is not written: the score
is a mean over all pictures, and one that is missing spoils it.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bfsr_edge import images
from bfsr_edge.errors import BfsrError, ImageError, UsageError
from bfsr_edge.weights import list_models, resolve

Pixels = npt.NDArray[np.uint8]

COMMENT = b"bfsr-edge submission"
"""How the zip's own comment begins: a file that has it may be replaced, any other is kept."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of every entry, so that the same pictures give the same bytes."""
SHOWN = 10
"""Pictures that an error names, at most."""


def find_inputs(folder: str | os.PathLike[str]) -> tuple[Path, ...]:
    """The pictures of a folder, sorted by name; subfolders and other files are left alone.

    Raises
    ------
    UsageError
        The folder is not there or holds no picture, or two pictures would get the same name.
    """
    place = Path(folder)
    if not place.is_dir():
        raise UsageError(f"there is no folder {place}", fix="check the path given to --lq")
    found = tuple(sorted(entry for entry in place.iterdir() if entry.suffix.lower() in images.EXTENSIONS))
    if not found:
        raise UsageError(f"{place} holds no picture", fix="give the folder that holds the inputs with --lq")
    taken: dict[str, Path] = {}
    for entry in found:
        first = taken.setdefault(entry_name(entry), entry)
        if first is not entry:
            raise UsageError(
                f"{first.name} and {entry.name} would both become {entry_name(entry)}", fix="take one out of the folder"
            )
    return found


def entry_name(picture: Path) -> str:
    """The name of a picture's result inside the zip."""
    return f"{picture.stem}.png"


def check_target(target: Path) -> None:
    """Refuse what may not be written to, before any work is done.

    Raises
    ------
    UsageError
        The name does not end in ``.zip``, or something lies there that is no earlier submission.
    """
    if target.suffix.lower() != ".zip":
        raise UsageError(f"a submission is a .zip, {target} is not", fix=f"--submission {target.with_suffix('.zip')}")
    if not target.exists():
        return
    try:
        with zipfile.ZipFile(target) as archive:
            ours = archive.comment.startswith(COMMENT)
    except (OSError, zipfile.BadZipFile):
        ours = False
    if not ours:
        raise UsageError(
            f"{target} is there already, and is no submission that this command wrote",
            why=("only an earlier submission is replaced",),
            fix="give another name, or move that file away",
        )


def write(
    target: Path,
    pictures: Sequence[Path],
    enlarge: Callable[[Sequence[Pixels]], list[Pixels]],
    *,
    read: Callable[[Path], Pixels],
    note: str = "",
    batch: int = 4,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Restore every picture into the zip ``target``, which appears when it is whole and not before.

    Parameters
    ----------
    target
        Checked by ``check_target``.
    pictures
        From ``find_inputs``.
    enlarge
        The network: a batch of uint8 RGB pictures of one size to their results, uint8 RGB.
    read
        One file to uint8 H×W×3 RGB, or an ImageError.
    note
        What the zip's comment says behind its beginning, such as the model and its hash.
    batch
        Pictures of the same size that run together, at most.
    progress
        Called once for each picture that is restored.

    Raises
    ------
    ImageError
        Pictures cannot be read; each is named, nothing is written.
    UsageError
        See ``check_target``.
    BackendError
        The network failed, or gave NaN.
    BfsrError
        The folder cannot be written to, or is full; an earlier submission is as it was.
    """
    check_target(target)
    sizes = _sizes(pictures, read)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # in a folder beside the target, as a rename is atomic within one file system only
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            whole = Path(folder, "whole.zip")
            with open(whole, "wb") as file:
                # PNGs are compressed already
                with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                    archive.comment = COMMENT + (f": {note}".encode() if note else b"")
                    for group in _batches(sizes, batch):
                        for picture, result in zip(group, enlarge([read(path) for path in group]), strict=True):
                            _add(archive, Path(folder, "one.png"), entry_name(picture), result)
                            progress()
                file.flush()
                os.fsync(file.fileno())
            os.replace(whole, target)
    except OSError as error:
        raise BfsrError(
            f"cannot write {target}",
            why=(error.strerror or str(error),),
            fix="free space, or choose another --submission",
        ) from error


def read_result(target: Path, name: str) -> Pixels:
    """The result of the picture called ``name``, out of a finished submission: uint8 H×W×3 RGB.

    Raises
    ------
    ImageError
        It is not in there.
    """
    entry = entry_name(Path(name))
    try:
        with zipfile.ZipFile(target) as archive, tempfile.TemporaryDirectory() as folder:
            pixels = images.read(Path(archive.extract(entry, folder))).pixels
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ImageError(f"{target} does not hold {entry}", why=(str(error),), fix="write it again") from error
    return np.asarray(pixels, np.uint8)


def _sizes(pictures: Sequence[Path], read: Callable[[Path], Pixels]) -> dict[Path, tuple[int, int]]:
    """Height and width of every picture, each decoded to its end; ImageError that names those that cannot be."""
    sizes: dict[Path, tuple[int, int]] = {}
    reasons: list[str] = []
    for picture in pictures:
        try:
            height, width = read(picture).shape[:2]
            sizes[picture] = (height, width)
        except ImageError as error:
            reasons.append(f"{picture.name}: {error.what}")
    if reasons:
        more = [f"… and {len(reasons) - SHOWN} more"] if len(reasons) > SHOWN else []
        raise ImageError(
            f"{len(reasons)} of {len(pictures)} pictures cannot be restored, and a submission must be whole: "
            "nothing was written",
            why=(*reasons[:SHOWN], *more),
            fix="replace these files by whole copies and run the same command again",
        )
    return sizes


def _batches(sizes: dict[Path, tuple[int, int]], batch: int) -> Iterator[list[Path]]:
    """Pictures of one size together, as one engine serves one size."""
    ordered = sorted(sizes, key=lambda picture: (sizes[picture], picture.name))
    for _, same in groupby(ordered, key=sizes.__getitem__):
        group = list(same)
        yield from (group[start : start + batch] for start in range(0, len(group), batch))


def _add(archive: zipfile.ZipFile, scratch: Path, name: str, pixels: Pixels) -> None:
    images.write(scratch, pixels)
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.external_attr = 0o644 << 16  # readable by everyone where it is unpacked
    archive.writestr(entry, scratch.read_bytes())


def parameters(model: str | os.PathLike[str]) -> int | None:
    """How many weights the network behind ``--model`` has; ``None`` where its file does not tell.

    A shipped model's are in the manifest, a checkpoint's are counted in the network, and those of an ONNX file are what
    its convolutions and matrix products take.

    Raises
    ------
    UsageError, ModelError
        There is no such model, or its file is damaged.
    """
    for entry in list_models():
        if entry.name == os.fspath(model):
            return entry.parameters
    found = resolve(model)
    if found.kind == "checkpoint":
        from bfsr_edge.models import load_checkpoint, parameter_count

        return parameter_count(load_checkpoint(found.path))
    return _onnx_parameters(found.path) if found.kind == "onnx" else None


def _onnx_parameters(path: Path) -> int | None:
    """Elements of every stored tensor that a layer uses, also behind a Cast or a DequantizeLinear."""
    from bfsr_edge.weights.graphs import read_onnx

    graph = read_onnx(path).graph
    stored = {tensor.name: int(np.prod(tensor.dims, dtype=np.int64)) for tensor in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    used: set[str] = set()
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        for name in node.input:
            while name in made_by and made_by[name].op_type in ("Cast", "DequantizeLinear", "Identity"):
                name = made_by[name].input[0]
            if name in stored:
                used.add(name)
    return sum(stored[name] for name in used) or None
