"""Kinds of pixels and of colours beyond 8-bit RGB: read right, or refused in words that help."""

from __future__ import annotations

import itertools
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from bfsr_edge import image_png, images
from bfsr_edge.errors import ImageError

Array = npt.NDArray[Any]
WIDTH, HEIGHT = 30, 20
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def ramps(channels: int, dtype: Any, peak: float) -> Array:
    """H×W×channels, different in each."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = [x / WIDTH, y / HEIGHT, (x + y) / 50, 0.2 + x / 50, y / 40][:channels]
    return np.asarray((np.stack(planes, axis=2) * peak).astype(dtype))


def tiff(pages: list[tuple[bytes, dict[int, tuple[int, ...]]]]) -> bytes:
    """A little-endian TIFF, not compressed, of one strip a page; fields as numbers, all of them SHORT."""
    content = b"II*\0" + bytes(4)
    link = 4
    for pixels, more in pages:
        start = len(content)
        content += pixels
        fields = {256: (WIDTH,), 257: (HEIGHT,), 259: (1,), 273: (start,), 278: (HEIGHT,), 279: (len(pixels),), **more}
        if more.get(284) == (2,):  # a strip for each plane
            part = len(pixels) // more[277][0]
            fields[273] = tuple(start + part * plane for plane in range(more[277][0]))
            fields[279] = (part,) * more[277][0]
        values = {}
        for tag, value in fields.items():
            if len(value) > 2:
                values[tag] = len(content)
                content += struct.pack(f"<{len(value)}H", *value)
        content = content[:link] + struct.pack("<I", len(content)) + content[link + 4 :]
        content += struct.pack("<H", len(fields))
        for tag, value in sorted(fields.items()):
            inline = struct.pack("<I", values[tag]) if tag in values else struct.pack(f"<{len(value)}H", *value)
            content += struct.pack("<HHI", tag, 3, len(value)) + inline.ljust(4, b"\0")
        link = len(content)
        content += bytes(4)
    return content


def fields(photometric: int, bits: int, samples: int, **more: int) -> dict[int, tuple[int, ...]]:
    names = {"planes": 284, "extra": 338, "sample": 339, "subfile": 254}
    result: dict[int, tuple[int, ...]] = {258: (bits,) * samples, 262: (photometric,), 277: (samples,)}
    for name, value in more.items():
        result[names[name]] = (value,) * samples if name == "sample" else (value,)
    return result


def png(pixels: Array, *before: tuple[bytes, bytes], after: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """A PNG of those pixels (H×W×C) with chunks before and after them."""
    depth = 8 * pixels.dtype.itemsize
    lines = [b"\0" + row.tobytes() for row in pixels.astype(pixels.dtype.newbyteorder(">"))]
    head = struct.pack(">IIBBBBB", *pixels.shape[1::-1], depth, image_png.COLOURS[pixels.shape[2]], 0, 0, 0)
    result = image_png.SIGNATURE
    for name, content in (
        (b"IHDR", head), *before, (b"IDAT", zlib.compress(b"".join(lines))), *after, (b"IEND", b""),
    ):  # fmt: skip
        result += struct.pack(">I", len(content)) + name + content
        result += struct.pack(">I", zlib.crc32(content, zlib.crc32(name)))
    return result


def read(tmp_path: Path, content: bytes, name: str = "a.tif") -> images.Picture:
    path = tmp_path / name
    path.write_bytes(content)
    return images.read(path)


RGB8, RGB16 = ramps(3, "u1", 255), ramps(3, "<u2", 65535)
RGBA8, RGBA16 = ramps(4, "u1", 255), ramps(4, "<u2", 65535)
GREY8, GREY16 = ramps(1, "u1", 255), ramps(1, "<u2", 65535)


@pytest.mark.parametrize(
    ("pixels", "told", "expected"),
    [
        (GREY8, fields(0, 8, 1), 255 - GREY8),
        (GREY16, fields(0, 16, 1), 65535 - GREY16),
        (GREY16, fields(1, 16, 1), GREY16),
        (RGB16, fields(2, 16, 3), RGB16),
        (RGB8.transpose(2, 0, 1), fields(2, 8, 3, planes=2), RGB8),
        (RGBA8, fields(2, 8, 4, extra=2), RGBA8),
        (RGBA16, fields(2, 16, 4, extra=2), RGBA16),
        (RGBA8, fields(2, 8, 4, extra=0), RGBA8[:, :, :3]),
        (RGBA16, fields(2, 16, 4, extra=0), RGBA16[:, :, :3]),
    ],
    ids=[
        "grey from white", "grey from white, 16 bits", "grey, 16 bits", "RGB, 16 bits", "planes", "alpha",
        "alpha, 16 bits", "a fourth channel", "a fourth channel, 16 bits",
    ],
)  # fmt: skip
def test_tiffs_are_read_right(pixels: Array, told: dict[int, tuple[int, ...]], expected: Array, tmp_path: Path) -> None:
    found = read(tmp_path, tiff([(pixels.tobytes(), told)]))
    np.testing.assert_array_equal(found.pixels, expected)
    assert found.notes == (("its fourth channel is no transparency, and not kept",) if told.get(338) == (0,) else ())


@pytest.mark.parametrize(("dtype", "peak", "bits"), [("u1", 255, 8), ("<u2", 65535, 16)])
def test_colours_that_were_multiplied_by_their_alpha_are_divided(
    dtype: str, peak: int, bits: int, tmp_path: Path
) -> None:
    """Within what rounding the product lost."""
    true = ramps(4, dtype, peak).astype(np.float64)
    true[:, :, 3] = np.linspace(0.3, 1, WIDTH) * peak // 1
    stored = true.copy()
    stored[:, :, :3] = np.rint(true[:, :, :3] * true[:, :, 3:] / peak)
    found = read(tmp_path, tiff([(stored.astype(dtype).tobytes(), fields(2, bits, 4, extra=1))])).pixels
    assert np.abs(found - true).max() <= 3
    np.testing.assert_array_equal(found[:, :, 3], true[:, :, 3])


@pytest.mark.parametrize(
    ("dtype", "told", "words"),
    [
        ("<u2", fields(2, 16, 3, planes=2), r"16-bit \(in separate planes\)"),
        ("<f4", fields(1, 32, 1, sample=3), "32-bit floating-point"),
        ("<f4", fields(2, 32, 3, sample=3), "32-bit floating-point RGB"),
        ("<f2", fields(1, 16, 1, sample=3), "16-bit floating-point grey"),
        ("<u4", fields(1, 32, 1), "32-bit"),
        ("<u4", fields(2, 32, 3), "32-bit RGB"),
        ("<i2", fields(1, 16, 1, sample=2), "16-bit signed integer"),
        ("<i1", fields(1, 8, 1, sample=2), "8-bit signed integer"),
        ("<u1", fields(8, 8, 3), r"L\*a\*b\*"),
        ("<u2", fields(8, 16, 3), r"16-bit L\*a\*b\*"),
        ("<u1", fields(6, 8, 3), "YCbCr"),
        ("<u1", fields(1, 12, 1), "12-bit"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_other_tiffs_are_refused_in_words(
    dtype: str, told: dict[int, tuple[int, ...]], words: str, tmp_path: Path
) -> None:
    content = tiff([(ramps(told[277][0], dtype, 100).tobytes(), told)])
    with pytest.raises(ImageError, match=f"{words}.* pixels are not read here") as caught:
        read(tmp_path, content)
    assert caught.value.fix == "save it with 8 or 16 bits a channel, grey or RGB"


def test_a_preview_beside_the_picture_is_no_second_page(tmp_path: Path) -> None:
    page, preview = fields(2, 8, 3), fields(2, 8, 3, subfile=1)
    found = read(tmp_path, tiff([(RGB8.tobytes(), page), (RGB8[::-1].tobytes(), preview)]))
    np.testing.assert_array_equal(found.pixels, RGB8)
    with pytest.raises(ImageError, match="3 pages"):
        read(tmp_path, tiff([(RGB8.tobytes(), page)] * 3))


def test_what_lays_out_a_tiff_does_not_get_into_other_files(tmp_path: Path) -> None:
    """Its profile and strips would else stand in the EXIF of a JPEG, which holds 64 kB."""
    exif = Image.Exif()
    exif[0x010F] = "Maker of cameras"
    Image.fromarray(RGB8).save(tmp_path / "a.tif", icc_profile=SRGB + bytes(100_000), exif=exif)
    found = images.read(tmp_path / "a.tif")
    images.write(tmp_path / "a.jpg", found.pixels, metadata=found.metadata)
    with Image.open(tmp_path / "a.jpg") as image:
        assert {tag: value for tag, value in image.getexif().items() if tag != 0x0112} == {0x010F: "Maker of cameras"}
        assert image.info["icc_profile"] == SRGB + bytes(100_000)


def cmyk_profile() -> bytes:
    """Turns each mixture of inks into a grey of its own: L* 100 less 10, 15, 25 and 50 for C, M, Y and K."""
    mixtures = itertools.product((0, 1), repeat=4)
    lightness = [100 - 10 * c - 15 * m - 25 * y - 50 * k for c, m, y, k in mixtures]
    table = b"".join(bytes((round(value * 2.55), 128, 128)) for value in lightness)
    straight = bytes(range(256))
    matrix = struct.pack(">9i", *[65536 * (place % 4 == 0) for place in range(9)])
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + matrix + 4 * straight + table + 3 * straight
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"inks\0" + bytes(78 + 1)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    parts = [(b"desc", text), (b"wtpt", white), (b"A2B0", lut)]
    at = 128 + 4 + 12 * len(parts)
    tags, body = struct.pack(">I", len(parts)), b""
    for name, content in parts:
        tags += name + struct.pack(">II", at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = bytes(4) + bytes(4) + bytes((2, 0x10, 0, 0)) + b"prtrCMYKLab " + bytes(12) + b"acsp" + bytes(28)
    head += struct.pack(">3i", 63190, 65536, 54061)
    whole = head.ljust(128, b"\0") + tags + body
    return struct.pack(">I", len(whole)) + whole[4:]


def grey_of(lightness: float) -> float:
    """The sRGB value of a CIE lightness (CIE 15; IEC 61966-2-1)."""
    luminance: float = ((lightness + 16) / 116) ** 3
    return 255 * (1.055 * math.pow(luminance, 1 / 2.4) - 0.055)


INKS = {"white": (0, 0, 0, 0), "cyan": (255, 0, 0, 0), "yellow": (0, 0, 255, 0), "key": (0, 0, 0, 255)}


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
@pytest.mark.parametrize("ink", INKS)
def test_cmyk_becomes_what_its_profile_says(ink: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    Image.new("CMYK", (16, 16), INKS[ink]).save(path, icc_profile=cmyk_profile(), quality=100)
    if name == "a.jpg":
        assert b"\xff\xee\x00\x0eAdobe" in path.read_bytes()
        # so what is stored is inverted: no ink is 255
        with Image.open(path) as image:
            image.tile = [tile._replace(args=("CMYK", "")) for tile in image.tile]
            np.testing.assert_array_equal(np.asarray(image)[0, 0], [255 - part for part in INKS[ink]])
    found = images.read(path)
    lightness = {"white": 100, "cyan": 90, "yellow": 75, "key": 50}[ink]
    assert np.abs(found.pixels - grey_of(lightness)).max() <= 2
    assert found.metadata.icc is None
    assert found.notes == ("converted from CMYK to sRGB by its profile",)


@pytest.mark.parametrize(("ink", "colour"), [("white", (255, 255, 255)), ("cyan", (0, 255, 255)), ("key", (0, 0, 0))])
@pytest.mark.parametrize("icc", [None, SRGB, b"damaged"], ids=["none", "for RGB", "damaged"])
def test_cmyk_without_a_usable_profile_is_converted_and_told(
    icc: bytes | None, ink: str, colour: tuple[int, int, int], tmp_path: Path
) -> None:
    Image.new("CMYK", (16, 16), INKS[ink]).save(tmp_path / "a.jpg", quality=100, icc_profile=icc)
    found = images.read(tmp_path / "a.jpg")
    assert np.abs(found.pixels.astype(int) - colour).max() <= 2
    assert "colours are approximate" in found.notes[0]
    assert ("damaged or not for CMYK" in found.notes[0]) == (icc is not None)


def test_cmyk_of_16_bits_is_told(tmp_path: Path) -> None:
    found = read(tmp_path, tiff([(np.full((HEIGHT, WIDTH, 4), (65535, 0, 0, 0), "<u2").tobytes(), fields(5, 16, 4))]))
    np.testing.assert_array_equal(found.pixels, np.full((HEIGHT, WIDTH, 3), (0, 255, 255)))
    assert found.notes[1] == "its 16 bits a channel were reduced to 8"


@pytest.mark.parametrize("channels", [1, 3])
def test_a_colour_that_stands_for_transparency_in_16_bits(channels: int, tmp_path: Path) -> None:
    pixels = ramps(channels, np.uint16, 65535)
    key = pixels[4, 7]
    found = read(tmp_path, png(pixels, (b"tRNS", struct.pack(f">{channels}H", *key))), "a.png").pixels
    np.testing.assert_array_equal(found[:, :, :-1], pixels)
    np.testing.assert_array_equal(found[:, :, -1], np.where((pixels == key).all(axis=2), 0, 65535))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_grey_that_stands_for_transparency(depth: int, tmp_path: Path) -> None:
    levels = 2**depth
    rows = np.arange(32 * 16).reshape(16, 32) % levels
    packed = np.packbits(np.unpackbits(rows.astype(np.uint8)[..., None], axis=2)[..., -depth:].reshape(16, -1), axis=1)
    header = struct.pack(">IIBBBBB", 32, 16, depth, 0, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
    key = levels - 2 if levels > 2 else 0
    parts = ((b"IHDR", header), (b"tRNS", struct.pack(">H", key)), (b"IDAT", content), (b"IEND", b""))
    file = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in parts
    )
    found = read(tmp_path, file, "a.png").pixels
    np.testing.assert_array_equal(found[:, :, 0], rows * 255 // (levels - 1))
    np.testing.assert_array_equal(found[:, :, -1], np.where(rows == key, 0, 255))


def test_exif_of_a_png_is_found_wherever_it_stands(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = exif.tobytes()[6:]
    text = f"\nexif\n{len(content):8}\n{content.hex()}\n".encode()
    for file in (
        png(RGB8, (b"eXIf", content)),
        png(RGB8, after=((b"eXIf", content),)),
        png(RGB8, (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))),
    ):
        found = read(tmp_path, file, "a.png")
        np.testing.assert_array_equal(found.pixels, np.rot90(RGB8, -1))
        assert images.probe(tmp_path / "a.png").width == HEIGHT
        assert found.metadata.exif is not None


GAMMA, SRGB_GAMMA = struct.pack(">I", 100_000), struct.pack(">I", 45_455)
WIDE = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
NARROW = struct.pack(">8I", *image_png.SRGB_CHROMATICITIES)


@pytest.mark.parametrize(
    ("chunks", "srgb"),
    [
        ((), True),
        (((b"sRGB", b"\0"), (b"gAMA", SRGB_GAMMA), (b"cHRM", NARROW)), True),
        (((b"gAMA", SRGB_GAMMA),), True),
        (((b"gAMA", GAMMA),), False),
        (((b"gAMA", SRGB_GAMMA), (b"cHRM", WIDE)), False),
        (((b"cICP", bytes((1, 13, 0, 1))),), True),
        (((b"cICP", bytes((12, 13, 0, 1))), (b"sRGB", b"\0")), False),
    ],
    ids=["nothing", "sRGB", "sRGB by gamma", "linear", "wide", "sRGB by code", "P3 by code"],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_a_png_says_of_its_colours_is_kept_in_png_and_else_told(
    dtype: Any, chunks: tuple[tuple[bytes, bytes], ...], srgb: bool, tmp_path: Path
) -> None:
    pixels = ramps(3, dtype, np.iinfo(dtype).max)
    found = read(tmp_path, png(pixels, *chunks), "a.png")
    np.testing.assert_array_equal(found.pixels, pixels)  # the values themselves stay
    kept, notes = images.carried(found.metadata, "png", 3, strip=True)
    assert notes == ()
    images.write(tmp_path / "b.png", found.pixels, metadata=kept)
    assert images.read(tmp_path / "b.png").metadata.png == chunks
    with Image.open(tmp_path / "b.png") as image:
        assert image.info.get("gamma") == (dict(chunks).get(b"gAMA") and found_gamma(chunks))
    _, notes = images.carried(found.metadata, "jpeg", 3)
    assert bool(notes) == (not srgb)
    assert not notes or "jpeg cannot hold what the PNG says of its colours" in notes[0]


def found_gamma(chunks: tuple[tuple[bytes, bytes], ...]) -> float:
    return int.from_bytes(dict(chunks)[b"gAMA"], "big") / 100_000


@pytest.mark.parametrize("size", [200, 150_000, 3 << 20])
@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "tiff", "heic"])
def test_a_profile_is_kept_to_the_byte(name: str, size: int, tmp_path: Path) -> None:
    """Also one that takes many JPEG segments, and more than the 1 MiB that Pillow unpacks from a PNG by itself."""
    if name == "heic":
        pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    icc = struct.pack(">I", len(SRGB) + size) + SRGB[4:] + np.random.default_rng(0).bytes(size)
    path = tmp_path / f"a{images.FORMATS[name].extensions[0]}"
    images.write(path, RGB8, metadata=images.Metadata(icc=icc))
    assert images.read(path).metadata.icc == icc


def test_a_profile_too_large_for_jpeg_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="jpeg cannot hold") as caught:
        images.write(tmp_path / "a.jpg", RGB8, metadata=images.Metadata(icc=bytes(17 << 20)))
    assert "--format png" in caught.value.fix


def test_what_a_format_cannot_carry_is_told() -> None:
    metadata = images.Metadata(exif=b"II*\0", icc=SRGB, xmp=b"ours")
    assert images.carried(metadata, "tiff", 3) == (metadata, ())
    assert images.carried(metadata, "tiff", 3, strip=True) == (images.Metadata(icc=SRGB, xmp=b"ours"), ())
    kept, notes = images.carried(metadata, "bmp", 3)
    assert kept == images.Metadata(xmp=b"ours")
    assert notes == ("bmp holds no EXIF", "bmp holds no colour profile")
    assert images.carried(metadata, "bmp", 3, strip=True)[1] == ("bmp holds no colour profile",)
    grey = images.Metadata(icc=SRGB[:16] + b"GRAY" + SRGB[20:])
    assert images.carried(grey, "jpeg", 1) == (grey, ())
    assert "grey as RGB" in images.carried(grey, "webp", 1)[1][0]


def test_ten_bit_heic_is_told(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    deep = heif.from_bytes(mode="RGB;16", size=(WIDTH, HEIGHT), data=RGB16.tobytes())
    deep.save(tmp_path / "a.heic", quality=-1)
    found = images.read(tmp_path / "a.heic")
    assert found.notes == ("its 10 bits a channel were reduced to 8",)
    assert np.abs(found.pixels - RGB16 / 257).mean() < 4  # colours at half the resolution


def test_progressive_jpeg_is_read_and_refused_when_truncated(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB8).resize((300, 200)).save(path, progressive=True, quality=95)
    assert images.read(path).pixels.shape == (200, 300, 3)
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(ImageError, match="truncated"):
        images.read(path)


def test_an_animated_gif_is_called_so(tmp_path: Path) -> None:
    frames = [Image.fromarray(RGB8), Image.fromarray(RGB8[::-1].copy())]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="an animation of 2 pictures"):
        images.probe(tmp_path / "a.gif")


@pytest.mark.parametrize("ask", [images.probe, images.read])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(ask: Any, tmp_path: Path) -> None:
    """3.6 gigapixels, said in a few bytes."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    content = png(RGB8)
    content = content[:8] + struct.pack(">I", 13) + b"IHDR" + head
    content += struct.pack(">I", zlib.crc32(b"IHDR" + head)) + png(RGB8)[33:]
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match="60000×60000 pixels are more than 512 megapixels") as caught:
        ask(tmp_path / "a.png")
    assert "--max-megapixels 3600" in caught.value.fix
    assert images.probe(tmp_path / "a.png", max_megapixels=3600).width == 60_000
    assert read(tmp_path, png(RGB8), "b.png").pixels.shape == RGB8.shape
    with pytest.raises(ImageError, match=r"more than 0\.0005 megapixels"):
        ask(tmp_path / "b.png", max_megapixels=0.0005)
