"""Shards: token files in llm.c's format, version 1, and the manifest beside them.

A shard is a header of 256 little-endian int32 (magic, version, token count, zeros), then little-endian uint16
tokens. Each document starts with the end-of-text token, and none crosses from one shard into the next.

    DIR/train_000000.bin ... val_000000.bin     the shards
    DIR/manifest.json                           written last: a folder without it is not finished
    DIR/tokenizer.json                          only where the tokenizer came from a file

Source: llm.c, dev/data/data_common.py and llmc/dataloader.h.
"""

import hashlib
import json
import os
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
import numpy.typing as npt

from gptlab.data.tokenizer import MAX_VOCAB_SIZE, TOKENIZERS, Tokenizer, load_tokenizer
from gptlab.errors import DataError
from gptlab.progress import Progress

MAGIC = 20240520
VERSION = 1
HEADER = np.dtype("<i4")
HEADER_BYTES = 256 * HEADER.itemsize
TOKEN = np.dtype("<u2")
MAX_SHARD_TOKENS = 2**31 - 1  # what the header's int32 can count
MANIFEST = "manifest.json"
SPLITS = ("train", "val")

_VERIFY_TOKENS = 4_000_000  # read at a time, so that memory does not grow with the shard
_REBUILD = 'run "gptlab data prepare" again to rebuild it'


@contextmanager
def aside(path: Path) -> Generator[BinaryIO, None, None]:
    """Open a file that appears at `path` whole and on disk, or not at all."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}.aside")
    try:
        with hidden.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        hidden.replace(path)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise


def shard_header(tokens: int) -> bytes:
    """Build the header of a shard of so many tokens."""
    header = np.zeros(HEADER_BYTES // HEADER.itemsize, HEADER)
    header[:3] = MAGIC, VERSION, tokens
    return header.tobytes()


def write_shard(path: Path, tokens: npt.ArrayLike) -> None:
    """Write a shard aside, then rename it into place.

    Raises:
        DataError: there are no tokens, or one of them does not fit uint16.
    """
    array = np.asarray(tokens)
    if array.size == 0:
        raise DataError(f"shard {path}: there are no tokens to write")
    if array.min() < 0 or array.max() > np.iinfo(TOKEN).max:
        raise DataError(f"shard {path}: tokens must lie between 0 and {np.iinfo(TOKEN).max:,}")
    with aside(path) as file:
        file.write(shard_header(array.size))
        file.write(array.astype(TOKEN).tobytes())


def read_shard(path: Path) -> "np.memmap[Any, np.dtype[np.uint16]]":
    """Map a shard's tokens into memory without reading them.

    Raises:
        DataError: the shard is missing, empty, truncated, or in another format.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            raw = file.read(HEADER_BYTES)
    except FileNotFoundError:
        raise DataError(f"shard {path}: is missing; {_REBUILD}") from None
    except OSError as error:
        raise DataError(f"shard {path}: cannot be read ({error.strerror})") from error
    if not raw:
        raise DataError(f"shard {path}: the file is empty; {_REBUILD}")
    if len(raw) < HEADER_BYTES:
        raise DataError(
            f"shard {path}: {size:,} bytes are less than the header's {HEADER_BYTES:,}; {_REBUILD}"
        )
    magic, version, tokens = (int(number) for number in np.frombuffer(raw, HEADER)[:3])
    if (magic, version) != (MAGIC, VERSION):
        raise DataError(
            f"shard {path}: begins with magic {magic}, version {version}, where uint16 tokens have {MAGIC}, "
            f'{VERSION}; make shards with "gptlab data prepare"'
        )
    held, odd = divmod(size - HEADER_BYTES, TOKEN.itemsize)
    if held != tokens or odd:
        half = " and a half" if odd else ""
        raise DataError(f"shard {path}: header says {tokens:,} tokens, file holds {held:,}{half}; {_REBUILD}")
    if tokens == 0:
        raise DataError(f"shard {path}: holds no tokens; {_REBUILD}")
    return np.memmap(path, TOKEN, "r", offset=HEADER_BYTES)


