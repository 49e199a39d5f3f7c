"""Files opened for reading and decompressed on the way."""

import gzip
import io
import zlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, cast

from gptlab.errors import DataError


@contextmanager
def opened(path: str) -> Generator[BinaryIO]:
    """Open a file of bytes; one with a suffix of DECOMPRESSORS is decompressed as it is read.

    Raises:
        DataError: it cannot be read, now or later.
    """
    try:
        with DECOMPRESSORS.get(Path(path).suffix.lower(), _plain)(path) as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        if "too much memory" in str(error):  # zstd's own words, which pyarrow passes on
            raise DataError(
                f"file {path}: is compressed with a window over 128 MiB (zstd --long=28 or more), which gptlab "
                f"cannot read; decompress it with: zstd -d --long=31 {path}"
            ) from error
        raise DataError(f"file {path}: cannot be read ({error}); fetch it again") from error


def for_pyarrow(path: Path) -> AbstractContextManager[Any]:
    """Return what pyarrow can open: the path, or the open file if the path is not UTF-8."""
    try:
        str(path).encode()
        return nullcontext(path)
    except UnicodeEncodeError:
        return path.open("rb")


def _plain(path: str) -> BinaryIO:
    return Path(path).open("rb")


def _gzip(path: str) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb"))


@contextmanager
def _zstd(path: str) -> Generator[BinaryIO]:
    import pyarrow

    # pyarrow comes with zstd; the standard library has it only from Python 3.14 on.
    with for_pyarrow(Path(path)) as file, pyarrow.input_stream(file, compression="zstd") as stream:
        yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream)))


DECOMPRESSORS: dict[str, Callable[[str], AbstractContextManager[BinaryIO]]] = {".gz": _gzip, ".zst": _zstd}
