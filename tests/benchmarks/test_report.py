"""The report from run folders: every engine and plot is there, nothing but the data is told, files stand alone."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest

from bfsr_edge.benchmarks import report
from bfsr_edge.benchmarks.plots import PLOTS
from bfsr_edge.benchmarks.report_data import View, labels, milliseconds
from bfsr_edge.benchmarks.report_parts import NARROW, WIDE
from bfsr_edge.benchmarks.report_speed import front
from bfsr_edge.benchmarks.report_svg import Axis, Box, Canvas, place_labels, spread
from bfsr_edge.benchmarks.results import EngineRow, ImageRow, LatencyRow, Run
from bfsr_edge.errors import UsageError
from tests.benchmarks.helpers import save_run
from tests.benchmarks.report_run import ENGINES, SKIPPED, make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("run") / "made up")


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return report.write(folder).read_text("utf-8")


@pytest.fixture(scope="module")
def view(folder: Path) -> View:
    return View.of(folder, Run.load(folder))


def parsed(page: str) -> ElementTree.Element:
    """The page as XML: every element is closed and every attribute quoted. The script's text is left out."""
    markup = page.removeprefix("<!DOCTYPE html>")
    return ElementTree.fromstring(re.sub(r"<script>.*?</script>", "", markup, flags=re.DOTALL))


def part(page: str, start: str, end: str) -> str:
    """The text between two marks."""
    return page[page.index(start) : page.index(end, page.index(start))]


def saved(folder: Path, *engines: EngineRow, **tables: object) -> Path:
    """A run folder with these engines."""
    run = dataclasses.replace(Run(machine={"cpu": {"name": "a CPU"}}, engines=engines), **tables)  # type: ignore[arg-type]
    save_run(run, folder)
    return folder


# ---- the page


def test_writes_both_and_leaves_nothing_else(folder: Path, page: str) -> None:
    assert page
    assert {path.name for path in folder.iterdir()} == {
        "machine.json", "engines.csv", "images.csv", "latency.csv", "throughput.csv", "sizes.csv", "layers.csv",
        "curves", "gallery", "report.md", "report.html",
    }  # fmt: skip


def test_same_run_same_page(folder: Path, page: str) -> None:
    assert report.write(folder).read_text("utf-8") == page


def test_every_engine_appears(folder: Path, page: str) -> None:
    for text in (page, (folder / "report.md").read_text("utf-8")):
        for id_ in [*(engine[0] for engine in ENGINES), SKIPPED[0]]:
            assert id_ in text


