"""Charts for the script of a page: their numbers as JSON, and the script and style that every page carries."""

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from gptlab.report.chart import Chart
from gptlab.runs.history import Floats

UPLOT, OWN = "uplot", "browser"
"""The folders of the chart library, as its authors publish it, and of what gptlab adds."""
PARTS = ("numbers.js", "plot.js", "page.js")


def payload(chart: Chart) -> str:
    """Write a thinned chart as JSON that may stand inside a script element.

    Columns are base64 of little-endian float32: a third of the letters of decimal numbers, and quick to read.
    """
    axes = chart.axes
    curves: list[dict[str, Any]] = []
    for curve in chart.curves:
        against = {chart.x_label: curve.x, **curve.also}
        curves.append(
            {"run": curve.run, "style": curve.style, "label": curve.label}
            | {"x": [_column(against[name]) for name in axes], "y": _column(curve.y)}
            | ({"low": _column(curve.low)} if curve.low is not None else {})
            | ({"high": _column(curve.high)} if curve.high is not None else {})
        )
    said = {
        "axes": axes,
        "frame": [chart.low, chart.high],
        "log": [chart.x_scale == "log", False],
        "references": [[label, value] for label, value in chart.references],
        "front": chart.front,
        "curves": curves,
    }
    return json.dumps(said, separators=(",", ":")).replace("<", "\\u003c")


def _column(values: Floats) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode()


@cache
def script() -> str:
    """Return the script of a page: uPlot, with its licence, and what makes pictures of payloads."""
    licence, uplot = _read(f"{UPLOT}/LICENSE"), _read(f"{UPLOT}/uPlot.iife.min.js")
    own = "\n".join(_read(f"{OWN}/{part}") for part in PARTS)
    return f'/*\n{licence}*/\n{uplot}\n(() => {{\n"use strict";\n{own}}})();\n'


@cache
def style() -> str:
    """Return the style sheet of a page, without its colours."""
    return _read(f"{UPLOT}/uPlot.min.css") + "\n" + _read(f"{OWN}/page.css")


@cache
def script_hash() -> str:
    """Return how a Content-Security-Policy names the page's script, so that no other script may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()


def _read(name: str) -> str:
    return files("gptlab.report").joinpath(name).read_text(encoding="utf-8")
