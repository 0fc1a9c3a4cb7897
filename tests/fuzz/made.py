"""Inputs that hypothesis makes: pictures of odd kinds, EXIF, TOML and JSON."""

from __future__ import annotations

import functools
import io
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.fuzz import real

Value = TypeVar("Value")
ROOT = Path(__file__).resolve().parents[2]


def drawn(strategy: st.SearchStrategy[Value], seed: int, count: int) -> list[Value]:
    """So many values, the same for the same seed."""
    found: list[Value] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(value: Value) -> None:
        found.append(value)

    if count:
        collect()
    return found[:count]


# ---- pictures


@dataclass(frozen=True)
class Drawing:
    """A picture that Pillow is asked to write."""

    mode: str
    width: int
    height: int
    kind: str
    extension: str
    exif: bytes
    icc: bytes
    noise: bool

    @property
    def name(self) -> str:
        return f"{self.mode.replace(';', '')}-{self.width}x{self.height}-{self.kind}.{self.extension}".lower()

    def render(self) -> bytes:
        """The file, empty where Pillow does not write that mode in that format."""
        if self.noise:
            pixels = np.random.default_rng(self.width).integers(0, 256, (self.height, self.width, 3), dtype=np.uint8)
        else:
            pixels = np.resize(real.crop(), (self.height, self.width, 3))
        if self.mode.startswith("I;16"):
            image = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
        else:
            image = Image.fromarray(pixels).convert(self.mode)
        image.info.clear()  # a profile that converting made, with the time in it
        options: dict[str, Any] = {"exif": b"Exif\0\0" + self.exif} if self.exif else {}
        if self.icc:
            options["icc_profile"] = self.icc
        content = io.BytesIO()
        try:
            image.save(content, self.kind, **options)
        except (OSError, ValueError, KeyError, RuntimeError, struct.error):
            return b""
        return content.getvalue()


def exifs() -> st.SearchStrategy[bytes]:
    """EXIF with two directories of drawn fields, in either order, perhaps cut off; most are a little wrong."""
    tags = st.sampled_from((0x010F, 0x0112, 0x8769, 0x8825, 0xA002, 0xA003, 0xA005, 0x0201, 0x0202, 0x9286, 700))
    numbers = st.one_of(st.integers(0, 120), st.sampled_from((0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF)))
    fields = st.lists(st.tuples(tags, st.integers(0, 14), numbers, numbers), max_size=6)

    def build(order: str, first: Any, second: Any, at: int, after: int, claimed: int, cut: int) -> bytes:
        parts = [b"II*\0" if order == "<" else b"MM\0*", struct.pack(order + "I", at)]
        for entries, following in ((first, after), (second, 0)):
            parts.append(struct.pack(order + "H", (len(entries) + claimed) % 0x10000))
            parts += [struct.pack(order + "HHII", *entry) for entry in entries]
            parts.append(struct.pack(order + "I", following))
        content = b"".join(parts)
        return content[: len(content) - cut] if cut else content

    mostly_eight = st.one_of(st.just(8), st.just(8), st.just(8), numbers)
    claimed = st.one_of(st.just(0), st.just(0), st.sampled_from((1, 7, 0xFFFF)))
    cut = st.one_of(st.just(0), st.just(0), st.integers(1, 40))
    return st.builds(build, st.sampled_from("<>"), fields, fields, mostly_eight, numbers, claimed, cut)


def drawings() -> st.SearchStrategy[Drawing]:
    """Every mode of Pillow in every format that we read, and under a wrong extension."""
    sides = st.one_of(st.integers(1, 70), st.sampled_from((1, 2, 128, 129, 400)))
    sizes = st.one_of(st.tuples(sides, sides), st.sampled_from(((1, 1), (1, 20_000), (20_000, 1), (16_384, 2))))
    kinds = st.sampled_from((("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif"), ("BMP", "bmp")))
    wrong = st.one_of(st.none(), st.none(), st.none(), st.sampled_from(("jpg", "png", "webp", "tif", "bmp", "heic")))
    modes = st.sampled_from(("1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F"))
    deep = st.one_of(modes, modes, modes, st.just("I;16"))
    described = st.one_of(st.just(b""), exifs())
    profiles = st.one_of(st.just(b""), st.just(real.profile()), st.binary(max_size=200))

    def build(mode: str, size: tuple[int, int], kind: tuple[str, str], other: str | None, *rest: Any) -> Drawing:
        return Drawing(mode, *size, kind[0], other or kind[1], *rest)

    return st.builds(build, deep, sizes, kinds, wrong, described, profiles, st.booleans())


