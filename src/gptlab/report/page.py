"""How a page of gptlab looks: headings, tables, pictures and samples in one file that loads nothing.

A picture begins as a Chart, numbers without ink, and is drawn twice, for light and for dark paper. Text
becomes HTML in these functions only, and is escaped there; what they return is finished.
"""

import base64
import html
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gptlab.errors import ConfigError
from gptlab.outputs import Record, fingerprint, folder_refusal
from gptlab.parsing import names_neighbour, parse_json
from gptlab.runs.history import Floats

DASH = "\N{EN DASH}"  # stands in a table for what is not known
LEGEND_LETTERS = 110  # so many fit on a line of a picture's legend
INDEX = "index.html"
NAME_LETTERS = 60
RECORD = re.compile(r'<meta name="gptlab" content="([^"]*)">')
HEAD_LETTERS = 1 << 16  # of a page, in which its record is
LABEL_GAP = 0.04  # between the labels of two lines across a picture, of its height


@dataclass(frozen=True)
class Theme:
    """Colours of paper and ink; those of the curves stay apart for the colour-blind.

    Source: Okabe and Ito, Color Universal Design (2008), darkened or brightened for the paper.
    """

    paper: str
    ink: str
    faint: str
    rule: str
    curves: tuple[str, ...]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1f2328",
    faint="#666d78",
    rule="#e3e6ea",
    curves=("#0072b2", "#d55e00", "#009e73", "#b0558b", "#c98a00", "#56b4e9"),
)
DARK = Theme(
    paper="#16181c",
    ink="#e4e6ea",
    faint="#989fa9",
    rule="#2f343b",
    curves=("#56b4e9", "#f08a3c", "#2fbf93", "#dd8fbd", "#f0c541", "#8f9bff"),
)
DASHES = ("-", "--", ":", "-.")
LINES: dict[str, dict[str, Any]] = {
    "line": {"lw": 1.1},
    "faint": {"lw": 0.5, "alpha": 0.2, "zorder": 1},
    "points": {"lw": 0, "marker": "o", "ms": 2.6},
    "line and points": {"lw": 1.0, "marker": "o", "ms": 2.6},
    "steps": {"lw": 1.1, "drawstyle": "steps-post"},
    "bars": {"lw": 0.8, "drawstyle": "steps-post"},
}
LineName = Literal["line", "faint", "points", "line and points", "steps", "bars"]


@dataclass(frozen=True)
class Curve:
    """A curve of a chart."""

    run: int
    """Whose it is, from 0: its colour."""
    x: Floats
    y: Floats
    style: LineName = "line"
    label: str = ""
    """Its name in the legend; without one it has no place there."""
    error: Floats | None = None
    """Half the height of a band around it."""


@dataclass(frozen=True)
class Chart:
    """What a picture shows: curves, and values to compare with."""

    name: str
    """The picture's file name, without an ending."""
    title: str
    caption: str
    curves: Sequence[Curve]
    references: Sequence[tuple[str, float]] = ()
    low: float | None = None
    """Where the frame ends below; None is where the curves do."""
    high: float | None = None
    """Where the frame ends above."""
    x_label: str = "training tokens"
    x_scale: Literal["linear", "log"] = "linear"


@dataclass(frozen=True)
class Picture:
    """A chart as PNG, for either paper."""

    light: bytes
    dark: bytes
    caption: str


def draw(chart: Chart) -> Picture:
    """Draw a chart for light and for dark paper."""
    return Picture(_png(chart, LIGHT), _png(chart, DARK), chart.caption)


