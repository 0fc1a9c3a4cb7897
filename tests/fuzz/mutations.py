"""Damage to files: what disks, networks and careless programs do to them, and what an attacker would.

Every function takes the bytes of a file and a random generator and gives other bytes; none looks at anything else, so a
seed says what comes out.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

NUMBERS = (
    0, 1, 2, 3, 4, 7, 8, 16, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 1 << 24, 1 << 29,
    0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF,
)  # fmt: skip
"""Where counters overflow and signs turn."""
HEAD = 160
"""Most of what a decoder decides by stands in so many bytes at the beginning."""


def place(content: bytes, random: random.Random) -> int:
    """A position, every other time one in the header."""
    end = len(content) if random.random() < 0.5 else min(HEAD, len(content))
    return random.randrange(max(1, end))


def flip_bits(content: bytes, random: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[place(content, random)] ^= 1 << random.randrange(8)
    return bytes(changed)


def set_number(content: bytes, random: random.Random) -> bytes:
    """One of ``NUMBERS`` over 1, 2 or 4 bytes, in either byte order."""
    changed = bytearray(content)
    kind = random.choice(("B", "<H", ">H", "<I", ">I"))
    size = struct.calcsize(kind)
    at = place(content, random)
    if at + size <= len(changed):
        struct.pack_into(kind, changed, at, random.choice(NUMBERS) % (1 << 8 * size))
    return bytes(changed)


def truncate(content: bytes, random: random.Random) -> bytes:
    return content[: place(content, random)]


def cut_out(content: bytes, random: random.Random) -> bytes:
    start = place(content, random)
    return content[:start] + content[start + random.choice((1, 2, 4, 12, 100, 1000)) :]


def repeat(content: bytes, random: random.Random) -> bytes:
    start = place(content, random)
    piece = content[start : start + random.choice((1, 4, 12, 100, 1000))]
    return content[:start] + piece * random.choice((2, 3, 50)) + content[start:]


def zeros(content: bytes, random: random.Random) -> bytes:
    """A hole, as a copy to a dying disk leaves it."""
    start, size = place(content, random), random.choice((4, 64, 512, 4096))
    return content[:start] + bytes(min(size, len(content) - start)) + content[start + size :]


def noise(content: bytes, random: random.Random) -> bytes:
    start, size = place(content, random), random.choice((4, 16, 256))
    return content[:start] + random.randbytes(min(size, len(content) - start)) + content[start + size :]


def append(content: bytes, random: random.Random) -> bytes:
    return content + random.choice(
        (b"\0" * 100, content, random.randbytes(300), b"\xff\xd9", b"PK\x05\x06" + bytes(18))
    )


def empty(content: bytes, random: random.Random) -> bytes:
    return b"" if random.random() < 0.5 else content[: random.randrange(1, 16)]


BYTES: Sequence[Mutation] = (
    flip_bits, flip_bits, set_number, set_number, truncate, cut_out, repeat, zeros, noise, append, empty,
)  # fmt: skip


def splice(content: bytes, other: bytes, random: random.Random) -> bytes:
    """The beginning of one file and the end of another."""
    return content[: place(content, random)] + other[random.randrange(max(1, len(other))) :]


# ---- files of pieces: PNG's chunks, JPEG's segments, WebP's chunks

MOVES = 3


def move(pieces: list[Any], at: int, action: int, random: random.Random) -> None:
    """Lose (0) or double (1) the piece there, or shuffle them all (2), in place."""
    if action == 0:
        del pieces[at]
    elif action == 1:
        pieces.insert(random.randrange(len(pieces) + 1), pieces[at])
    else:
        random.shuffle(pieces)


# ---- PNG


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Names and contents; what is not whole is left out."""
    found, position = [], 8
    while position + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, position)
        found.append((content[position + 4 : position + 8], content[position + 8 : position + 8 + size]))
        position += 12 + size
    return found


