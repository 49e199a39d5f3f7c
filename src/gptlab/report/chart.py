"""A chart: numbers without ink, from which a PNG and the interactive picture of a page are drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from gptlab.runs.history import Floats

TOKENS, FLOPS, TIME = "training tokens", "training FLOPs", "training time"
"""Names of x axes; TIME is in seconds."""
BUCKETS = 500
"""A curve on a page has at most twice as many points."""

LineName = Literal["line", "faint", "points", "line and points", "steps", "bars"]
Scale = Literal["linear", "log"]


@dataclass(frozen=True)
class Curve:
    """A curve of a chart."""

    run: int
    """Its group, from 0, hidden and shown together; groups a multiple of the number of colours apart share one."""
    x: Floats
    """Against the chart's first axis, ascending."""
    y: Floats
    style: LineName = "line"
    label: str = ""
    """Its entry in the legend, `name: what else there is to say`; without a label it has none."""
    low: Floats | None = None
    """The lower edge of a band around it."""
    high: Floats | None = None
    """The upper edge."""
    also: Mapping[str, Floats] = field(default_factory=dict[str, Floats])
    """The same points against other x axes, by the axis' name."""

    @property
    def band(self) -> tuple[Floats, Floats] | None:
        """The edges of the band around it; None without a band."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def thinned(self, buckets: int | None = None) -> "Curve":
        """Return the curve with the lowest and the highest point of each bucket; a short curve as it is."""
        if buckets is None:  # a smooth curve needs fewer
            buckets = BUCKETS // 2 if self.style == "line" else BUCKETS
        kept = extremes(self.y, buckets)
        if len(kept) == len(self.y):
            return self
        return replace(
            self,
            x=self.x[kept],
            y=self.y[kept],
            low=None if self.low is None else self.low[kept],
            high=None if self.high is None else self.high[kept],
            also={name: x[kept] for name, x in self.also.items()},
        )


@dataclass(frozen=True)
class Chart:
    """The contents of a picture: curves, and values to compare with."""

    name: str
    """The picture's file name, without an ending."""
    title: str
    caption: str
    curves: Sequence[Curve]
    references: Sequence[tuple[str, float]] = ()
    """Lines across, each with a label."""
    low: float | None = None
    """The lower end of the frame; None for the lowest point."""
    high: float | None = None
    """The upper end of the frame; None for the highest point."""
    x_label: str = TOKENS
    x_scale: Scale = "linear"
    front: bool = False
    """Whether a line marks the points that no other point beats in both x and y."""

    @property
    def axes(self) -> list[str]:
        """The x axes that every curve has, the first one first."""
        others = [name for curve in self.curves for name in curve.also]
        return [
            self.x_label,
            *(name for name in dict.fromkeys(others) if all(name in curve.also for curve in self.curves)),
        ]

    def thinned(self) -> "Chart":
        """Return the chart with thinned curves, and a caption that says so where a reader could notice."""
        curves = [curve.thinned() for curve in self.curves]
        seen = any(
            len(short.x) < len(long.x) and long.style in ("faint", "points")
            for short, long in zip(curves, self.curves, strict=True)
        )
        caption = f"{self.caption} {THINNED}" if seen else self.caption
        return replace(self, curves=curves, caption=caption)


THINNED = f"On this page long series are thinned: each of {BUCKETS} stretches keeps its lowest and its highest value."


def extremes(y: Floats, buckets: int) -> "np.ndarray[tuple[int], np.dtype[np.intp]]":
    """Return the indices of the first and last point, and of the lowest and highest in each bucket, ascending."""
    if len(y) <= 2 * buckets:
        return np.arange(len(y))
    even = np.linspace(0, len(y), buckets - buckets // 5 + 1)
    early = np.geomspace(
        1, len(y), buckets // 5
    )  # narrow at the beginning, which a logarithmic axis spreads out
    starts = np.unique(np.concatenate([even, early]).astype(np.intp))
    kept = {0, len(y) - 1}
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        kept |= {begin + int(y[begin:end].argmin()), begin + int(y[begin:end].argmax())}
    return np.array(sorted(kept), dtype=np.intp)


def front(x: Floats, y: Floats) -> list[int]:
    """Return the indices of the points that no other point beats in both x and y, by ascending x."""
    best, kept = np.inf, list[int]()
    for index in np.lexsort((y, x)).tolist():
        if y[index] < best:
            best = y[index]
            kept.append(index)
    return kept