def _png(chart: Chart, theme: Theme) -> bytes:
    # Imported here, as it takes longer than reading the runs. Figure itself and not pyplot, which keeps
    # every figure in a global list and may ask for a display.
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    paper = Figure(figsize=(8, 4.2), dpi=200, facecolor=theme.paper, layout="constrained")
    axes = paper.add_subplot(facecolor=theme.paper)
    for curve in chart.curves:
        colour = theme.curves[curve.run % len(theme.curves)]
        dash = DASHES[curve.run // len(theme.curves) % len(DASHES)]
        axes.plot(curve.x, curve.y, color=colour, ls=dash, **LINES[curve.style])
        if curve.error is not None:
            band = curve.y - curve.error, curve.y + curve.error
            axes.fill_between(curve.x, *band, color=colour, alpha=0.14, lw=0)
            if len(curve.x) == 1:  # over which a band has no width
                axes.vlines(curve.x, *band, color=colour, lw=1)
        if curve.style == "bars":
            axes.fill_between(curve.x, curve.y, step="post", color=colour, alpha=0.22, lw=0)
    named = [(line, curve.label) for line, curve in zip(axes.lines, chart.curves, strict=True) if curve.label]
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
    axes.set_xlabel(chart.x_label, loc="right", fontsize=8.5, color=theme.faint)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.rule)
    axes.grid(axis="y", color=theme.rule, lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelsize=8, labelcolor=theme.faint, pad=5)
    axes.yaxis.set_major_formatter(FuncFormatter(_tick))
    if chart.x_scale == "log":
        axes.set_xscale("log")
        axes.margins(x=0.008)
    else:
        right = max((float(curve.x.max()) for curve in chart.curves if len(curve.x)), default=0.0) or 1.0
        axes.set_xlim(-0.008 * right, 1.008 * right)
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.set_ylim(chart.low, chart.high)
    low, high = axes.get_ylim()
    place = -math.inf
    for label, value in sorted(chart.references, key=lambda reference: reference[1]):
        place = max(
            value, place + LABEL_GAP * (high - low)
        )  # above its line, where another label is beside it
        beside = axes.get_yaxis_transform()
        axes.text(1.006, place, label, transform=beside, va="center", fontsize=7.5, color=theme.faint)
    memory = io.BytesIO()
    paper.savefig(memory, format="png", metadata={"Software": None})
    return memory.getvalue()


def _tick(value: float, _position: int) -> str:
    return amount(value)


def amount(value: float) -> str:
    """Write a count of tokens or parameters as model builders do: `124.4M`, `10B`."""
    for factor, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.4g}{unit}"
    return f"{value:.4g}"


CSS = """
* { box-sizing: border-box }
:root { color-scheme: light dark;
  --paper: LIGHT_paper; --ink: LIGHT_ink; --faint: LIGHT_faint; --rule: LIGHT_rule }
@media (prefers-color-scheme: dark) {
  :root { --paper: DARK_paper; --ink: DARK_ink; --faint: DARK_faint; --rule: DARK_rule }
}
body { margin: 0 auto; padding: 3.5rem 1.5rem 6rem; max-width: 74rem;
  background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif }
h1 { margin: 0; font-size: 1.75rem; font-weight: 650; letter-spacing: -.015em; line-height: 1.25 }
h2 { margin: 3.5rem 0 1rem; font-size: 1.2rem; font-weight: 650 }
h3 { margin: 2.5rem 0 .5rem; font-size: 1rem; font-weight: 600 }
p, figcaption, .sample { max-width: 46rem; overflow-wrap: anywhere }
p { margin: .75rem 0 }
.faint, figcaption, th { color: var(--faint) }
.faint, figcaption { font-size: .875rem; line-height: 1.5 }
.note { padding-left: .9rem; border-left: 3px solid var(--rule) }
.wide { margin-bottom: 1.25rem; overflow-x: auto }
table { border-collapse: collapse; font-size: .8125rem; line-height: 1.4; font-variant-numeric: tabular-nums }
th { font-weight: 500; vertical-align: bottom }
td { vertical-align: top }
th, td { padding: .5rem .9rem .5rem 0; border-bottom: 1px solid var(--rule); text-align: left;
  white-space: pre-line }
th:last-child, td:last-child { padding-right: 0 }
.number { text-align: right; white-space: pre }
figure { margin: 1.5rem 0 3rem; max-width: 60rem }
img { display: block; width: 100%; height: auto }
figcaption { margin-top: .5rem }
.sample { margin: .75rem 0; padding: .9rem 1.1rem; border: 1px solid var(--rule); border-radius: 6px;
  white-space: pre-wrap; font: .95rem/1.6 Charter, Georgia, serif }
"""


