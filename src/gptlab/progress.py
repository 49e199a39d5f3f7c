"""Progress with an ETA: one changing line in a terminal, a new line now and then in a log file.

with Progress("tokenizing", total=n_bytes, unit="B") as progress:
    for piece in pieces:
        progress.advance(len(piece), documents=count)
"""

import sys
import time

from gptlab.amounts import duration, quantity

QUIET_S = 2.0  # shorter work shows no progress
TERMINAL_EVERY_S = 0.1
LOG_FILE_EVERY_S = 15.0


class StatusLine:
    """One line, rewritten in place in a terminal, and repeated less often in a log file."""

    def __init__(self) -> None:
        self.stream = sys.stderr
        self.terminal = self.stream.isatty()
        self._last = 0.0
        self._width = 0

    def show(self, text: str, *, final: bool = False) -> None:
        """Show `text` if enough time has passed since the last one; a final text is always shown, and stays."""
        now = time.monotonic()
        if not final and now - self._last < (TERMINAL_EVERY_S if self.terminal else LOG_FILE_EVERY_S):
            return
        self._last = now
        if self.terminal:
            end = "\n" if final else ""
            self.stream.write("\r" + text.ljust(self._width) + end)
            self._width = 0 if final else len(text)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def clear(self) -> None:
        """Erase the line, so that something else can be printed."""
        if self.terminal and self._width:
            self.stream.write("\r" + " " * self._width + "\r")
            self.stream.flush()
            self._width = 0


class Progress:
    """Counts towards a total and shows rate and time left; silent if done within QUIET_S.

    Args:
        title: what is going on: "tokenizing".
        total: how many units there are; None if unknown.
        unit: the unit's symbol: "B", " documents", " tokens".
        quiet: show nothing; for every process but the first.
    """

    def __init__(
        self,
        title: str,
        total: float | None = None,
        unit: str = "",
        *,
        quiet: bool = False,
    ) -> None:
        self.title, self.total, self.unit, self.quiet = title, total, unit, quiet
        self.done = 0.0
        self._line = StatusLine()
        self._shown = False
        self._fields: dict[str, object] = {}
        self._start = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._line.show(self._text(), final=True)

    def advance(self, amount: float = 1, **fields: object) -> None:
        """Add `amount` units; `fields` appear after the rate, as `name value`."""
        self.done += amount
        self._fields = fields
        if not self.quiet and time.monotonic() - self._start >= QUIET_S:
            self._shown = True
            self._line.show(self._text())

    def _text(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = self.done / seconds
        parts = [f"{self.title} {quantity(self.done, self.unit)}"]
        if self.total:
            parts[0] += f" of {quantity(self.total, self.unit)} ({100 * self.done / self.total:.0f} %)"
        parts.append(f"{quantity(rate, self.unit)}/s")
        parts += [f"{name.replace('_', ' ')} {value}" for name, value in self._fields.items()]
        parts.append(f"{duration(seconds)} elapsed")
        if self.total and rate > 0 and self.done < self.total:
            parts.append(f"ETA {duration((self.total - self.done) / rate)}")
        return " | ".join(parts)
