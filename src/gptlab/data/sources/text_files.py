"""Text files: each is one document, and is held in memory whole."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gptlab.data.sources.compressed import opened
from gptlab.data.sources.piece import Piece, text_bytes
from gptlab.errors import DataError


@dataclass(frozen=True)
class TextPiece(Piece):
    """A .txt file, compressed or not, which is one document."""

    @staticmethod
    def cut(path: Path, column: str | None, stamp: str) -> Iterator[Piece]:
        """Make the file's only piece."""
        yield TextPiece(str(path), stamp, text_bytes(path.name, path.stat().st_size))

    def documents(self) -> Iterator[str]:
        try:
            with opened(self.path) as file:
                text = file.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(
                f"file {self.path}: byte {error.start:,} is not UTF-8; convert it, for example with iconv"
            ) from error
        if text:
            yield text

    def place(self, number: int) -> str:
        return f"file {self.path}"
