"""What must come through ``bfsr-edge restore`` unharmed: orientation, dates, places, profiles, depth, grey."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import Result
from PIL import Image, ImageCms

from bfsr_edge import images
from bfsr_edge.restore.record import record_of
from bfsr_edge.restore.transparency import spread

Photo = Callable[..., npt.NDArray[Any]]
Restore = Callable[..., Result]

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY = SRGB[:16] + b"GRAY" + SRGB[20:]
WHEN, WHERE = "2001:02:03 04:05:06", {1: "N", 2: (52.0, 31.0, 12.5)}


def exif(turn: int = 1) -> Image.Exif:
    result = Image.Exif()
    result[0x0112], result[0x0132] = turn, WHEN
    result.get_ifd(0x8769)[0x9003] = WHEN
    result.get_ifd(0x8825).update(WHERE)
    return result


def enlarged(pixels: npt.NDArray[Any], times: int = 4) -> npt.NDArray[Any]:
    return pixels.repeat(times, 0).repeat(times, 1)


@pytest.fixture
def run(restore: Restore, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Restore ``in/`` into ``out/`` with the network that repeats pixels; the account of the only file."""

    def call(*more: str) -> dict[str, Any]:
        result = restore(tmp_path / "in", "--out", tmp_path / "out", "--faces", "off", "--json", *more)
        account: dict[str, Any] = json.loads(result.stdout)["files"][0]
        return account

    return call


def put(tmp_path: Path, name: str) -> tuple[Path, Path]:
    (tmp_path / "in").mkdir()
    return tmp_path / "in" / name, tmp_path / "out" / name


def test_sixteen_bits_and_their_profile_come_through(
    tmp_path: Path, photo: Photo, run: Callable[..., dict[str, Any]]
) -> None:
    """Every value, through a network that repeats them; and the profile to the byte."""
    source, result = put(tmp_path, "a.png")
    pixels = np.random.default_rng(0).integers(0, 65536, (40, 56, 3), dtype=np.uint16)
    images.write(source, pixels, metadata=images.Metadata(icc=SRGB + bytes(70_000)))
    assert run()["status"] == "restored"
    found = images.read(result)
    assert images.probe(result).bits == 16
    np.testing.assert_array_equal(found.pixels, enlarged(pixels))
    assert found.metadata.icc == SRGB + bytes(70_000)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.heic"])
@pytest.mark.parametrize("strip", [False, True])
def test_a_phones_picture_keeps_what_it_says_of_itself(
    strip: bool, name: str, tmp_path: Path, photo: Photo, run: Callable[..., dict[str, Any]]
) -> None:
    """Upright, with date, place and wide gamut; or with nothing but the profile."""
    if name == "a.heic":
        pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
        images.register_heif()
    source, result = put(tmp_path, name)
    icc = SRGB + bytes(range(256)) * 400
    Image.fromarray(photo(40, 56)).save(
        source, exif=exif(6).tobytes(), icc_profile=icc, xmp=b"<x:xmpmeta>a film of three seconds</x:xmpmeta>"
    )
    told = run(*(["--strip-metadata"] if strip else []))
    assert told["size"] == [40, 56]
    with Image.open(result) as image:
        assert image.size == (160, 224)
        assert image.info["icc_profile"] == icc
        kept = image.getexif()
        assert kept.get(0x0112, 1) == 1
        assert (kept.get(0x0132, "").rstrip("\0") == WHEN) != strip
        assert (kept.get_ifd(0x8769).get(0x9003, "").rstrip("\0") == WHEN) != strip
        assert ([float(part) for part in kept.get_ifd(0x8825).get(2, ())] == [52.0, 31.0, 12.5]) != strip
    content = result.read_bytes()
    assert b"a film of three seconds" not in content
    assert not strip or WHEN.encode() not in content
    assert record_of(result) is not None
    assert run(*(["--strip-metadata"] if strip else []))["status"] == "skipped"
    assert run(*([] if strip else ["--strip-metadata"]))["reason"].startswith("made anew")


@pytest.mark.parametrize(("name", "channels"), [("a.png", 1), ("a.png", 2), ("a.jpg", 1), ("a.tif", 1), ("a.webp", 1)])
def test_grey_stays_grey_with_its_profile(
    name: str, channels: int, tmp_path: Path, photo: Photo, run: Callable[..., dict[str, Any]]
) -> None:
    source, result = put(tmp_path, "a.png")
    pixels = photo(40, 56, channels)
    if channels == 2:
        pixels[:, :, 1] = 255
        pixels[10:20, 10:20, 1] = 0
    images.write(source, pixels, metadata=images.Metadata(icc=GREY))
    notes = run("--format", images.format_of(Path(name)).name)["notes"]
    found = images.read(result.with_suffix(Path(name).suffix))
    if name == "a.webp":  # which holds no grey
        assert notes == ["webp holds grey as RGB, so the profile for grey is left out"]
        assert found.metadata.icc is None
        return
    assert notes == []
    assert found.metadata.icc == GREY
    assert found.pixels.shape == (160, 224, channels)
    if name == "a.png":
        np.testing.assert_array_equal(found.pixels, enlarged(spread(pixels)))


@pytest.mark.parametrize("mode", ["P", "1", "CMYK"])
def test_what_was_converted_is_told(
    mode: str, tmp_path: Path, photo: Photo, run: Callable[..., dict[str, Any]]
) -> None:
    source, result = put(tmp_path, "a.tif")
    Image.fromarray(photo(40, 56)).convert(mode).save(source)
    notes = run("--format", "png")["notes"]
    result = result.with_suffix(".png")
    assert images.probe(result).channels == (1 if mode == "1" else 3)
    np.testing.assert_array_equal(images.read(result).pixels, enlarged(images.read(source).pixels))
    assert bool(notes) == (mode == "CMYK")


def test_what_the_new_format_cannot_hold_is_told(
    tmp_path: Path, photo: Photo, run: Callable[..., dict[str, Any]]
) -> None:
    source, _ = put(tmp_path, "a.png")
    Image.fromarray(photo(40, 56)).save(source, exif=exif(), icc_profile=SRGB)
    assert run("--format", "bmp")["notes"] == ["bmp holds no EXIF", "bmp holds no colour profile"]
    again = run("--format", "bmp")
    assert again["status"] == "kept"
    assert again["reason"].endswith("a BMP cannot hold what it was made from")
    assert "--format png" in again["fix"]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 20_000), (20_000, 1), (2, 3)])
def test_pictures_of_odd_shapes(
    height: int, width: int, tmp_path: Path, photo: Photo, run: Callable[..., dict[str, Any]]
) -> None:
    source, result = put(tmp_path, "a.png")
    pixels = photo(height, width)
    images.write(source, pixels)
    assert run("--tile", "128", "--overlap", "16")["status"] == "restored"
    np.testing.assert_array_equal(images.read(result).pixels, enlarged(pixels))


def test_a_decompression_bomb_is_refused_by_the_option(
    tmp_path: Path, photo: Photo, run: Callable[..., dict[str, Any]]
) -> None:
    source, _ = put(tmp_path, "a.bmp")
    head = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 40_000, 40_000, 1, 24, 0, 0, 0, 0, 0, 0)
    source.write_bytes(head)
    told = run()
    assert told["status"] == "failed"
    assert "40000×40000 pixels are more than 512 megapixels" in told["reason"]
    assert told["fix"] == "if it is trusted, add --max-megapixels 1600"
    images.write(source, photo(40, 56))
    assert run("--max-megapixels", "0.002")["status"] == "failed"
    assert run("--max-megapixels", "0.003")["status"] == "restored"
