"""The report in a real browser, from a file and without a network: no script errors, every plot seen, tables sort."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bfsr_edge.benchmarks import report
from bfsr_edge.benchmarks.plots import PLOTS
from tests.benchmarks.report_run import ENGINES, make
from tests.conftest import IN_CI

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--enable-logging=stderr", "--v=0",
    "--disable-dev-shm-usage",
)  # fmt: skip
COLLECT = """<script>
window.found = {errors: [], requests: 0};
addEventListener("error", event => found.errors.push(event.message || "a resource: " + event.target.outerHTML), true);
addEventListener("unhandledrejection", event => found.errors.push(String(event.reason)));
addEventListener("securitypolicyviolation", event => found.errors.push(event.violatedDirective));
</script>"""
LOOK = """<script>
addEventListener("load", () => {
  const size = element => { const box = element.getBoundingClientRect(); return [box.width, box.height]; };
  found.requests = performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:")).length;
  found.plots = Object.fromEntries([...document.querySelectorAll("figure[id^=plot-]")].map(figure => [figure.id,
    [...figure.querySelectorAll("svg")].map(size).filter(([width, height]) => width > 0 && height > 0)]));
  found.clipped = [...document.querySelectorAll("svg text")].filter(text => {
    const [inner, outer] = [text.getBoundingClientRect(), text.closest("svg").getBoundingClientRect()];
    return inner.width && (inner.left < outer.left - 1 || inner.right > outer.right + 1);
  }).map(text => text.textContent);
  found.pictures = [...document.querySelectorAll(".quad img")].map(image => image.naturalWidth);
  found.width = [document.documentElement.scrollWidth, innerWidth];
  const names = () => [...document.querySelectorAll("#table-latency tbody tr")].map(row => row.cells[0].textContent);
  const buttons = document.querySelectorAll("#table-latency thead button");
  buttons[2].click();
  found.rising = names();
  buttons[2].click();
  found.falling = names();
  const told = document.createElement("pre");
  told.id = "found";
  told.textContent = JSON.stringify(found);
  document.body.append(told);
});
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not CHROMIUM:
        reason = "Chromium is not installed: apt-get install chromium"
        if IN_CI:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return report.write(make(tmp_path_factory.mktemp("run")))


def browse(page: Path, width: int, profile: Path, *flags: str) -> tuple[str, str]:
    """The page's elements after its scripts ran, and what the browser logged of the page."""
    command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={profile}", f"--window-size={width},1000", "--dump-dom",
               page.as_uri()]  # fmt: skip
    environment = {**os.environ, "HOME": str(profile)}
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    return run.stdout, "\n".join(line for line in run.stderr.splitlines() if "CONSOLE" in line)


def look(page: Path, tmp_path: Path, width: int, *flags: str) -> dict[str, Any]:
    """What a reader would see: the same page with a collector of errors before it and a look at it behind."""
    text = page.read_text("utf-8")
    head, rest = text.split("<title>", 1)  # those in the plots are tooltips
    watched = tmp_path / "watched.html"
    watched.write_text(f"{head}{COLLECT}<title>{rest.replace('</body>', f'{LOOK}</body>')}", "utf-8")
    dom, console = browse(watched, width, tmp_path / "profile", *flags)
    assert console == ""
    found = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    return content


@pytest.mark.parametrize(
    ("width", "flags"), [(1200, ()), (500, ()), (1200, ("--blink-settings=preferredColorScheme=0",))],
    ids=["desk", "phone", "dark"],
)  # fmt: skip
def test_opens_without_errors(page: Path, tmp_path: Path, width: int, flags: tuple[str, ...]) -> None:
    found = look(page, tmp_path, width, *flags)
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
    found = look(page, tmp_path, 1200)
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
        look(broken, tmp_path, 1200)
