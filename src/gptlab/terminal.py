"""Standard output and error that cope with a full disk, a closed stream, and characters the encoding lacks."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class Stream:
    """Standard output or error; it shows what it can.

    Args:
        stream: Python's own stream.
        name: its name in errors.
        patient: drop what cannot be written instead of raising an error.
    """

    def __init__(self, stream: TextIO, name: str, *, patient: bool) -> None:
        self._stream, self._name, self._patient = stream, name, patient

    def write(self, text: str) -> int:
        """Write a text; characters that the encoding lacks are written as escapes."""
        with self._excused():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        with self._excused():
            self._stream.flush()

    def isatty(self) -> bool:
        """Say whether it is a terminal."""
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
        except ValueError:  # closed
            if not self._patient:
                raise

    def settle(self) -> None:
        """Flush the rest, or drop it, so that Python does not complain about it at exit."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)


@contextmanager
def standard_streams(*, patient: bool) -> Generator[None]:
    """Replace standard output and error by `Stream`s for a while; standard error is always patient.

    Args:
        patient: whether standard output is too, for work that matters more than its output.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    # Python sets a stream to None if it was closed.
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
    """Open the null device for closed streams; otherwise the next file opened would receive their output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