# ---- TOML and JSON

SCALARS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from((0, -1, 1 << 31, 1 << 63, -(1 << 63), 10**30)),
    st.floats(),
    st.booleans(),
    st.text(max_size=8),
    st.sampled_from(("", "l1", "fp16", "int8", "max", "psnr", "adam", "../../x", "\0", "é" * 30)),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner)),
    max_leaves=6,
)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)  # inf and nan are TOML too
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value) if isinstance(value, int) else json.dumps(value)


EXTREMES = (
    "a = " + "[" * 100_000,
    "a = " + "{b=" * 20_000,
    "a = " + "9" * 5000,
    "a = 1979-99-99",
    "a." * 5000 + "a = 1",
)


def tomls(stage: str, keys: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Documents of a stage: its own files damaged, its keys with drawn values, and what parsers stumble over."""
    own = [path.read_bytes() for path in sorted((ROOT / stage).glob("*.toml"))]
    names = st.one_of(st.sampled_from(sorted(keys)), st.text(st.characters(categories=["L"]), min_size=1, max_size=5))

    def document(table: dict[str, Any]) -> bytes:
        lines = []
        for name, value in table.items():
            known = keys.get(name)
            if isinstance(known, dict) and known:  # a table of settings
                value = dict.fromkeys(list(known)[:2], value)
            lines.append(f"{json.dumps(name)} = {_toml(value)}")
        return "\n".join(lines).encode("utf-8", "surrogatepass")

    def damaged(content: bytes, at: int, put: bytes) -> bytes:
        at %= len(content) + 1
        return content[:at] + put + content[at + len(put) :]

    return st.one_of(
        st.dictionaries(names, VALUES, min_size=1, max_size=4).map(document),
        st.builds(damaged, st.sampled_from(own or [b""]), st.integers(0, 1 << 16), st.binary(min_size=1, max_size=4)),
        st.sampled_from([text.encode() for text in EXTREMES]),
        st.binary(max_size=60),
    )


def jsons(whole: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """A whole document with keys lost, added or of another type; and what parsers stumble over."""

    def changed(dropped: set[str], other: dict[str, Any]) -> bytes:
        return json.dumps({key: value for key, value in {**whole, **other}.items() if key not in dropped}).encode()

    deep = [b"[" * 200_000, b'{"a":' * 100_000, b"9" * 5000, b'{"version": 1e999}', b"[NaN]", b"null", b"\xff\xfe"]
    return st.one_of(
        st.builds(
            changed,
            st.sets(st.sampled_from(sorted(whole)), max_size=1),
            st.dictionaries(st.sampled_from(sorted(whole)), VALUES, max_size=2),
        ),
        st.builds(changed, st.just(set()), st.dictionaries(st.sampled_from(sorted(whole)), VALUES, max_size=1)),
        st.sampled_from(deep),
        st.binary(max_size=60),
    )


@functools.cache
def keys_of(stage: str) -> dict[str, Any]:
    """The keys that a stage's TOML may hold; a table's are a table."""
    import dataclasses

    settings: Callable[[], Any]
    if stage == "train":
        from bfsr_edge.train.recipe import Recipe as settings
    elif stage == "calibrate":
        from bfsr_edge.calibrate.plan import Plan as settings
    elif stage == "engines":
        from bfsr_edge.engines.profile import Profile

        return {field.name: field.default for field in dataclasses.fields(Profile)}
    else:
        from bfsr_edge.benchmarks.suite import Suite as settings
    return dataclasses.asdict(settings())