def png_from(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in chunks:
        parts += [struct.pack(">I", len(content)), name, content, struct.pack(">I", zlib.crc32(name + content))]
    return b"".join(parts)


def png(content: bytes, random: random.Random) -> bytes:
    """Chunks lost, doubled, moved, changed or added; the checksums are right, so that decoders look inside."""
    chunks = png_chunks(content)
    if not chunks:
        return content
    at = random.randrange(len(chunks))
    name, body = chunks[at]
    action = random.randrange(6)
    if action < MOVES:
        move(chunks, at, action, random)
    elif action == 3:
        chunks[at] = name, random.choice(BYTES)(body, random)
    elif action == 4 and len(chunks[0][1]) >= 13:
        header = bytearray(chunks[0][1])
        field, kind = random.choice(((0, ">I"), (4, ">I"), (8, "B"), (9, "B"), (10, "B"), (11, "B"), (12, "B")))
        struct.pack_into(kind, header, field, random.choice(NUMBERS) % (1 << 8 * struct.calcsize(kind)))
        chunks[0] = b"IHDR", bytes(header)
    else:
        made = (
            (b"eXIf", random.randbytes(40)),
            (b"eXIf", b"II*\0\x08\0\0\0" + random.randbytes(30)),
            (b"iCCP", b"icc\0\0" + zlib.compress(random.randbytes(200))),
            (b"iCCP", b"icc\0\0" + zlib.compress(bytes(3_000_000))),
            (b"zTXt", b"text\0\0" + zlib.compress(bytes(3_000_000))),
            (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(random.randbytes(200))),
            (b"tRNS", random.randbytes(random.choice((0, 1, 2, 6, 300)))),
            (b"acTL", struct.pack(">II", random.choice(NUMBERS) % (1 << 32), 0)),
            (b"gAMA", struct.pack(">I", random.choice(NUMBERS) % (1 << 32))),
            (b"PLTE", random.randbytes(random.choice((0, 3, 4, 768, 900)))),
        )
        chunks.insert(random.randrange(1, len(chunks) + 1), random.choice(made))
    return png_from(chunks)


# ---- JPEG


def jpeg_segments(content: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Markers and contents up to the start of the scan, and everything from there on."""
    found, position = [], 2
    while position + 4 <= len(content) and content[position] == 0xFF and content[position + 1] != 0xDA:
        (size,) = struct.unpack_from(">H", content, position + 2)
        found.append((content[position + 1], content[position + 4 : position + 2 + size]))
        position += 2 + size
    return found, content[position:]


def jpeg_from(segments: Sequence[tuple[int, bytes]], scan: bytes) -> bytes:
    parts = [b"\xff\xd8"]
    for marker, body in segments:
        parts += [struct.pack(">BBH", 0xFF, marker, min(0xFFFF, len(body) + 2)), body]
    return b"".join((*parts, scan))


def jpeg(content: bytes, random: random.Random) -> bytes:
    """Segments lost, doubled, moved, changed or added; sizes, sampling and components of the frame changed."""
    segments, scan = jpeg_segments(content)
    if not segments:
        return content
    at = random.randrange(len(segments))
    marker, body = segments[at]
    action = random.randrange(7)
    if action < MOVES:
        move(segments, at, action, random)
    elif action == 3:
        segments[at] = marker, random.choice(BYTES)(body, random)
    elif action == 4:
        for index, (kind, frame) in enumerate(segments):
            if 0xC0 <= kind <= 0xC2 and len(frame) >= 6:
                changed = bytearray(frame)
                field, shape = random.choice(((0, "B"), (1, ">H"), (3, ">H"), (5, "B"), (7, "B"), (8, "B")))
                if field + struct.calcsize(shape) <= len(changed):
                    number = random.choice((*NUMBERS, 0x11, 0x22, 0x41)) % (1 << 8 * struct.calcsize(shape))
                    struct.pack_into(shape, changed, field, number)
                segments[index] = kind, bytes(changed)
    elif action == 5:
        scan = random.choice(BYTES)(scan, random)
    else:
        made = (
            (0xE1, b"Exif\0\0" + random.randbytes(50)),
            (0xE1, b"Exif\0\0MM\0*\0\0\0\x08" + random.randbytes(50)),
            (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + random.randbytes(50)),
            (0xE2, b"ICC_PROFILE\0\1\1" + random.randbytes(200)),
            (0xE2, b"ICC_PROFILE\0\2\3" + random.randbytes(200)),
            (0xE2, b"MPF\0" + random.randbytes(60)),
            (0xED, b"Photoshop 3.0\x008BIM" + random.randbytes(60)),
            (0xEE, b"Adobe" + random.randbytes(7)),
            (0xDD, random.randbytes(2)),
        )
        segments.insert(random.randrange(len(segments) + 1), random.choice(made))
    return jpeg_from(segments, scan)


# ---- RIFF (WebP)


def webp(content: bytes, random: random.Random) -> bytes:
    """Chunks lost, doubled, moved or changed; the outer size is right."""
    chunks, position = [], 12
    while position + 8 <= len(content):
        (size,) = struct.unpack_from("<I", content, position + 4)
        chunks.append([content[position : position + 4], content[position + 8 : position + 8 + size]])
        position += 8 + size + size % 2
    if not chunks:
        return content
    at = random.randrange(len(chunks))
    action = random.randrange(5)
    if action < MOVES:
        move(chunks, at, action, random)
    elif action == 3:
        chunks.append([random.choice((b"EXIF", b"ICCP", b"XMP ", b"ANMF", b"ALPH")), random.randbytes(60)])
    else:
        chunks[at][1] = random.choice(BYTES)(chunks[at][1], random)
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


# ---- TIFF and EXIF, which is one


def tiff(content: bytes, random: random.Random) -> bytes:
    """Fields of the first directory changed: tag, type, count or value; or where the directory lies."""
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None or len(content) < 16:
        return content
    changed = bytearray(content)
    (start,) = struct.unpack_from(order + "I", content, 4)
    if random.random() < 0.1 or start + 2 > len(content):
        struct.pack_into(order + "I", changed, 4, random.choice((*NUMBERS, start + 1, len(content) - 1)))
        return bytes(changed)
    (number,) = struct.unpack_from(order + "H", content, start)
    if random.random() < 0.1:
        struct.pack_into(order + "H", changed, start, random.choice(NUMBERS) % (1 << 16))
        return bytes(changed)
    at = start + 2 + 12 * random.randrange(max(1, number))
    if at + 12 <= len(changed):
        field, kind = random.choice(((0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "H")))
        own = (254, 256, 257, 258, 259, 262, 274, 277, 279, 284, 317, 322, 338, 339, 700, 34665, 34675)
        values = own if field == 0 else (*range(16), *NUMBERS, start, len(content))
        struct.pack_into(order + kind, changed, at + field, random.choice(values) % (1 << 8 * struct.calcsize(kind)))
    return bytes(changed)


def jpeg_exif(content: bytes, random: random.Random) -> bytes:
    """The EXIF of a JPEG, changed as a TIFF is."""
    segments, scan = jpeg_segments(content)
    for index, (marker, body) in enumerate(segments):
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            segments[index] = marker, body[:6] + random.choice((tiff, tiff, *BYTES))(body[6:], random)
    return jpeg_from(segments, scan)


FORMATS: dict[str, Sequence[Mutation]] = {
    "png": (png,),
    "jpg": (jpeg, jpeg, jpeg_exif),
    "webp": (webp,),
    "tif": (tiff,),
}
"""What knows the format, by the extension of a file."""


def mutate(content: bytes, extension: str, others: Sequence[bytes], random: random.Random) -> bytes:
    """A file with one to three damages."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        chance = random.random()
        if chance < 0.5 and extension in FORMATS:
            content = random.choice(FORMATS[extension])(content, random)
        elif chance < 0.95 or not others:
            content = random.choice(BYTES)(content, random)
        else:
            content = splice(content, random.choice(others), random)
    return content