def test_is_well_formed(page: str) -> None:
    body = parsed(page).find("body")
    assert body is not None
    ids = [element.get("id") for element in body.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    links = {element.get("href", "") for element in body.iter("a")}
    assert {link[1:] for link in links} <= set(ids)


def test_every_plot_is_drawn_twice(page: str) -> None:
    figures = {figure.get("id"): figure for figure in parsed(page).iter("figure")}
    for plot in PLOTS:
        drawn = list(figures[f"plot-{plot.name}"].iter("svg"))
        assert [float(svg.get("viewBox", "").split()[2]) for svg in drawn] == [WIDE, NARROW]
        for svg in drawn:
            assert len(list(svg.iter("text"))) > 5
            assert sum(1 for tag in ("path", "circle", "rect") for _ in svg.iter(tag)) >= 4


def test_coordinates_are_numbers_inside_the_plot(page: str) -> None:
    numeric = ("x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "width", "height")
    for svg in parsed(page).iter("svg"):
        width = float(svg.get("viewBox", "").split()[2])
        for element in svg.iter():
            for name in numeric:
                if value := element.get(name):
                    assert -1 <= float(value) < 3000  # float() takes "nan"; the comparison does not
            if path := element.get("d"):
                assert re.fullmatch(r"M-?[\d.]+ -?[\d.]+(L-?[\d.]+ -?[\d.]+)*Z?", path)
            if element.tag == "text" and not element.get("text-anchor"):
                assert float(element.get("x", "nan")) <= width


def test_refers_to_nothing_outside(page: str) -> None:
    without_pictures = re.sub(r"base64,[\w+/=]+", "", page)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", without_pictures)
    root = parsed(page)
    sources = [element.get("src") for element in root.iter() if element.get("src")]
    assert len(sources) == 4 * 3
    assert all(source and source.startswith("data:image/png;base64,") for source in sources)
    assert not list(root.iter("link"))
    assert "default-src 'none'" in page


def test_headline_is_what_the_data_say(page: str) -> None:
    headline = part(page, 'id="headline"', "</section>")
    assert ">29.09 <small>dB" in headline
    assert ">9.0 <small>ms" in headline
    assert "132×" in headline  # 1190 / 9.04, from the ratios
    assert "2,423×" in headline
    assert "on the same 8 pictures" in headline


def test_machine_versions_and_date_stand_at_the_top(page: str) -> None:
    top = part(page, "<header>", "</header>")
    for text in ("AMD EPYC (made up)", "2026-11-22 16:00:00<", "openvino 2026.4.1", "bfsr-edge benchmark --full"):
        assert text in top


def test_what_was_not_measured_leads_to_its_reason(folder: Path, page: str) -> None:
    row = next(row for row in parsed(page).iter("tr") if SKIPPED[0] in "".join(row.itertext()))
    (link,) = {element.get("href") for element in row.iter("a")}
    (note,) = [item for item in parsed(page).iter("li") if f"#{item.get('id')}" == link]
    assert note.text == SKIPPED[1]
    markdown = (folder / "report.md").read_text("utf-8")
    assert f"{link.rpartition('-')[2] if link else ''}. {SKIPPED[1]}" in markdown


def test_fp32_has_no_drop_rather_than_an_unmeasured_one(page: str) -> None:
    accuracy = part(page, 'id="table-accuracy"', "</table>")
    row = next(line for line in accuracy.splitlines() if "edge-fp32-openvino" in line)
    assert row.count("n/a") == 3
    assert "#note" not in row


def test_caveats(page: str) -> None:
    caveats = part(page, 'id="caveats"', "</section>")
    assert "TensorRT: not run here." in caveats
    assert "Jetson: not run here." in caveats
    assert "realesrgan-x4plus FP32 (8)" in caveats
    assert "Perceptual figure: not measured." in caveats
    assert caveats.count("latency varied by more than 2 %") == 1
    assert "not complete" not in caveats


def test_columns_that_nothing_has_are_named_with_the_reason(page: str) -> None:
    cost = part(page, 'id="table-cost"', "</div></div>")
    assert "Not measured for any engine: device memory, MB; energy, J (no sensor that can be read)." in page
    assert "device memory" not in part(cost, "<thead>", "</thead>")


def test_gallery_shows_four_pictures_with_captions(folder: Path, page: str) -> None:
    gallery = part(page, 'id="gallery"', "</section>")
    assert gallery.count("<img ") == 12
    for caption in ("input", "FP32, 27.40 dB", "INT8, 27.36 dB", "difference ×8"):
        assert caption in gallery
    assert "gallery/01-diff8.png" in (folder / "report.md").read_text("utf-8")


def test_markdown_tables_are_rectangular(folder: Path, page: str) -> None:
    assert page
    tables = re.findall(r"(?:^\|.*\|\n)+", (folder / "report.md").read_text("utf-8"), re.MULTILINE)
    assert len(tables) >= 8
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


# ---- runs that lack something


def test_empty_run(tmp_path: Path) -> None:
    page = report.write(saved(tmp_path)).read_text("utf-8")
    parsed(page)
    assert page.count("Not measured: ") == len(PLOTS)
    assert "No engine of ours was both timed and scored" in page
    assert "No gallery" in page
    assert "This run is not complete" in page
    assert (tmp_path / "report.md").read_text("utf-8").count(": not measured. ") == len(PLOTS)


def test_one_engine_and_nothing_else(tmp_path: Path) -> None:
    engine = EngineRow("mine", "ours", "mine", latency_median_ms=3.0, psnr_mean=28.0)
    page = report.write(saved(tmp_path, engine)).read_text("utf-8")
    parsed(page)
    assert page.count("Not measured: ") == len(PLOTS) - 2  # the two of latency
    assert ">3.0 <small>ms" in page


def test_nan_counts_as_not_measured(tmp_path: Path) -> None:
    engine = EngineRow(
        "e", "ours", "edge", "int8", latency_median_ms=float("nan"), psnr_mean=float("inf"), note="broke"
    )
    images = (ImageRow("e", "a.png", float("nan"), 0.5, 0.1), ImageRow("e", "b.png", 28.0, 0.5, 0.2))
    latency = (LatencyRow("e", 0, float("nan")), LatencyRow("e", 0, 3.0), LatencyRow("e", 1, 3.1))
    page = report.write(saved(tmp_path, engine, images=images, latency=latency)).read_text("utf-8")
    assert not re.search(r"\b(nan|inf)\b", page)
    assert "1 of 1; images.csv" in page


def test_text_from_files_is_text(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script> $machine | _x_'
    engine = EngineRow(evil, "peer", evil, "fp32", evil, note=evil, latency_median_ms=3.0, psnr_mean=28.0)
    page = report.write(saved(tmp_path, engine)).read_text("utf-8")
    parsed(page)
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; $machine" in page
    markdown = (tmp_path / "report.md").read_text("utf-8")
    assert "<script>" not in markdown.replace("\\<", "")


def test_unmeasurable_tensorrt_is_only_told_where_it_did_not_run(tmp_path: Path) -> None:
    engine = EngineRow("e", "ours", "edge", "fp16", "tensorrt", latency_median_ms=1.0)
    page = report.write(saved(tmp_path, engine)).read_text("utf-8")
    assert "TensorRT: not run here" not in page


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder of a benchmark run"):
        report.write(tmp_path)
    assert not list(tmp_path.iterdir())


# ---- parts


def test_front_holds_what_nothing_beats() -> None:
    assert front([(5, 28.0), (1, 27.0), (3, 29.0), (4, 29.0), (1, 26.0)]) == [(1, 27.0), (3, 29.0)]


def test_labels_are_as_short_as_they_can_be() -> None:
    rows = [
        EngineRow("a", "ours", "edge", "fp16+int8", "openvino"),
        EngineRow("b", "ours", "edge", "fp32", "openvino"),
        EngineRow("c", "ours", "edge", "fp32", "torch"),
        EngineRow("d", "ours", "srresnet", "fp32", "torch"),
        EngineRow("e", "ours", "srresnet", "fp32", "torch"),
        EngineRow("f", "baseline", "bicubic", "uint8", "opencv"),
    ]
    assert labels(rows) == {
        "a": "edge INT8", "b": "edge FP32 OpenVINO", "c": "edge FP32 PyTorch", "d": "d", "e": "e", "f": "bicubic",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.524, "0.52 ms"),
        (9.04, "9.0 ms"),
        (99.94, "99.9 ms"),
        (99.96, "100 ms"),
        (1187.0, "1.19 s"),
        (21900, "21.9 s"),
    ],
)
def test_times_have_their_units(value: float, text: str) -> None:
    assert milliseconds(value) == text


@pytest.mark.parametrize(
    ("axis", "count"),
    [(Axis(0.4, 30000, 0, 1, log=True), 6), (Axis(400, 850, 0, 1, log=True), 6), (Axis(-0.003, 0.06, 0, 1), 6),
     (Axis(27.0, 29.8, 0, 1), 8)],
)  # fmt: skip
def test_ticks_are_inside_and_not_too_many(axis: Axis, count: int) -> None:
    ticks = axis.ticks(count)
    assert 3 <= len(ticks) <= count + 2
    assert all(axis.low * 0.999 <= tick <= axis.high * 1.001 for tick in ticks if tick)


def test_canvas_refuses_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="nan"):
        Canvas(10, 10, "a plot").circle(float("nan"), 1, 1, "f0")


def test_labels_do_not_lie_on_each_other() -> None:
    canvas = Canvas(400, 300, "a plot")
    points = [(100.0 + 14 * place, 150.0, f"engine {place}", "soft") for place in range(6)]
    place_labels(canvas, Box(0, 0, 400, 300), points)
    texts = [shape for shape in canvas.shapes if shape.startswith("<text")]
    places = [[float(value) for value in re.findall(r'[xy]="([\d.]+)"', text)] for text in texts]
    boxes = [Box(x, y - 11, 45, 12) for x, y in places]
    assert len(boxes) == 6
    assert not any(a.overlap(b) for at, a in enumerate(boxes) for b in boxes[:at])


def test_spread_keeps_order_and_distance() -> None:
    placed = spread([10, 11, 12, 80], 16, 0, 100)
    assert placed[:3] == sorted(placed[:3])
    assert all(b - a >= 15.9 for a, b in pairwise(placed))
    assert placed[3] == 80


def test_a_picture_that_is_missing_leaves_its_row_out(folder: Path, tmp_path: Path, view: View) -> None:
    assert len(view.gallery) == 3
    run = Run.load(folder)
    (tmp_path / "gallery").mkdir()
    assert not View.of(tmp_path, run).gallery
