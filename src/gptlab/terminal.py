"""Standard output and error as they may be: full, closed, of an encoding that lacks a character, gone for good."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class Stream:
    """Standard output or error, which shows what it can.

    Args:
        stream: the one that Python made.
        name: for errors.
        patient: whether what cannot be written is left out, and raises nothing.
    """

    def __init__(self, stream: TextIO, name: str, *, patient: bool) -> None:
        self._stream, self._name, self._patient = stream, name, patient

    def write(self, text: str) -> int:
        """Write a text; characters that the encoding lacks are spelled out."""
        with self._excused():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        with self._excused():
            self._stream.flush()

    def isatty(self) -> bool:
        """Say whether a person may be looking."""
        try:
            return self._stream.isatty()
        except ValueError:  # closed
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _excused(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            if not self._patient:
                error.filename = self._name
                raise
        except ValueError:  # closed by somebody
            if not self._patient:
                raise

    def settle(self) -> None:
        """Hand on what is left, or forget it: else Python complains of it when it has ended."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)


@contextmanager
def standard_streams(*, patient: bool) -> Generator[None]:
    """Put `Stream`s in the place of standard output and error for a while; standard error is always patient.

    Args:
        patient: whether standard output is, too: for work that is worth more than its words.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    # Python has none where they were closed.
    out, err = (cast(TextIO | None, stream) or open(os.devnull, "w") for stream in before)  # noqa: PTH123, SIM115
    streams = Stream(out, "standard output", patient=patient), Stream(err, "standard error", patient=True)
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in streams)
    try:
        yield
        streams[0].flush()
    finally:
        for stream in streams:
            stream.settle()
        sys.stdout, sys.stderr = before


def _open_closed() -> None:
    """Fill the places of closed streams: the next file that is opened would get one, and others' words with it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
