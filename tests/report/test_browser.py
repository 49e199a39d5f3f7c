"""Pages in headless Chromium: their script runs, and a page of twelve long runs is small and opens at once."""

import os
import re
import shutil
import subprocess
import time
from html import escape

import numpy as np
import pytest

from gptlab.report.chart import FLOPS, TIME, Chart, Curve
from gptlab.report.page import (
    commands,
    details,
    figure,
    heading,
    page,
    pair,
    paragraph,
    samples,
    table,
    tiles,
)
from gptlab.report.picture import draw

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update"),
)
SETTLED = ("--dump-dom", "--virtual-time-budget=3000")
"""Prints the page once its pictures are made, which happens when they come near the screen."""
RUNS, STEPS, TOKENS = 12, 20_000, 524_288

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def opened(folder, html, *flags):
    """Open a page; return what Chromium prints, and the seconds that took."""
    folder.mkdir(exist_ok=True)
    (folder / "index.html").write_text(html, encoding="utf-8")
    words = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}"]
    began = time.monotonic()
    done = subprocess.run(
        [*words, (folder / "index.html").as_uri()], capture_output=True, text=True, timeout=240, check=True
    )
    return done.stdout, time.monotonic() - began


def charts():
    """The charts of a report of long runs: loss, learning rate, throughput."""
    x = TOKENS * np.arange(1.0, STEPS + 1)
    curves = {"loss": [], "rate": [], "speed": []}
    for run in range(RUNS):
        noise = np.random.default_rng(run).normal(size=STEPS)
        also = {FLOPS: 8e8 * x, TIME: x / 1e6}
        y = 3 + 7 * np.exp(-np.arange(STEPS) / 900) + 0.05 * noise
        curves["loss"] += [
            Curve(run, x, y, "faint", also=also),
            Curve(run, x, y, label=f"run {run}", also=also),
            Curve(run, x[::250], y[::250], "points", also={name: each[::250] for name, each in also.items()}),
        ]
        curves["rate"].append(Curve(run, x, y, label=f"run {run}", also=also))
        curves["speed"] += [
            Curve(run, x, noise, "faint", also=also),
            Curve(run, x, y, label=f"run {run}", also=also),
        ]
    return [Chart(name, name, "Caption.", of) for name, of in curves.items()]


def test_the_script_makes_pictures_under_its_policy(tmp_path):
    x = np.linspace(1, 1e6, 30)
    curves = [Curve(0, x, x, label="first: 1"), Curve(1, x, x, "points", "second", low=x / 2, high=2 * x)]
    html = page("title", "lead", {"Loss": figure(draw(Chart("name", "title", "", curves, front=True)))})
    told, _ = opened(tmp_path / "page", html, *SETTLED)
    assert told.count("<canvas") == 1
    assert len(re.findall(r"<button[^>]*aria-pressed", told)) == 6, "two scales and two groups"
    refused, _ = opened(tmp_path / "other", html.replace('"use strict";', '"use strict" ;'), *SETTLED)
    assert "<canvas" not in refused, "a script of anybody else does not run"


def test_nothing_is_wider_than_a_phone(tmp_path):
    """In a frame of 390 pixels, as a window of Chromium may have no less than 500."""
    word, x = "W" * 40, np.linspace(1, 1e6, 30)
    chart = Chart("name", word, word, [Curve(0, x, x, label=word)], [(word, 5e5)])
    content = figure(draw(chart)) + table([word] * 9, [[word] * 9]) + tiles([(word, word, word)])
    content += pair(figure(draw(chart))) + paragraph(word, "note") + commands([word]) + heading(word)
    content += samples([{"prompt": word, "text": word}]) + details(word, table([word] * 9, [[word] * 9]))
    html = escape(page(word, word, {word: content}, answer=word).replace("<details", "<details open"))
    for scripts in ("", "allow-scripts"):
        frame = f'<iframe sandbox="allow-same-origin {scripts}" width="390" height="9000" srcdoc="{html}"></iframe>'
        tell = """const {documentElement: root, images} = document.querySelector('iframe').contentDocument;
            document.title = `${root.scrollWidth} pixels, ${images.length} images`"""
        outer = f"<!doctype html><body>{frame}<script>setTimeout(() => {{ {tell} }}, 2000)</script>"
        told, _ = opened(tmp_path / f"page{scripts}", outer, *SETTLED)
        assert re.search("<title>(.*?)</title>", told)[1] == f"390 pixels, {0 if scripts else 2} images"


@pytest.mark.slow
def test_twelve_long_runs_are_under_three_megabytes_and_open_in_a_second(tmp_path):
    html = page("title", "lead", {"Loss": "".join(figure(draw(chart)) for chart in charts())})
    assert len(html.encode()) < 3e6
    if os.getloadavg()[0] > 0.75 * (os.cpu_count() or 1):
        pytest.skip("the machine is too busy to time a browser")
    shot = f"--screenshot={tmp_path / 'shot.png'}"
    blank = min(opened(tmp_path / "blank", "<!doctype html>", shot)[1] for _ in range(3))
    whole = min(opened(tmp_path / "whole", html, shot)[1] for _ in range(3))
    assert whole - blank < 1.0
