"""The record inside a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bfsr_edge import images
from bfsr_edge.restore.record import Record, parse, recipe_of, record_of

RECORD = Record("a" * 64, "b" * 64)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.heic"])
def test_the_record_comes_back(name: str, tmp_path: Path) -> None:
    if name == "a.heic":
        pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    pixels = np.zeros((64, 64, 3), np.uint8)
    images.write(tmp_path / name, pixels, metadata=images.Metadata(xmp=RECORD.packet()))
    assert record_of(tmp_path / name) == RECORD


def test_bmp_holds_none(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    images.write(tmp_path / "a.bmp", pixels, metadata=images.Metadata(xmp=RECORD.packet()))
    assert record_of(tmp_path / "a.bmp") is None


def test_a_packet_written_anew_by_an_editor_is_not_ours() -> None:
    packet = RECORD.packet()
    assert parse(packet) == RECORD
    edited = packet.replace(b"<rdf:Description", b'<rdf:Description xmlns:xmp="x" xmp:CreatorTool="Editor"')
    assert parse(edited) is None
    assert parse(b"") is None
    assert parse(b"\xff\xfe") is None


def test_a_recipe_changes_with_anything_in_it() -> None:
    recipes = {
        recipe_of("w", scale=4, tile=192),
        recipe_of("w", scale=2, tile=192),
        recipe_of("v", scale=4, tile=192),
        recipe_of("w", scale=4, tile=128),
    }
    assert len(recipes) == 4
    assert recipe_of("w", scale=4, tile=192) == recipe_of("w", tile=192, scale=4)


def test_no_file_has_no_record(tmp_path: Path) -> None:
    assert record_of(tmp_path / "a.png") is None
