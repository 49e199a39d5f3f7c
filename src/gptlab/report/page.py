"""What a page of gptlab is made of: headings, tables, pictures and samples in one file that loads nothing.

A picture begins as a Chart, numbers without ink. A browser draws it (browser/, with uPlot); matplotlib draws it as
PNG for papers and for readers without JavaScript. Text becomes HTML in these functions only, and is escaped there;
what they return is finished.
"""

import base64
import html
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gptlab.outputs import Record
from gptlab.report.interactive import payload, script, script_hash, style
from gptlab.report.page_folder import record_tag
from gptlab.report.picture import Picture
from gptlab.report.theme import DARK, LIGHT

DASH = "\N{EN DASH}"  # stands in a table for what is not known
BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n){2,}")


class Html(str):
    """Finished HTML, which is not escaped again."""

    __slots__ = ()


def page(
    title: str,
    lead: str,
    sections: Mapping[str, str],
    record: Record | None = None,
    *,
    answer: str = "",
    reload_s: float | None = None,
) -> str:
    """Set sections, finished HTML by heading, as a page that needs no other file and no network.

    Args:
        title: the headline.
        lead: small print under it: who wrote the page, from what.
        sections: what follows; one without a heading stands under the "".
        record: what is to be known of the page when it is made again; None for one that never is.
        answer: the finding in one sentence, set large under the headline.
        reload_s: after how many seconds the page loads itself anew; None for a page that is final.
    """
    head = f"\n{record_tag(record)}" if record is not None else ""
    reload = f"{reload_s:g}" if reload_s is not None else ""
    if reload:
        head += f'\n<noscript><meta http-equiv="refresh" content="{reload}"></noscript>'
    body = "".join(
        f"<section>\n{f'<h2>{html.escape(name)}</h2>' if name else ''}\n{content}</section>\n"
        for name, content in sections.items()
    )
    # Keeps the promise of a page that loads nothing and runs only its own script, whatever a model writes into a
    # sample.
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{script_hash()}'"
    return f"""<!doctype html>
<html lang="en" data-reload="{reload}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">{head}
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{html.escape(title)}</title>
<style>
:root {{ {LIGHT.variables} }}
@media (prefers-color-scheme: dark) {{ :root {{ {DARK.variables} }} }}
{style()}</style>
</head>
<body>
<header>
<h1>{html.escape(title)}</h1>
{paragraph(answer, "answer") if answer else ""}{paragraph(lead, "faint")}</header>
{body}<script>{script()}</script>
</body>
</html>
"""


def heading(text: str) -> str:
    """Set a heading within a section."""
    return f"<h3>{_escape(text)}</h3>\n"


def paragraph(text: str, style: str = "") -> str:
    """Set text as a paragraph in a style of the page: `faint`, `note`, `answer`, or plain without one."""
    return f'<p class="{style}">{_escape(text)}</p>\n' if style else f"<p>{_escape(text)}</p>\n"


def link(text: str, href: str) -> Html:
    """Return a link for a cell, a heading or a paragraph."""
    return Html(f'<a href="{html.escape(href)}">{html.escape(text)}</a>')


def link_to(target: Path, out: Path) -> Html:
    """Return a link from a page in `out` to a file or folder, by its path as given."""
    return link(str(target), quote(os.path.relpath(target.resolve(), out.resolve())))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Set text as a table, columns of numbers to the right; a line break in a cell stays one."""
    columns = zip(*rows, strict=True)
    numbers = [all(cell == DASH or cell[:1].isdigit() for cell in column) for column in columns]
    style = [' class="number"' if number else "" for number in numbers] or [""] * len(head)

    def line(tag: str, cells: Sequence[str]) -> str:
        pairs = zip(style, cells, strict=True)
        return f"<tr>{''.join(f'<{tag}{kind}>{_escape(cell)}</{tag}>' for kind, cell in pairs)}</tr>\n"

    top, body = line("th", head), "".join(line("td", row) for row in rows)
    return f'<div class="wide"><table>\n<thead>{top}</thead>\n<tbody>\n{body}</tbody>\n</table></div>\n'


def tiles(cells: Iterable[tuple[str, str, str]]) -> str:
    """Set a few numbers large, side by side: label, value, and a note under it."""
    boxes = "".join(
        f"<div><span>{_escape(label)}</span><b>{_escape(value)}</b><span>{_escape(note)}</span></div>"
        for label, value, note in cells
    )
    return f'<div class="tiles">{boxes}</div>\n'


def figure(picture: Picture) -> str:
    """Set a picture with its caption: for the page's script, and as an image where no script runs."""
    chart = picture.chart.thinned()
    caption = html.escape(chart.caption)
    still = ""
    if picture.small:
        source = f"data:image/png;base64,{base64.b64encode(picture.small).decode()}"
        still = f'<noscript><img alt="{html.escape(chart.title)}" src="{source}"></noscript>\n'
    return (
        f'<figure>\n<h3 class="script">{html.escape(chart.title)}</h3>\n{still}'
        f'<script type="application/json">{payload(chart)}</script>\n'
        f"<figcaption>{caption}</figcaption></figure>\n"
    )


def pair(*figures: str) -> str:
    """Set figures two abreast where the screen is wide enough."""
    return f'<div class="pair">\n{"".join(figures)}</div>\n'


def commands(lines: Iterable[str]) -> str:
    """Set shell commands as one block; a click selects it."""
    return f'<div class="wide"><pre class="commands">{html.escape(chr(10).join(lines))}</pre></div>\n'


def details(summary: str, content: str, anchor: str = "") -> str:
    """Fold finished HTML away under a line that opens it, as does a link to `#anchor`."""
    named = f' id="{html.escape(anchor)}"' if anchor else ""
    return f"<details{named}><summary>{_escape(summary)}</summary>\n{content}</details>\n"


def samples(rows: Iterable[Mapping[str, Any]]) -> str:
    """Set what a model wrote: rows of a `prompt`, which is printed bold, and the `text` after it.

    Of blank lines in a row, one is set.
    """
    return "".join(
        f'<div class="sample"><b>{html.escape(row["prompt"])}</b>'
        f"{html.escape(BLANK_LINES.sub(chr(10) * 2, row['text']))}</div>\n"
        for row in rows
    )


def _escape(text: str) -> str:
    return text if isinstance(text, Html) else html.escape(text)
