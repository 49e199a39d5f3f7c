"""Parquet files: a document per row, in a column of text; each row group is a piece."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from gptlab.data.sources.columns import choose, only_column
from gptlab.data.sources.compressed import for_pyarrow
from gptlab.data.sources.piece import Piece
from gptlab.errors import DataError

PARQUET_ROWS = 128  # read at a time, so that memory does not grow with the row group


@dataclass(frozen=True)
class ParquetPiece(Piece):
    """A row group of a .parquet file."""

    column: str
    """The column that holds the documents."""
    row_group: int
    """The row group's number, from 0."""

    @staticmethod
    def cut(path: Path, column: str | None, stamp: str) -> Iterator[Piece]:
        """Cut a file into its row groups; reads only its footer."""
        with _parquet(path) as file:
            names = file.schema_arrow.names
            if column is None:
                texts = [field.name for field in file.schema_arrow if _holds_text(field.type)]
                column = only_column(texts, names, f"file {path}")
            if column not in names:
                raise DataError(f'file {path}: has no column "{column}"; {choose(names)}')
            kind = file.schema_arrow.field(column).type
            if not _holds_text(kind):
                raise DataError(f'file {path}: column "{column}" holds {kind}, not text; {choose(names)}')
            leaves = [file.metadata.schema.column(leaf).path for leaf in range(file.metadata.num_columns)]
            leaf = leaves.index(column)
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).column(leaf).total_uncompressed_size
                yield ParquetPiece(str(path), stamp, size, column, group)

    def documents(self) -> Iterator[str]:
        import pyarrow

        rows = count()
        with _parquet(Path(self.path)) as file:
            batches = file.iter_batches(PARQUET_ROWS, row_groups=[self.row_group], columns=[self.column])
            try:
                for batch in batches:
                    for text, row in zip(batch.column(0).to_pylist(), rows, strict=False):
                        if text is None:
                            raise DataError(
                                f'{self._group}, row {row:,}: has no "{self.column}"; drop the row'
                            )
                        if text:
                            yield text
            except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
                raise DataError(f"{self._group}: cannot be read ({error}); fetch the file again") from error

    def place(self, number: int) -> str:
        return f"{self._group}, document {number:,}"

    @property
    def _group(self) -> str:
        return f"file {self.path}, row group {self.row_group}"


@contextmanager
def _parquet(path: Path) -> Generator[Any]:
    import pyarrow
    import pyarrow.parquet

    with for_pyarrow(path) as source:
        try:
            # Without pre_buffer a column is read as needed, not as a whole.
            file = pyarrow.parquet.ParquetFile(source, pre_buffer=False, buffer_size=1 << 20)
        except pyarrow.ArrowException as error:
            raise DataError(f"file {path}: is not a Parquet file ({error}); fetch it again") from error
        with file:
            yield file


def _holds_text(kind: Any) -> bool:
    import pyarrow.types

    value = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    tests = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view)
    return any(test(value) for test in tests)
