"""Files to arrays and back: every format, orientation, metadata, limits, damage, atomicity."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import IFDRational

from bfsr_edge import images
from bfsr_edge.errors import ImageError, UsageError

Array = np.ndarray[Any, Any]


def picture(height: int = 61, width: int = 83, channels: int = 3, dtype: Any = np.uint8) -> np.ndarray:
    """Smooth, so that lossy formats stay close."""
    y, x = np.mgrid[:height, :width]
    planes = [x / width, y / height, (x + y) / (height + width), 1 - x / width][:channels]
    return (np.stack(planes, axis=2) * np.iinfo(dtype).max).astype(dtype)


def exif_with(turn: int = 1, order: str = "<") -> bytes:
    exif = Image.Exif()
    exif.endian = order
    exif[0x0112] = turn
    exif[0x010F] = "Maker of cameras"
    exif[0x0132] = "2001:02:03 04:05:06"
    exif.get_ifd(0x8769).update({0xA002: 83, 0xA003: 61, 0x829A: IFDRational(1, 250), 0x927C: b"maker note, opaque"})
    exif.get_ifd(0x8769)[0x9003] = "2000:01:02 03:04:05"
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.5)})
    return exif.tobytes()


ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["png", "tiff", "bmp"])
def test_lossless_formats_give_back_what_they_got(name: str, channels: int, tmp_path: Path) -> None:
    if name == "bmp" and channels in (2, 4):
        pytest.skip("BMP has no alpha that is read everywhere")
    pixels = picture(channels=channels)
    path = tmp_path / f"a{images.FORMATS[name].extensions[0]}"
    images.write(path, pixels)
    found = images.read(path)
    assert found.format == name
    np.testing.assert_array_equal(found.pixels, pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["png", "tiff"])
def test_sixteen_bits_are_kept(name: str, channels: int, tmp_path: Path) -> None:
    if name == "tiff" and channels == 2:
        pytest.skip("Pillow reads no 16-bit grey with alpha from TIFF")
    pixels = np.random.default_rng(1).integers(0, 65536, (61, 83, channels), dtype=np.uint16)
    path = tmp_path / f"a.{name}"
    images.write(path, pixels)
    assert images.probe(path) == images.Header(name, 83, 61, channels, 16)
    found = images.read(path).pixels
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, pixels)
    foreign = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert foreign is not None
    assert foreign.dtype == np.uint16


@pytest.mark.parametrize(("name", "channels"), [("jpeg", 1), ("jpeg", 3), ("webp", 3), ("webp", 4), ("heic", 3)])
def test_lossy_formats_stay_close(name: str, channels: int, tmp_path: Path) -> None:
    if name == "heic":
        pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    pixels = picture(channels=channels)
    path = tmp_path / f"a{images.FORMATS[name].extensions[0]}"
    images.write(path, pixels)
    found = images.read(path).pixels
    assert found.shape == pixels.shape
    assert np.abs(found.astype(int) - pixels).mean() < 2


@pytest.mark.parametrize("quality", [60, 95])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (17, 33), (200, 131), (64, 64), (129, 1000)])
def test_joined_jpeg_strips_equal_libjpegs_own(
    quality: int, channels: int, height: int, width: int, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    path = tmp_path / "a.jpg"
    images.write(path, pixels, quality=quality)
    whole = io.BytesIO()
    mode = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    mode.save(whole, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2)
    ours, theirs = np.asarray(Image.open(path)), np.asarray(Image.open(whole))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["jpeg", "png", "tiff"])
@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
def test_rows_in_any_portions_give_the_same_file(name: str, rows: int, tmp_path: Path) -> None:
    pixels = picture(300, 70)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    images.write(whole, pixels, format=name)
    with images.create(parts, pixels.shape, pixels.dtype, format=name) as writer:
        buffer = np.empty((rows, 70, 3), np.uint8)
        for start in range(0, 300, rows):
            portion = pixels[start : start + rows]
            buffer[: len(portion)] = portion
            writer.write(buffer[: len(portion)])
            buffer[:] = 0  # the writer may not rely on the caller's buffer
    assert whole.read_bytes() == parts.read_bytes()


TIFF = ("L", "LA", "RGB", "RGBA", "CMYK")
TURNS: dict[int, Callable[[Array], Array]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "tiff", "heic"])
def test_exif_and_profile_are_carried(name: str, order: str, tmp_path: Path) -> None:
    if name == "heic":
        pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    source, result = tmp_path / "in.jpg", tmp_path / f"out{images.FORMATS[name].extensions[0]}"
    Image.fromarray(picture()).save(source, exif=exif_with(6, order), icc_profile=ICC, quality=95)
    read = images.read(source)
    images.write(result, read.pixels.repeat(2, 0).repeat(2, 1), metadata=read.metadata)
    with Image.open(result) as image:
        exif = image.getexif()
        assert exif.get(0x0112, 1) == 1
        assert exif[0x010F].rstrip("\0") == "Maker of cameras"
        assert exif[0x0132].rstrip("\0") == "2001:02:03 04:05:06"
        details, place = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
        assert (details[0xA002], details[0xA003]) == (122, 166)
        assert float(details[0x829A]) == pytest.approx(1 / 250)
        assert details[0x927C] == b"maker note, opaque"
        assert details[0x9003].rstrip("\0") == "2000:01:02 03:04:05"
        assert [float(part) for part in place[2]] == [52.0, 31.0, 12.5]
        assert image.info["icc_profile"] == ICC
        assert image.size == (122, 166)
    again = images.read(result)
    assert again.metadata.icc == ICC
    assert again.metadata.exif is not None


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("jpeg", "RGB"),
        ("jpeg", "L"),
        ("png", "RGB"),
        ("png", "RGBA"),
        ("webp", "RGB"),
        *(("tiff", mode) for mode in TIFF),
    ],
)
def test_orientation_is_applied(turn: int, name: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{images.FORMATS[name].extensions[0]}"
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = Image.fromarray(picture()).convert(mode)
    stored.save(path, exif=exif, lossless=name == "webp")
    # from pixels and not by Pillow's own turning of an opened file, which is wrong for raw TIFFs of some modes
    with open(path, "rb") as file, Image.open(file) as image:
        straight = np.asarray(stored if name == "tiff" else image.convert(mode))
    found = images.read(path)
    if mode == "CMYK":
        straight = np.asarray(Image.fromarray(straight, "CMYK").convert("RGB"))
    expected = TURNS[turn](straight)
    np.testing.assert_array_equal(found.pixels.reshape(expected.shape), expected)
    header = images.probe(path)
    assert (header.height, header.width) == expected.shape[:2]
    if found.metadata.exif is not None:
        loaded = Image.Exif()
        loaded.load(b"Exif\0\0" + found.metadata.exif)
        assert loaded[0x0112] == 1


def test_the_stale_thumbnail_is_unlinked(tmp_path: Path) -> None:
    small = io.BytesIO()
    Image.new("RGB", (8, 8)).save(small, "JPEG")
    first = struct.pack("<H", 1) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<I", 26)
    second = struct.pack("<H", 2) + struct.pack("<HHII", 0x0201, 4, 1, 56) + struct.pack("<HHII", 0x0202, 4, 1, 99)
    exif = b"II*\0\x08\0\0\0" + first + second + bytes(4) + small.getvalue()
    path = tmp_path / "a.jpg"
    Image.fromarray(picture()).save(path, exif=b"Exif\0\0" + exif)
    kept = images.read(path).metadata.exif
    assert kept is not None
    loaded = Image.Exif()
    loaded.load(b"Exif\0\0" + kept)
    assert loaded[0x0112] == 1
    assert not loaded.get_ifd(1)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_damaged_exif_is_told_and_the_picture_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(picture()).save(path, exif=b"Exif\0\0II*\0\xff\xff\0\0")
    found = images.read(path)
    assert found.metadata.exif is None
    assert found.notes == ("its EXIF is damaged and not kept",)


@pytest.mark.parametrize("tag", [0x8769, 0x8825])
def test_exif_whose_sub_directory_is_cut_off_is_told_before_anything_is_written(tag: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, tag, 4, 1, 9999, 0)
    Image.fromarray(picture()).save(path, exif=exif)
    found = images.read(path)
    assert found.metadata.exif is None
    assert found.notes == ("its EXIF is damaged and not kept",)
    for name in ("b.jpg", "b.png", "b.tif"):
        images.write(tmp_path / name, found.pixels, metadata=found.metadata)


@pytest.mark.parametrize("tag", [0x8769, 0x8825])
def test_orientation_is_applied_though_a_sub_directory_is_cut_off(tag: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    fields = struct.pack("<HHHIHH", 2, 0x0112, 3, 1, 6, 0) + struct.pack("<HHIII", tag, 4, 1, 9999, 0)
    Image.fromarray(picture()).save(path, exif=b"Exif\0\0II*\0\x08\0\0\0" + fields)
    found = images.read(path)
    assert found.notes == ("its EXIF is damaged and not kept",)
    height, width = picture().shape[:2]
    assert found.pixels.shape[:2] == (width, height)
    header = images.probe(path)
    assert (header.width, header.height) == (height, width)


def test_sizes_in_the_first_directory_become_the_results(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0100], exif[0x0101] = 83, 61
    Image.fromarray(picture()).save(tmp_path / "a.jpg", exif=exif)
    read = images.read(tmp_path / "a.jpg")
    images.write(tmp_path / "b.jpg", read.pixels.repeat(2, 0).repeat(2, 1), metadata=read.metadata)
    with Image.open(tmp_path / "b.jpg") as image:
        assert (image.getexif()[0x0100], image.getexif()[0x0101]) == image.size


def test_exif_that_jpeg_cannot_hold_is_left_out_and_told() -> None:
    metadata = images.Metadata(exif=bytes(70_000))
    kept, notes = images.carried(metadata, "jpeg", 3)
    assert kept.exif is None
    assert notes == ("jpeg holds 64 KB of EXIF at most: its 70,000 bytes are left out",)
    assert images.carried(metadata, "png", 3) == (metadata, ())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    for look in (images.probe, images.read, images.read_xmp):
        with pytest.raises(ImageError, match="it is a pipe"):
            look(tmp_path / "a.jpg")


def test_a_folder_that_is_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match="file") as caught:
        images.write(tmp_path / "file" / "below" / "a.png", picture())
    assert ".part" not in str(caught.value)


def test_a_lack_of_memory_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images.write(tmp_path / "a.png", picture())

    def hungry(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(images, "decode", hungry)
    with pytest.raises(ImageError, match="not enough memory to read") as caught:
        images.read(tmp_path / "a.png")
    assert "copy it again" not in caught.value.fix


def test_heic_is_told_by_its_content(tmp_path: Path) -> None:
    """In a process of its own, as Pillow keeps what was registered for an earlier file."""
    pytest.importorskip("pillow_heif")
    images.write(tmp_path / "a.heic", picture(64, 64))
    (tmp_path / "a.heic").rename(tmp_path / "a.jpg")
    code = "import sys, pathlib; from bfsr_edge import images; print(images.probe(pathlib.Path(sys.argv[1])).format)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.jpg"], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "heic", done.stderr


@pytest.mark.parametrize("mode", ["P", "1", "L", "LA", "RGBA", "PA-like"])
def test_other_modes_become_one_of_ours(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image = Image.fromarray(picture())
    if mode == "PA-like":
        image.quantize(16).save(path, transparency=3)
    else:
        image.convert(mode).save(path)
    channels = {"P": 3, "1": 1, "L": 1, "LA": 2, "RGBA": 4, "PA-like": 4}[mode]
    assert images.probe(path).channels == channels
    assert images.read(path).pixels.shape == (61, 83, channels)


def test_cmyk_is_converted_and_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(picture()).convert("CMYK").save(path, quality=95)
    found = images.read(path)
    assert images.probe(path).channels == 3
    assert np.abs(found.pixels.astype(int) - picture()).mean() < 3
    assert "CMYK" in found.notes[0]


@pytest.mark.parametrize(("name", "word"), [("a.webp", "animation"), ("a.png", "animation"), ("a.tiff", "pages")])
def test_several_pictures_in_a_file_are_refused_by_name(name: str, word: str, tmp_path: Path) -> None:
    frames = [Image.fromarray(picture()), Image.fromarray(picture()[::-1].copy())]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    for ask in (images.probe, images.read):
        with pytest.raises(ImageError, match=word):
            ask(tmp_path / name)


def test_kinds_not_read_are_refused(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.gif")
    with pytest.raises(ImageError, match="GIF"):
        images.probe(tmp_path / "a.gif")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(ImageError, match="32-bit floating-point pixels"):
        images.probe(tmp_path / "a.tiff")


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.bmp"])
def test_damaged_files_are_errors_of_ours(name: str, deep: bool, tmp_path: Path, capfd: Any) -> None:
    if deep and name not in ("a.png", "a.tif"):
        pytest.skip("16 bits are in PNG and TIFF only")
    path = tmp_path / name
    images.write(path, np.random.default_rng(0).integers(0, 256, (90, 70, 3)).astype(np.uint16 if deep else np.uint8))
    content = path.read_bytes()
    for damaged in (b"", b"hello", content[: len(content) // 2], content[:30]):
        path.write_bytes(damaged)
        with pytest.raises(ImageError, match=name):
            images.read(path)


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        images.probe(tmp_path / "a.png")


def test_content_counts_and_not_the_extension(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png", "JPEG")
    assert images.read(tmp_path / "a.png").format == "jpeg"


@pytest.mark.parametrize(
    ("name", "size", "channels", "bits", "able"),
    [
        ("jpeg", (65_536, 10), 3, 8, "png or tiff"),
        ("webp", (16_384, 10), 3, 8, "jpeg or png or tiff or bmp"),
        ("jpeg", (10, 10), 4, 8, "png or webp or tiff"),
        ("webp", (10, 10), 3, 16, "png or tiff"),
        ("bmp", (65_000, 65_000), 3, 8, "jpeg or png or tiff"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    name: str, size: tuple[int, int], channels: int, bits: int, able: str
) -> None:
    with pytest.raises(ImageError) as caught:
        images.check_holds(name, *size, channels, bits)
    assert able in caught.value.fix
    images.check_holds("png", *size, channels, bits)


def test_an_unknown_extension_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.xyz"):
        images.write(tmp_path / "a.xyz", picture())


def test_heic_without_pillow_heif_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name == "pillow_heif":
            raise ImportError(name)
        return imported(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "a.heic").write_bytes(b"....ftypheic")
    with pytest.raises(ImageError) as caught:
        images.probe(tmp_path / "a.heic")
    assert caught.value.fix == "pip install pillow-heif"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    with contextlib.suppress(KeyError), images.create(path, (20, 10, 3), np.uint8) as writer:
        writer.write(picture(10, 10))
        raise KeyError
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == b"old"


def test_missing_rows_are_an_error(tmp_path: Path) -> None:
    writer = images.create(tmp_path / "a.png", (20, 10, 3), np.uint8)
    with pytest.raises(ImageError, match="10 rows of 20"), writer:
        writer.write(picture(10, 10))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_folder_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ImageError, match="Permission denied"):
        images.write(tmp_path / "a.png", picture())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bfsr_edge.image_writers.temporary", lambda path: tmp_path / "full")
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(ImageError, match="No space left"):
        images.write(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8))
    assert not list(tmp_path.iterdir())


def test_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    mine = images.temporary(tmp_path / "a.jpg").name
    of_the_dead = mine.replace(f"-{os.getpid()}-", f"-{int(dead.stdout)}-")
    elsewhere = re.sub("-[0-9a-f]{12}-", "-0123456789ab-", of_the_dead, count=1)  # another machine, a shared folder
    for name in (mine, of_the_dead, elsewhere, "photo.part"):
        (tmp_path / name).touch()
    images.remove_stale(tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} == {mine, elsewhere, "photo.part"}


def test_a_big_tiff_is_read_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bfsr_edge.image_tiff.CLASSIC_LIMIT", 1000)
    path = tmp_path / "a.tif"
    exif = images.Metadata(exif=exif_with().removeprefix(b"Exif\0\0"), icc=ICC, xmp=b"<x/>")
    images.write(path, picture(2000, 700), metadata=exif)
    content = path.read_bytes()
    assert content[:4] == b"II+\0"
    (start,) = struct.unpack_from("<Q", content, 8)
    (fields,) = struct.unpack_from("<Q", content, start)
    kinds = dict(struct.unpack_from("<HH", content, start + 8 + 20 * field) for field in range(fields))
    assert kinds[0x8769] == kinds[0x8825] == 16, "64 bits: these directories lie behind gigabytes of pixels"
    np.testing.assert_array_equal(images.read(path).pixels, picture(2000, 700))
    assert images.read_xmp(path) == b"<x/>"
    foreign = cv2.imread(str(path))
    assert foreign is not None
    np.testing.assert_array_equal(foreign[:, :, ::-1], picture(2000, 700))
    with Image.open(path) as image:
        assert image.getexif().get_ifd(0x8825)[1].rstrip("\0") == "N"
    again = images.read(path)
    assert not again.notes
    assert again.metadata.exif is not None
    kept = Image.Exif()
    kept.load(b"Exif\0\0" + again.metadata.exif)
    assert kept.get_ifd(0x8769)[0x9003] == "2000:01:02 03:04:05"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("extension", ["jpg", "png", "tif"])
def test_memory_of_a_writer_does_not_grow_with_the_picture(extension: str, tmp_path: Path) -> None:
    """Peak memory of writing 30,000 × 12,000 pixels (1 GB) row by row."""
    code = (
        "import sys, numpy as np; from pathlib import Path; from bfsr_edge import images\n"
        "band = np.add.outer(np.arange(64), np.arange(30000)).astype(np.uint8)[:, :, None].repeat(3, 2)\n"
        "with images.create(Path(sys.argv[1]), (12000, 30000, 3), np.uint8) as writer:\n"
        "    for start in range(0, 12000, 64): writer.write(band[: 12000 - start])\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    path = tmp_path / f"a.{extension}"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300 * 1024
    assert images.probe(path).width == 30_000
