"""The writer that cuts a stream of documents into shards."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from gptlab.data.manifest import Shard
from gptlab.data.shards import HEADER_BYTES, TOKEN, shard_header
from gptlab.storage import file_sha256, whole_file


class ShardWriter:
    """Cuts one split's stream of documents into shards of at most `shard_tokens`; a longer document has its own."""

    def __init__(
        self, folder: Path, split: str, shard_tokens: int, token_bytes: npt.NDArray[np.int64]
    ) -> None:
        self.shards: list[Shard] = []
        self._folder, self._split = folder, split
        self._shard_tokens, self._token_bytes = shard_tokens, token_bytes
        self._open = ExitStack()
        self._file: BinaryIO | None = None
        self._tokens = self._documents = self._text_bytes = 0

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is None:
            self._finish()
        else:
            self._open.__exit__(kind, *rest)

    def add(self, document: npt.NDArray[np.uint16]) -> None:
        """Append a document, which starts with end-of-text."""
        if self._tokens + document.size > self._shard_tokens:
            self._finish()
        if self._file is None:
            self._file = self._open.enter_context(whole_file(self._path))
            self._file.write(shard_header(0))
        self._file.write(document.astype(TOKEN).tobytes())
        self._tokens += document.size
        self._documents += 1
        self._text_bytes += int(self._token_bytes[document].sum())

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._split}_{len(self.shards):06d}.bin"

    def _finish(self) -> None:
        if self._file is None:
            return
        path = self._path
        self._file.seek(0)
        self._file.write(shard_header(self._tokens))
        self._open.close()
        self.shards.append(
            Shard(
                file=path.name,
                split=self._split,
                tokens=self._tokens,
                documents=self._documents,
                bytes=HEADER_BYTES + self._tokens * TOKEN.itemsize,
                text_bytes=self._text_bytes,
                sha256=file_sha256(path),
            )
        )
        self._file = None
        self._tokens = self._documents = self._text_bytes = 0
