"""What people complain about in other tools, a test that names each; and what else goes wrong on disks.

``COMPLAINTS`` says where each test stands. Those of this file run the command on real files: in this process, or in one
of its own where signals, permissions and disks matter.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import Result
from PIL import Image, ImageCms

from bfsr_edge import images
from tests.fuzz import real

ROOT = Path(__file__).resolve().parents[2]
HERE = "tests/restore/test_complaints.py"
COMPLAINTS = {
    "EXIF rotation lost": f"{HERE}::test_exif_rotation_lost",
    "ICC shift": f"{HERE}::test_icc_shift",
    "one bad file kills the batch": f"{HERE}::test_one_bad_file_kills_the_batch",
    "tile seam": "tests/restore/test_seams.py::test_tiles_do_not_show",
    "box around the face": "tests/restore/test_faces.py::test_box_around_the_face",
    "OOM": "tests/restore/test_memory.py::test_a_picture_begins_anew_with_smaller_tiles",
    "black output": f"{HERE}::test_black_output",
    "no recursion": f"{HERE}::test_no_recursion",
    "no resume": f"{HERE}::test_no_resume_after_kill_9_at_random_moments",
    "non-ASCII names": f"{HERE}::test_non_ascii_names",
}
Restore = Callable[..., Result]
Photo = Callable[..., npt.NDArray[Any]]

linux = pytest.mark.skipif(sys.platform != "linux", reason="permissions, mounts and limits are Linux's")


@pytest.mark.parametrize("complaint", COMPLAINTS)
def test_every_complaint_has_a_test(complaint: str) -> None:
    file, name = COMPLAINTS[complaint].split("::")
    assert re.search(rf"^def {name}(_\w+)?\(", (ROOT / file).read_text("utf-8"), re.MULTILINE)


def account(text: str) -> dict[str, dict[str, Any]]:
    """``--json`` by file name."""
    return {Path(entry["source"]).name: entry for entry in json.loads(text)["files"]}


def statuses(text: str) -> dict[str, str]:
    return {name: str(entry["status"]) for name, entry in account(text).items()}


def leftover(folder: Path) -> Path:
    """The hidden file of a process on this machine that runs no more: the number is above any that Linux gives."""
    mine = images.temporary(folder / "a.png")
    return mine.with_name(mine.name.replace(f"-{os.getpid()}-", "-4194303-"))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def start(words: Sequence[Any], prepare: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    """``bfsr-edge restore WORDS --json`` in a process of its own."""

    def ready() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        if prepare is not None:
            prepare()

    command = [sys.executable, "-m", "bfsr_edge.cli", "restore", *map(os.fspath, words)]
    return subprocess.Popen(
        [*command, "--json", "--tile", "32", "--overlap", "4"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="surrogateescape", preexec_fn=ready,
    )  # fmt: skip


def finished(running: subprocess.Popen[str], code: int | None = None) -> tuple[str, str]:
    """stdout and stderr of a run that ended as it should."""
    stdout, stderr = running.communicate(timeout=120)
    assert "Traceback" not in stderr, stderr
    assert running.returncode == code or (code is None and running.returncode in (0, 1)), stderr
    return stdout, stderr


# ---- the complaints


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif"])
def test_exif_rotation_lost(extension: str, tmp_path: Path, restore: Restore) -> None:
    """A phone's photograph lies on its side in the result, or turns twice; its date and place are gone."""
    source, out = tmp_path / f"phone.{extension}", tmp_path / "out"
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x0132] = "2024:05:06 07:08:09"
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.5)})
    settings: dict[str, dict[str, Any]] = {"webp": {"lossless": True}, "jpg": {"quality": 95, "subsampling": 0}}
    Image.fromarray(real.crop()).save(source, exif=exif, **settings.get(extension, {}))
    assert restore(source, "-o", out, "--quality", 100, "--faces", "off").exit_code == 0
    with Image.open(source) as image:
        given = image.getexif().get_ifd(0x8825)
        assert given or extension == "tif"  # where Pillow writes none
    with Image.open(out / source.name) as image:
        assert image.size == (4 * real.HEIGHT, 4 * real.WIDTH)
        told = image.getexif()
        assert told.get(0x0112, 1) == 1
        assert told[0x0132].startswith("2024:05:06 07:08:09")
        place = told.get_ifd(0x8825)
        found = np.asarray(image.convert("RGB")).astype(int)
    assert {tag: place[tag] for tag in given} == given
    expected = np.rot90(real.crop(), -1).repeat(4, 0).repeat(4, 1)
    assert np.abs(found - expected).mean() < 6


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif"])
def test_icc_shift(extension: str, tmp_path: Path, restore: Restore) -> None:
    """Colours of a wide-gamut photograph turn dull: its profile is dropped, or its numbers are changed for another."""
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes() + b"wide gamut"
    source, out = tmp_path / f"wide.{extension}", tmp_path / "out"
    images.write(source, real.crop(), metadata=images.Metadata(icc=wide), quality=100)
    assert restore(source, "-o", out, "--quality", 100, "--faces", "off").exit_code == 0
    assert images.read(out / source.name).metadata.icc == wide
    before, after = images.read(source).pixels, images.read(out / source.name).pixels
    assert np.abs(after[2::4, 2::4].astype(int) - before).mean() < 3