# Keeps the promise of a page that loads nothing, whatever a model writes into a sample.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, lead: str, sections: Mapping[str, str], record: Record | None = None) -> str:
    """Set sections, finished HTML by heading, as a page that needs no other file and no network.

    Args:
        title: of the page.
        lead: the sentence under it.
        sections: what follows.
        record: what is to be known of the page when it is made again; None for one that never is.
    """
    said = f"\n{_record_tag(record)}" if record is not None else ""
    colours = {f"LIGHT_{key}": value for key, value in asdict(LIGHT).items()}
    colours |= {f"DARK_{key}": value for key, value in asdict(DARK).items()}
    style = re.sub(r"\b(LIGHT|DARK)_\w+", lambda match: colours[match[0]], CSS)
    body = "".join(
        f"<section>\n<h2>{html.escape(name)}</h2>\n{content}</section>\n"
        for name, content in sections.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">{said}
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{html.escape(title)}</title>
<style>{style}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
{paragraph(lead, "faint")}{body}</body>
</html>
"""


def _record_tag(record: Record) -> str:
    said = {"kind": record.kind, "of": record.of, "name": record.name, "files": sorted(record.files)}
    return f'<meta name="gptlab" content="{html.escape(json.dumps(said))}">'


def read_record(folder: Path) -> Record | None:
    """Return what a page of ours says of itself and of the pictures beside it; None for another folder."""
    try:
        with (folder / INDEX).open(encoding="utf-8", errors="replace") as file:
            found = RECORD.search(file.read(HEAD_LETTERS))
        said: Any = parse_json(html.unescape(found[1])) if found else {}
        kind, of, name, files = (said[key] for key in ("kind", "of", "name", "files"))
        mine = {each for each in files if names_neighbour(each)} | {INDEX}
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return Record(str(kind), str(of), str(name), mine | {_aside(each) for each in mine})


def refuse(out: Path, kind: str, of: str) -> None:
    """Say before the work of a page begins that it must not be written there.

    Raises:
        ConfigError: the folder holds another page, or files of somebody's.
    """
    refusal = folder_refusal(out, kind, of, read_record(out))
    if refusal is not None:
        raise ConfigError(refusal)


def heading(text: str) -> str:
    """Set a heading within a section."""
    return f"<h3>{html.escape(text)}</h3>\n"


def paragraph(text: str, style: str = "") -> str:
    """Set text as a paragraph in a style of the page: `faint`, `note`, or plain without one."""
    return f'<p class="{style}">{html.escape(text)}</p>\n' if style else f"<p>{html.escape(text)}</p>\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Set text as a table, columns of numbers to the right; a line break in a head stays one."""
    columns = zip(*rows, strict=True)
    numbers = [all(cell == DASH or cell[:1].isdigit() for cell in column) for column in columns]
    style = [' class="number"' if number else "" for number in numbers] or [""] * len(head)

    def line(tag: str, cells: Sequence[str]) -> str:
        pairs = zip(style, cells, strict=True)
        return f"<tr>{''.join(f'<{tag}{kind}>{html.escape(cell)}</{tag}>' for kind, cell in pairs)}</tr>\n"

    top, body = line("th", head), "".join(line("td", row) for row in rows)
    return f'<div class="wide"><table>\n<thead>{top}</thead>\n<tbody>\n{body}</tbody>\n</table></div>\n'


def figure(picture: Picture) -> str:
    """Set a picture with its caption, on the reader's own paper."""
    light, dark = (
        f"data:image/png;base64,{base64.b64encode(png).decode()}" for png in (picture.light, picture.dark)
    )
    caption = html.escape(picture.caption)
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{caption}" src="{light}"></picture>\n<figcaption>{caption}</figcaption></figure>\n'
    )


def samples(rows: Iterable[Mapping[str, Any]]) -> str:
    """Set what a model wrote: rows of a `prompt`, which is printed bold, and the `text` after it."""
    return "".join(
        f'<div class="sample"><b>{html.escape(row["prompt"])}</b>{html.escape(row["text"])}</div>\n'
        for row in rows
    )


def write(out: Path, files: Mapping[str, bytes]) -> None:
    """Write a page and the pictures beside it into a folder, each whole or not at all, and delete the old one's.

    Raises:
        ConfigError: the folder cannot be written.
    """
    old = read_record(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in old.files - files.keys() if old is not None else ():
            (out / name).unlink(missing_ok=True)
        # The page comes first: it knows which pictures are its own, should the rest not come to be.
        for name, content in sorted(files.items(), key=lambda file: file[0] != INDEX):
            aside = out / _aside(name)
            try:
                aside.write_bytes(content)
                aside.replace(out / name)
            finally:
                aside.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); give another folder") from error


def file_name(text: str) -> str:
    """Return a file name, without an ending, that no other text has and that is short in any alphabet."""
    plain = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return f"{plain[:NAME_LETTERS]}_{fingerprint(text)[:8]}"


def _aside(name: str) -> str:
    """Return the name that a file has until it is whole."""
    return f".{name}.part"
