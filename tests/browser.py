"""Pages in a real browser, from a file and without a network."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

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
DARK = "--blink-settings=preferredColorScheme=0"
COLLECT = """<script>
window.found = {errors: [], requests: 0};
addEventListener("error", event => found.errors.push(event.message || "a resource: " + event.target.outerHTML), true);
addEventListener("unhandledrejection", event => found.errors.push(String(event.reason)));
addEventListener("securitypolicyviolation", event => found.errors.push(event.violatedDirective));
</script>"""
LOOK = """<script>
addEventListener("load", () => {
  found.requests = performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:")).length;
  found.width = [document.documentElement.scrollWidth, innerWidth];
  LOOK
  const told = document.createElement("pre");
  told.id = "found";
  told.textContent = JSON.stringify(found);
  document.body.append(told);
});
</script>"""


def need_chromium() -> None:
    """Skip the test where there is no browser; fail it where a change is judged."""
    if not CHROMIUM:
        reason = "Chromium is not installed: apt-get install chromium"
        if IN_CI:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def browse(page: Path, width: int, profile: Path, *flags: str) -> tuple[str, str]:
    """The page's elements after its scripts ran, and what the browser logged of the page."""
    command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={profile}", f"--window-size={width},1000", "--dump-dom",
               page.as_uri()]  # fmt: skip
    environment = {**os.environ, "HOME": str(profile)}
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    return run.stdout, "\n".join(line for line in run.stderr.splitlines() if "CONSOLE" in line)


def look(page: Path, tmp_path: Path, width: int, script: str, *flags: str) -> dict[str, Any]:
    """What a reader would see: the same page with a collector of errors before it and a script behind.

    Parameters
    ----------
    page
        The page; the watched copy is written beside it, so that its links lead to the same files.
    tmp_path
        For the browser's profile.
    width
        Of the window, in pixels.
    script
        JavaScript that runs when all is loaded and adds to the object ``found``, which holds ``errors``, ``requests``
        (that left the page) and ``width`` (of the content, of the window).
    """
    text = page.read_text("utf-8")
    head, rest = text.split("<title>", 1)  # those in the plots are tooltips
    watched = page.with_name(f"watched-{page.name}")
    tail = rest.replace("</body>", LOOK.replace("LOOK", script) + "</body>")
    watched.write_text(f"{head}{COLLECT}<title>{tail}", "utf-8")
    dom, console = browse(watched, width, tmp_path / "profile", *flags)
    assert console == ""
    found = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(html.unescape(found[1]))
    return content