def test_one_bad_file_kills_the_batch(tmp_path: Path, restore: Restore) -> None:
    """Hundreds of photographs are left undone for one that cannot be read."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    whole = real.pictures()
    jpeg, png = whole["ours.jpg"], whole["ours.png"]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in ((b"IHDR", struct.pack(">IIBBBBB", 99_999, 99_999, 8, 2, 0, 0, 0)), (b"IDAT", b""))
    )
    bad = {
        "truncated.jpg": jpeg[: len(jpeg) // 2], "truncated.png": png[: len(png) // 2], "empty.jpg": b"",
        "text.png": b"not a picture", "bomb.png": bomb, "animated.webp": whole["animated.webp"],
        "pages.tif": whole["pages.tif"], "gif.png": whole["gif.png"],
    }  # fmt: skip
    good = {
        "a.jpg": jpeg, "m.png": png, "z.webp": whole["ours.webp"], "wrong-extension.png": jpeg,
        "damaged-exif.jpg": jpeg.replace(b"II*\0", b"II*\x07"),
    }  # fmt: skip
    for name, content in {**bad, **good}.items():
        (photos / name).write_bytes(content)
    images.write(photos / "one.png", real.crop()[:1, :1].copy())
    images.write(photos / "thin.png", np.resize(real.crop(), (1, 20_000, 3)))
    result = restore(photos, "-o", out, "--json")
    assert result.exit_code == 1
    wanted = {**dict.fromkeys(bad, "failed"), **dict.fromkeys([*good, "one.png", "thin.png"], "restored")}
    assert statuses(result.stdout) == wanted
    assert files(out) == sorted([*good, "one.png", "thin.png"])
    assert "Traceback" not in result.output
    assert images.probe(out / "thin.png").width == 80_000
    told = account(result.stdout)
    for name in bad:
        assert name in told[name]["reason"]
        assert name in result.stderr
    assert "--max-megapixels" in result.stderr  # how a bomb that is none gets through


def test_black_output(tmp_path: Path, restore: Restore, broken: Path, photo: Photo) -> None:
    """A network that overflows in half precision gives black pictures, and they are saved as successes."""
    images.write(tmp_path / "a.png", photo())
    out = tmp_path / "out"
    result = restore(tmp_path / "a.png", "-o", out, "--json", model=broken)
    assert result.exit_code == 1
    assert statuses(result.stdout) == {"a.png": "failed"}
    assert "NaN" in result.stderr
    assert not out.exists() or files(out) == []


def test_no_recursion(tmp_path: Path, restore: Restore, photo: Photo) -> None:
    """Folders inside folders are passed over without a word, or their files land in one heap and replace each other."""
    for place in ("a.png", "2023/a.png", "2023/may/a.png", "2024/a.png"):
        images.write(tmp_path / "photos" / place, photo())
    result = restore(tmp_path / "photos", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0
    assert files(tmp_path / "out") == ["2023/a.png", "2023/may/a.png", "2024/a.png", "a.png"]


@linux
def test_no_resume_after_kill_9_at_random_moments(tmp_path: Path, convolutions: Path, photo: Photo) -> None:
    """A run that was killed begins at its first picture again, and takes half-written files for results."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    for number in range(60):
        images.write(photos / f"{number:02}.{('png', 'jpg', 'webp', 'tif')[number % 4]}", photo(90, 120, seed=number))
    words: list[Any] = [photos, "-o", out, "--model", convolutions, "--faces", "off"]
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    made: dict[str, bytes] = {}
    for _ in range(4):
        running = start(words)
        deadline, wanted = time.monotonic() + 60, len(made) + moments.randrange(1, 10)
        while (not out.exists() or len(files(out)) < wanted) and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(moments.random() * 0.05)
        running.kill()
        running.communicate()
        now = {name: (out / name).read_bytes() for name in files(out) if not name.startswith(".")}
        assert all(now[name] == content for name, content in made.items()), f"a result was lost or changed, seed {seed}"
        for name in now:
            images.read(out / name)  # whole
        made = now
    stdout, _ = finished(start(words), 0)
    told = statuses(stdout)
    assert len(told) == 60
    assert sorted(name for name, status in told.items() if status == "skipped") == sorted(made), f"seed {seed}"
    assert files(out) == files(photos), "leftovers of killed runs"
    finished(start([photos, "-o", tmp_path / "whole", *words[3:]]), 0)
    assert all((out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in files(out))


NAMES = (
    "été à Zürich.jpg",
    "写真 家族.png",
    "फ़ोटो.webp",
    "смешно 🎂.tif",
    "e\u0301 combining.png",
    'a\'b "c" $d;e&f.png',
)


def test_non_ascii_names(tmp_path: Path, restore: Restore, photo: Photo) -> None:
    """Names with letters beyond ASCII, spaces and quotes are not found, or come out as question marks."""
    folder, out = tmp_path / "Fotos für Oma 写真", tmp_path / "Ergebnisse ✓"
    for name in NAMES:
        images.write(folder / name, photo(20, 24))
    images.write(folder / "sechzehn–bit.png", photo(20, 24, dtype=np.uint16))
    result = restore(folder, "-o", out, "--json")
    assert result.exit_code == 0, result.output
    assert files(out) == sorted([*NAMES, "sechzehn–bit.png"])
    assert set(statuses(result.stdout)) == {*NAMES, "sechzehn–bit.png"}


@linux
@pytest.mark.parametrize("locale", ["C.UTF-8", "POSIX"])
def test_names_that_are_no_text(
    locale: str, tmp_path: Path, nearest: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of old disks are bytes that are no UTF-8; a terminal may know ASCII alone."""
    monkeypatch.setenv("LC_ALL", locale)
    monkeypatch.setenv("PYTHONCOERCECLOCALE", "0")
    monkeypatch.setenv("PYTHONUTF8", "0")
    photos, out = tmp_path / "photos", tmp_path / os.fsdecode(b"results \xe9")
    images.write(photos / os.fsdecode(b"caf\xe9.jpg"), photo(20, 24))
    images.write(photos / "日本.png", photo(20, 24))
    (photos / os.fsdecode(b"bad \xff.jpg")).write_bytes(b"no picture")
    words: list[Any] = [photos, "-o", out, "--model", nearest, "--faces", "off", "-v"]
    stdout, _ = finished(start(words), 1)
    assert sorted(account(stdout)[name]["status"] for name in account(stdout)) == ["failed", "restored", "restored"]
    assert len(files(out)) == 2
    command = [sys.executable, "-m", "bfsr_edge.cli", "restore", *map(os.fspath, words)]
    done = subprocess.run(command, capture_output=True, check=False)  # the summary on stdout instead of JSON
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"2 restored, 1 failed" in done.stdout  # with tiles of another size


# ---- names, links, folders


def test_very_long_names(tmp_path: Path, restore: Restore, photo: Photo) -> None:
    """A name of 255 bytes is as long as a file system takes: no temporary name may be made by adding to it."""
    names = ["a" * 251 + ".png", "é" * 125 + ".tiff", "b" * 251 + ".jpg"]
    for name in names:
        assert len(name.encode()) == 255
        images.write(tmp_path / "photos" / name, photo(20, 24))
    images.write(tmp_path / "photos" / "short.png", photo(20, 24))
    result = restore(tmp_path / "photos", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert files(tmp_path / "out") == sorted([*names, "short.png"])
    # one more byte does not fit: these fail, with a reason, and the short one does not
    result = restore(tmp_path / "photos", "-o", tmp_path / "out2", "--suffix", "_x", "--json")
    assert result.exit_code == 1
    assert statuses(result.stdout) == {**dict.fromkeys(names, "failed"), "short.png": "restored"}
    assert "Traceback" not in result.output
    assert not result.exception or isinstance(result.exception, SystemExit)
    assert files(tmp_path / "out2") == ["short_x.png"]


@pytest.mark.parametrize("argument", ["x" * 5000, "y" * 300 + ".png", "[" + "z" * 300 + "]*.png", "a\nb.png"])
def test_arguments_that_name_nothing(argument: str, tmp_path: Path, restore: Restore) -> None:
    result = restore(argument, "-o", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    result = restore(ROOT / "samples" / "lq", "-o", tmp_path / ("o" * 300))
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit), result.exception


@linux
def test_symlink_loops(tmp_path: Path, restore: Restore, photo: Photo) -> None:
    """A link to a folder above it is followed for ever; a dead link stops the batch."""
    photos = tmp_path / "photos"
    images.write(photos / "sub" / "a.png", photo(20, 24))
    (photos / "sub" / "up").symlink_to("..", target_is_directory=True)
    (photos / "self.png").symlink_to("self.png")
    (photos / "dead.jpg").symlink_to("nowhere.jpg")
    (photos / "alias.png").symlink_to("sub/a.png")
    result = restore(photos, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 1
    wanted = {"a.png": "restored", "alias.png": "restored", "self.png": "failed", "dead.jpg": "failed"}
    assert statuses(result.stdout) == wanted
    assert files(tmp_path / "out") == ["alias.png", "sub/a.png"]
    assert not (tmp_path / "out" / "alias.png").is_symlink()


def test_output_inside_input(tmp_path: Path, restore: Restore, photo: Photo) -> None:
    """Results among the inputs are enlarged again by every run."""
    photos = tmp_path / "photos"
    images.write(photos / "a.png", photo(20, 24))
    images.write(photos / "sub" / "b.jpg", photo(20, 24))
    for out in (photos / "results", photos / "sub" / "results"):
        for expected in ("restored", "skipped"):
            result = restore(photos / "a.png", photos / "sub", "-o", out, "--json")
            assert set(statuses(result.stdout).values()) == {expected}
            assert files(out) == ["a.png", "b.jpg"]
    # beside their inputs, under another name
    for expected in ("restored", "skipped"):
        result = restore(photos / "sub", "-o", photos / "sub", "--suffix", "_x4", "--json")
        told = account(result.stdout)
        assert told["b.jpg"]["status"] == expected
        assert "b_x4.jpg" not in told


def test_two_inputs_to_one_output(tmp_path: Path, restore: Restore, photo: Photo) -> None:
    """One result replaces another without a word."""
    for place in ("one/a.png", "two/a.png", "three/a.jpg"):
        images.write(tmp_path / place, photo(20, 24))
    for inputs in ((tmp_path / "one/a.png", tmp_path / "two/a.png"), (tmp_path / "one", tmp_path / "three")):
        result = restore(*inputs, "-o", tmp_path / "out", "--format", "png")
        assert result.exit_code == 2
        assert "would both become" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "kind", ["file in place of a folder", "folder in place of a file", "leftover that is a folder"]
)
def test_something_else_in_the_result_folder(kind: str, tmp_path: Path, restore: Restore, photo: Photo) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    images.write(photos / "a.png", photo(20, 24))
    images.write(photos / "sub" / "b.png", photo(20, 24))
    out.mkdir()
    if kind.startswith("file"):
        (out / "sub").write_bytes(b"mine")
    elif kind.startswith("folder"):
        (out / "sub" / "b.png").mkdir(parents=True)
    else:
        leftover(out).mkdir()
    result = restore(photos, "-o", out, "--json")
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    told = account(result.stdout)
    assert told["a.png"]["status"] == "restored"
    if not kind.startswith("leftover"):
        assert told["b.png"]["status"] == "failed"
        assert "unexpected" not in told["b.png"]["reason"]
    assert kind[:4] != "file" or (out / "sub").read_bytes() == b"mine"


# ---- disks and permissions


def bound_by_permissions() -> None:
    """Take from root what lets it pass permissions by; others have nothing of the kind."""
    library = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH of linux/capability.h
        library.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@linux
def test_unreadable_files_and_folders(tmp_path: Path, nearest: Path, photo: Photo) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for name in ("a.png", "secret.png", "closed/b.png", "c.png"):
        images.write(photos / name, photo(20, 24))
    (photos / "secret.png").chmod(0)
    (photos / "closed").chmod(0)
    try:
        words: list[Any] = [photos, "-o", out, "--model", nearest, "--faces", "off"]
        stdout, stderr = finished(start(words, bound_by_permissions), 1)
        assert statuses(stdout) == {
            "a.png": "restored",
            "c.png": "restored",
            "secret.png": "failed",
            "closed": "failed",
        }
        assert "Permission denied" in stderr
        assert files(out) == ["a.png", "c.png"]
        named = start([photos / "closed" / "b.png", *words[1:]], bound_by_permissions)
        _, stderr = finished(named, 2)
        assert "b.png" in stderr
    finally:
        (photos / "closed").chmod(0o700)


@linux
def test_read_only_output(tmp_path: Path, nearest: Path, photo: Photo) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for name in ("a.png", "b.jpg", "sub/c.tif"):
        images.write(photos / name, photo(20, 24))
    out.mkdir()
    leftover(out).touch()  # of a killed run; it cannot be removed either
    out.chmod(0o500)
    try:
        words: list[Any] = [photos, "-o", out, "--model", nearest, "--faces", "off"]
        stdout, stderr = finished(start(words, bound_by_permissions), 1)
        assert set(statuses(stdout).values()) == {"failed"}
        assert len(statuses(stdout)) == 3
        assert "Permission denied" in stderr
        assert "check the free space and the permissions" in stderr
    finally:
        out.chmod(0o700)
    assert files(out) == [leftover(out).name]


@linux
def test_vanishing_files(tmp_path: Path, convolutions: Path, photo: Photo) -> None:
    """A card is pulled out, or another program moves pictures away, while they wait for their turn."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    for number in range(120):
        images.write(photos / f"{number:03}.jpg", photo(90, 120, seed=number))
    running = start([photos, "-o", out, "--model", convolutions, "--faces", "off"])
    deadline = time.monotonic() + 60
    while not (out.exists() and files(out)) and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.01)
    for number in range(100, 120):
        (photos / f"{number:03}.jpg").unlink()
    stdout, stderr = finished(running, 1)
    told = account(stdout)
    assert len(told) == 120
    gone = [name for name, entry in told.items() if entry["status"] == "failed"]
    assert gone, "the files vanished too late to be missed"
    assert set(gone) <= {f"{number:03}.jpg" for number in range(100, 120)}
    assert all("No such file" in told[name]["reason"] for name in gone)
    assert files(out) == sorted(set(told) - set(gone))
    assert "Traceback" not in stderr


def _mixed_sizes(folder: Path) -> tuple[list[str], list[str]]:
    """Pictures whose results are small, and noise whose results are above 150 kB."""
    small, large = ["a.png", "c.jpg", "e.tif"], ["b.png", "d.jpg", "f.tif", "g.webp"]
    for name in small:
        images.write(folder / name, np.full((20, 24, 3), 90, np.uint8))
    noise = np.random.default_rng(0).integers(0, 256, (170, 180, 3), dtype=np.uint8)
    for name in large:
        images.write(folder / name, noise)
    return small, large


@linux
def test_full_disk_by_a_limit_on_the_size_of_files(tmp_path: Path, convolutions: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    small, large = _mixed_sizes(photos)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    stdout, stderr = finished(start([photos, "-o", out, "--model", convolutions, "--faces", "off"], limit), 1)
    assert statuses(stdout) == {**dict.fromkeys(small, "restored"), **dict.fromkeys(large, "failed")}
    assert "File too large" in stderr
    assert files(out) == sorted(small)
    for name in small:
        images.read(out / name)


@linux
def test_full_disk(tmp_path: Path, convolutions: Path) -> None:
    """A disk of 128 kB, in a namespace of its own."""
    photos, out, kept = tmp_path / "photos", tmp_path / "out", tmp_path / "kept"
    small, large = _mixed_sizes(photos)
    out.mkdir()
    enter = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "sh", "-c"]
    try:
        probe = subprocess.run(
            [*enter, 'mount -t tmpfs -o size=128k tmpfs "$0"', str(out)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if probe.returncode != 0:
        pytest.skip(f"no file system may be mounted here: {probe.stderr.strip()}")
    script = (
        'mount -t tmpfs -o size=128k tmpfs "$0" || exit 99; out="$0"; kept="$1"; shift; "$@"; code=$?; '
        'cp -a "$out" "$kept"; exit $code'
    )
    command = [sys.executable, "-m", "bfsr_edge.cli", "restore", str(photos), "-o", str(out), "--model"]
    done = subprocess.run(
        [*enter, script, str(out), str(kept), *command, str(convolutions), "--json", "--tile", "32", "--overlap", "4"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr
    assert statuses(done.stdout) == {**dict.fromkeys(small, "restored"), **dict.fromkeys(large, "failed")}
    assert files(kept) == sorted(small)
    for name in small:
        images.read(kept / name)


@linux
def test_the_reader_of_stdout_goes_away(tmp_path: Path, nearest: Path, photo: Photo) -> None:
    """As in ``bfsr-edge restore … --json | head -1``."""
    for number in range(5):
        images.write(tmp_path / "photos" / f"{number}.png", photo(20, 24))
    words: list[Any] = [tmp_path / "photos", "-o", tmp_path / "out", "--model", nearest, "--faces", "off"]
    with start(words) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        stderr = running.stderr.read()
    assert "Traceback" not in stderr
    assert len(files(tmp_path / "out")) == 5


def test_the_input_is_never_written(tmp_path: Path, restore: Restore, photo: Photo) -> None:
    """Neither its bytes nor its times, whatever becomes of it."""
    photos = tmp_path / "photos"
    for name, content in real.pictures().items():
        photos.mkdir(exist_ok=True)
        (photos / name).write_bytes(content)
    shutil.copystat(photos / "ours.png", photos / "ours.jpg")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in photos.iterdir()}
    restore(photos, "-o", tmp_path / "out", "--overwrite")
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in photos.iterdir()} == before