@dataclass(frozen=True, kw_only=True)
class TokenizerRecord:
    """Which tokenizer made the tokens."""

    name: str
    """A name of TOKENIZERS, or tokenizer.json for one that lies beside the manifest."""
    hash: str
    """sha256 of the vocabulary, as Tokenizer.hash."""
    vocab_size: int
    """How many ids there are."""
    end_of_text: int
    """The id that starts each document."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What the manifest says about one shard."""

    file: str
    """Its name within the folder."""
    split: str
    """train or val."""
    tokens: int
    """How many tokens it holds, each document's end-of-text included."""
    documents: int
    """How many documents begin in it."""
    bytes: int
    """The file's size."""
    text_bytes: int
    """How many bytes of UTF-8 text its tokens stand for."""
    sha256: str
    """Of the whole file."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a prepared folder holds and where it came from."""

    tokenizer: TokenizerRecord
    """Which tokenizer made the tokens."""
    source: str
    """The source as it was named to prepare."""
    revision: str
    """Which state of the source: a commit, a version, or a hash of its files' names and sizes."""
    settings: dict[str, int | str | None]
    """What else prepare was asked for; another request for the same folder is refused."""
    validation: str
    """How the validation split was chosen, in words."""
    shards: tuple[Shard, ...]
    """The shards, each split's in the order of its documents."""

    @staticmethod
    def load(folder: str | Path) -> "Manifest":
        """Read a prepared folder's manifest.

        Raises:
            DataError: there is none, or it is not one that prepare writes.
        """
        path = Path(folder) / MANIFEST
        try:
            return _manifest(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise DataError(
                f'{folder}: has no {MANIFEST}, so it is not a finished data folder; run "gptlab data prepare"'
            ) from None
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f'{path}: is not a manifest of "gptlab data prepare" ({error})') from error

    def save(self, folder: Path) -> None:
        """Write the manifest, which declares the folder finished."""
        with aside(folder / MANIFEST) as file:
            file.write((json.dumps(asdict(self), indent=2) + "\n").encode())

    def split(self, split: str) -> list[Shard]:
        """List the shards of `train` or `val`."""
        return [shard for shard in self.shards if shard.split == split]

    @property
    def fingerprint(self) -> str:
        """A hash of every shard's: equal for equal tokens, wherever the folder lies."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    def load_tokenizer(self, folder: str | Path) -> Tokenizer:
        """Load the tokenizer that made the tokens.

        Raises:
            DataError: it is missing, or is not the one that made them.
        """
        named = self.tokenizer.name in TOKENIZERS
        tokenizer = load_tokenizer(self.tokenizer.name if named else Path(folder) / self.tokenizer.name)
        if tokenizer.hash != self.tokenizer.hash:
            raise DataError(
                f"{folder}: tokenizer {self.tokenizer.name} has hash {tokenizer.hash[:12]}, the shards were "
                f"made with {self.tokenizer.hash[:12]}; put that one back"
            )
        return tokenizer

    def summary(self) -> dict[str, Any]:
        """Count shards, tokens, documents and text bytes, by split."""
        return {
            "source": self.source,
            "revision": self.revision,
            "tokenizer": self.tokenizer.name,
            "vocab_size": self.tokenizer.vocab_size,
            "validation": self.validation,
        } | {
            split: {
                "shards": len(self.split(split)),
                "tokens": sum(shard.tokens for shard in self.split(split)),
                "documents": sum(shard.documents for shard in self.split(split)),
                "text_bytes": sum(shard.text_bytes for shard in self.split(split)),
            }
            for split in SPLITS
        }


class ShardWriter:
    """Cuts one split's stream of documents into shards of at most `shard_tokens`, longer documents apart.

    Args:
        folder: where the shards go.
        split: train or val.
        shard_tokens: a shard is closed before the document that would make it longer than this.
        token_bytes: bytes of text by id, for the manifest.
    """

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

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        else:
            self._open.__exit__(kind, value, trace)

    def add(self, document: npt.NDArray[np.uint16]) -> None:
        """Append a document, which starts with end-of-text."""
        if self._tokens + document.size > self._shard_tokens:
            self._finish()
        if self._file is None:
            self._file = self._open.enter_context(aside(self._path))
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
                sha256=_sha256(path),
            )
        )
        self._file = None
        self._tokens = self._documents = self._text_bytes = 0


def verify(folder: str | Path) -> dict[str, Any]:
    """Check every shard of a prepared folder against its manifest, token by token, and summarise it.

    Raises:
        DataError: the first thing that is not as the manifest says.
    """
    folder = Path(folder)
    manifest = Manifest.load(folder)
    tokenizer = manifest.load_tokenizer(folder)
    for path in sorted(folder.glob("*.bin")):
        if path.name not in {shard.file for shard in manifest.shards}:
            raise DataError(
                f"shard {path}: is not in {MANIFEST}; move it elsewhere, other readers would take it"
            )
    with Progress("verifying", sum(shard.bytes for shard in manifest.shards), "B") as progress:
        for shard in manifest.shards:
            _verify_shard(folder / shard.file, shard, tokenizer, progress)
    return manifest.summary()


def _verify_shard(path: Path, shard: Shard, tokenizer: Tokenizer, progress: Progress) -> None:
    tokens = read_shard(path)
    if tokens.size != shard.tokens:
        raise DataError(
            f"shard {path}: holds {tokens.size:,} tokens, {MANIFEST} says {shard.tokens:,}; {_REBUILD}"
        )
    if tokens[0] != tokenizer.end_of_text:
        raise DataError(
            f"shard {path}: begins with token {tokens[0]}, not with end-of-text {tokenizer.end_of_text}"
        )
    documents = text_bytes = 0
    for start in range(0, tokens.size, _VERIFY_TOKENS):
        chunk = np.array(tokens[start : start + _VERIFY_TOKENS])
        check_range(chunk, tokenizer.vocab_size, path, start)
        documents += int(np.count_nonzero(chunk == tokenizer.end_of_text))
        text_bytes += int(tokenizer.token_bytes[chunk].sum())
        progress.advance(chunk.nbytes)
    for what, held, said in (
        ("documents", documents, shard.documents),
        ("bytes of text", text_bytes, shard.text_bytes),
        ("bytes", path.stat().st_size, shard.bytes),
    ):
        if held != said:
            raise DataError(
                f"shard {path}: holds {held:,} {what}, {MANIFEST} says {said:,}; delete it and {_REBUILD}"
            )
    if _sha256(path) != shard.sha256:
        raise DataError(f"shard {path}: its sha256 is not the one in {MANIFEST}; delete it and {_REBUILD}")


def check_range(tokens: npt.NDArray[np.uint16], vocab_size: int, path: Path, start: int) -> None:
    """Refuse tokens outside the vocabulary; `start` is the position of the first of them in the shard.

    Raises:
        DataError: one is, naming the shard, the position and the vocabulary's size.
    """
    if tokens.max() >= vocab_size:
        at = int(np.argmax(tokens >= vocab_size))
        raise DataError(
            f"shard {path}: token {tokens[at]} at position {start + at:,} is outside the vocabulary of "
            f"{vocab_size:,}; delete it and {_REBUILD}"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


Record = TypeVar("Record", TokenizerRecord, Shard)


def _manifest(raw: Any) -> Manifest:
    if not isinstance(raw, dict):
        raise TypeError("not a JSON object")
    tokenizer = _typed(TokenizerRecord, raw.pop("tokenizer"))
    shards = tuple(_typed(Shard, shard) for shard in raw.pop("shards"))
    if tokenizer.vocab_size > MAX_VOCAB_SIZE:
        raise ValueError(f"vocab_size {tokenizer.vocab_size:,} is over {MAX_VOCAB_SIZE:,}")
    for shard in shards:
        if shard.split not in SPLITS or Path(shard.file).name != shard.file:
            raise ValueError(f"shard {shard.file}, split {shard.split}")
    return Manifest(tokenizer=tokenizer, shards=shards, **raw)


def _typed(kind: type[Record], raw: dict[str, Any]) -> Record:
    for field in fields(kind):
        if not isinstance(raw[field.name], cast(type, field.type)):
            raise TypeError(f"{field.name}: {raw[field.name]!r}")
    return kind(**raw)
