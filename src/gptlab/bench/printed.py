"""What was measured of a step, as a table and a picture."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gptlab.amounts import amount, duration, quantity
from gptlab.bench.bench import RungTime
from gptlab.report.theme import LIGHT

BAR = 30  # characters


def lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a person wants to know of the facts, a line at a time."""
    low, high = facts["step_range_s"]
    how = "compiled" if facts["compiled"] else "eager"
    yield f"{facts['device']}, {facts['threads']} threads, {facts['dtype']}, {how}"
    yield (
        f"{facts['tokens_per_s']:,.0f} tokens/s: a step of {amount(facts['tokens'])} tokens takes "
        f"{_seconds(facts['step_s'])} ({_seconds(low)} to {_seconds(high)} in {facts['steps']})"
    )
    if facts["passes_measured"] < facts["passes"]:
        yield f"  computed from {facts['passes_measured']} of its {facts['passes']} passes"
    if facts["synthetic"]:
        yield "  on random tokens, as there are no data"
    mfu = "MFU unknown, as no peak is published" if facts["mfu"] is None else f"MFU {facts['mfu']:.1%}"
    yield (
        f"{mfu}; {facts['matmul_share']:.1%} of the {quantity(facts['matmul_flops_per_s'], 'FLOP/s')} that its matrix "
        "products reach alone"
    )
    yield (
        f"peak memory {_bytes(facts['peak_memory_bytes'])} of the device, {_bytes(facts['peak_host_bytes'])} of the "
        f"host; first step after {duration(facts['first_step_s'])}"
    )
    yield ""
    yield from _bars(facts["parts"], facts["step_s"])


def _bars(parts: Mapping[str, float], whole: float) -> Iterator[str]:
    width = max(map(len, parts))
    for name, seconds in parts.items():
        share = seconds / whole
        yield f"  {name:<{width}}  {_seconds(seconds):>9}  {share:6.1%}  {'█' * round(BAR * max(0.0, share))}"


def row_line(row: RungTime) -> str:
    """Return a rung as a line of a table."""
    if row.step_s is None or row.tokens_per_s is None:
        return f"  {row.name:<40}  not measured: {row.why}"
    gain = "" if row.gain is None else f"  {row.gain:5.2f} times as fast"
    return f"  {row.name:<40}  {_seconds(row.step_s):>9}  {row.tokens_per_s:>10,.0f} tokens/s{gain}"


def _seconds(value: float) -> str:
    return f"{1000 * value:,.1f} ms" if abs(value) < 1 else f"{value:,.2f} s"


def _bytes(value: float | None) -> str:
    return "unknown" if value is None else quantity(value, "B")


def draw(facts: Mapping[str, Any], rows: Sequence[RungTime], file: Path) -> None:
    """Draw the parts of a step, and the ladder if there is one, as a PNG."""
    from matplotlib.figure import Figure

    step_s = facts["step_s"]
    panels = {
        f"a step of {_seconds(step_s)} on {facts['device']}, {facts['dtype']}": {
            f"{name}, {seconds / step_s:.0%}": seconds for name, seconds in facts["parts"].items()
        },
        "the recipe made faster, one change at a time": {
            row.name: row.step_s for row in rows if row.step_s is not None
        },
    }
    panels = {title: bars for title, bars in panels.items() if bars}
    heights = [1 + len(bars) for bars in panels.values()]
    figure = Figure(figsize=(8, 0.36 * sum(heights) + 0.6 * len(heights)), layout="constrained")
    places = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, (title, bars) in zip(places, panels.items(), strict=True):
        axes.barh([*bars], [*bars.values()], color=LIGHT.curves[0])
        axes.invert_yaxis()
        axes.set_title(title, loc="left", fontsize="medium")
        axes.spines[["top", "right"]].set_visible(False)
    places[-1].set_xlabel("seconds of a step")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
