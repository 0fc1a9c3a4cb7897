"""The report in a real browser, from a file and without a network: no script errors, every plot seen, tables sort."""

from __future__ import annotations

from pathlib import Path

import pytest

from bfsr_edge.benchmarks import report
from bfsr_edge.benchmarks.plots import PLOTS
from tests.benchmarks.report_run import ENGINES, make
from tests.browser import DARK, browse, look, need_chromium

LOOK = """
  const size = element => { const box = element.getBoundingClientRect(); return [box.width, box.height]; };
  found.plots = Object.fromEntries([...document.querySelectorAll("figure[id^=plot-]")].map(figure => [figure.id,
    [...figure.querySelectorAll("svg")].map(size).filter(([width, height]) => width > 0 && height > 0)]));
  found.clipped = [...document.querySelectorAll("svg text")].filter(text => {
    const [inner, outer] = [text.getBoundingClientRect(), text.closest("svg").getBoundingClientRect()];
    return inner.width && (inner.left < outer.left - 1 || inner.right > outer.right + 1);
  }).map(text => text.textContent);
  found.pictures = [...document.querySelectorAll(".quad img")].map(image => image.naturalWidth);
  const names = () => [...document.querySelectorAll("#table-latency tbody tr")].map(row => row.cells[0].textContent);
  const buttons = document.querySelectorAll("#table-latency thead button");
  buttons[2].click();
  found.rising = names();
  buttons[2].click();
  found.falling = names();
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_chromium()
    return report.write(make(tmp_path_factory.mktemp("run")))


@pytest.mark.parametrize(
    ("width", "flags"), [(1200, ()), (500, ()), (1200, (DARK,))],
    ids=["desk", "phone", "dark"],
)  # fmt: skip
def test_opens_without_errors(page: Path, tmp_path: Path, width: int, flags: tuple[str, ...]) -> None:
    found = look(page, tmp_path, width, LOOK, *flags)
    assert found["errors"] == []
    assert found["requests"] == 0
    assert set(found["plots"]) == {f"plot-{plot.name}" for plot in PLOTS}
    for name, sizes in found["plots"].items():
        ((shown, high),) = sizes  # the other one is for another width
        assert shown > 0.7 * min(width, 980), name
        assert high > 100, name
    assert found["clipped"] == []
    assert found["pictures"] == [128, 512, 512, 512] * 3
    assert found["width"][0] <= found["width"][1]  # only tables scroll sideways


def test_tables_sort_and_keep_the_unmeasured_last(page: Path, tmp_path: Path) -> None:
    found = look(page, tmp_path, 1200, LOOK)
    expected = [engine[0] for engine in sorted(ENGINES, key=lambda engine: engine[6])]
    assert found["rising"] == [*expected, "edge-fp16-tensorrt"]
    assert found["falling"] == [*reversed(expected), "edge-fp16-tensorrt"]


def test_the_page_itself_logs_nothing(page: Path, tmp_path: Path) -> None:
    dom, console = browse(page, 1200, tmp_path)
    assert "plot-pareto" in dom
    assert console == ""


def test_a_broken_page_is_noticed(page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    text = page.read_text("utf-8").replace('"use strict";', 'document.nothing.here; "use strict";')
    broken.write_text(text.replace("</body>", '<img src="gallery/no.png"/></body>'), "utf-8")
    with pytest.raises(AssertionError):
        look(broken, tmp_path, 1200, LOOK)
