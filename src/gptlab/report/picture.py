"""Charts drawn as PNG, with matplotlib: for papers, and for readers of a page without JavaScript."""

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptlab.amounts import amount
from gptlab.report.chart import TIME, Chart, front
from gptlab.report.theme import LIGHT

LEGEND_LETTERS = 110  # so many fit on a line of a picture's legend
LABEL_GAP = 0.04  # between the labels of two lines across a picture, as a share of its height
PAPER_DPI, SMALL_DPI = 200, 96
PIXELS = 1600  # across a picture for papers
DASHES = ("-", "--", ":", "-.")
LINES: dict[str, dict[str, Any]] = {
    "line": {"lw": 1.1},
    "faint": {"lw": 0.5, "alpha": 0.2, "zorder": 1},
    "points": {"lw": 0, "marker": "o", "ms": 2.6},
    "line and points": {"lw": 1.0, "marker": "o", "ms": 2.6},
    "steps": {"lw": 1.1, "drawstyle": "steps-post"},
    "bars": {"lw": 0.8, "drawstyle": "steps-post"},
}


@dataclass(frozen=True)
class Picture:
    """A chart with its PNGs; empty where they were not drawn."""

    chart: Chart
    light: bytes
    """For papers, 1600 x 840 pixels on white."""
    small: bytes
    """For readers of a page without JavaScript: transparent, as the page colours it for dark screens."""


def draw(chart: Chart, *, pictures: bool = True) -> Picture:
    """Draw a chart; without `pictures` it is for the page alone, which is much quicker."""
    return Picture(chart, *_pngs(chart)) if pictures else Picture(chart, b"", b"")


def _pngs(chart: Chart) -> tuple[bytes, bytes]:
    # Imported here, as it takes longer than reading the runs. Figure itself and not pyplot, which keeps
    # every figure in a global list and may ask for a display.
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    theme = LIGHT
    paper = Figure(figsize=(8, 4.2), facecolor=theme.paper, layout="constrained")
    axes = paper.add_subplot(facecolor=theme.paper)
    for curve in (each.thinned(PIXELS) for each in chart.curves):
        colour = theme.curves[curve.run % len(theme.curves)]
        dash = DASHES[curve.run // len(theme.curves) % len(DASHES)]
        axes.plot(curve.x, curve.y, color=colour, ls=dash, **LINES[curve.style])
        if curve.band is not None:
            axes.fill_between(curve.x, *curve.band, color=colour, alpha=0.14, lw=0)
            if len(curve.x) == 1:  # over which a band has no width
                axes.vlines(curve.x, *curve.band, color=colour, lw=1)
        if curve.style == "bars":
            axes.fill_between(curve.x, curve.y, step="post", color=colour, alpha=0.22, lw=0)
    named = [(line, curve.label) for line, curve in zip(axes.lines, chart.curves, strict=True) if curve.label]
    if chart.front and chart.curves:
        x, y = (np.concatenate([getattr(curve, name) for curve in chart.curves]) for name in "xy")
        best = front(x, y)
        axes.plot(x[best], y[best], color=theme.faint, lw=0.9, drawstyle="steps-post", zorder=1)
    for _, value in chart.references:
        axes.axhline(value, color=theme.faint, lw=0.8, ls=(0, (5, 4)))
    if named:
        legend = paper.legend(
            [line for line, _ in named],
            [label for _, label in named],
            loc="outside upper left",
            ncols=max(1, LEGEND_LETTERS // max(len(label) + 6 for _, label in named)),
            frameon=False,
            fontsize=8,
            labelcolor=theme.ink,
            handlelength=1.4,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    axes.set_title(chart.title, loc="left", fontsize=8.5, color=theme.faint)
    unit = ", seconds" if chart.x_label == TIME else ""
    axes.set_xlabel(chart.x_label + unit, loc="right", fontsize=8.5, color=theme.faint)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.rule)
    axes.grid(axis="y", color=theme.rule, lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelsize=8, labelcolor=theme.faint, pad=5)
    if chart.x_scale == "log":
        axes.set_xscale("log")
        axes.margins(x=0.008)
    else:
        right = max((float(curve.x.max()) for curve in chart.curves if len(curve.x)), default=0.0) or 1.0
        axes.set_xlim(-0.008 * right, 1.008 * right)
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.yaxis.set_major_formatter(FuncFormatter(_tick))
    axes.set_ylim(chart.low, chart.high)
    low, high = axes.get_ylim()
    place = -math.inf
    for label, value in sorted(chart.references, key=lambda reference: reference[1]):
        # Above its line, where another label stands next to it.
        place = max(value, place + LABEL_GAP * (high - low))
        beside = axes.get_yaxis_transform()
        axes.text(1.006, place, label, transform=beside, va="center", fontsize=7.5, color=theme.faint)
    return _saved(paper, PAPER_DPI), _saved(paper, SMALL_DPI, transparent=True)


def _saved(paper: Any, dpi: int, *, transparent: bool = False) -> bytes:
    memory = io.BytesIO()
    paper.savefig(memory, format="png", dpi=dpi, transparent=transparent, metadata={"Software": None})
    return memory.getvalue()


def _tick(value: float, _position: int) -> str:
    return amount(value)
