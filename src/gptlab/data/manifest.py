"""The manifest of a prepared folder: which shards it holds, from which text, by which tokenizer.

DIR/train_000000.bin ... val_000000.bin     the shards, see shards.py
DIR/manifest.json                           written last: a folder without it is not finished
DIR/tokenizer.json                          only if the tokenizer came from a file
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptlab.data.load_tokenizer import TOKENIZERS, load_tokenizer
from gptlab.data.shards import REBUILD, Tokens, read_shard
from gptlab.data.tokenizer import FILE, MAX_VOCAB_SIZE, Tokenizer
from gptlab.errors import DataError
from gptlab.parsing import names_neighbour, parse_json, typed
from gptlab.storage import whole_file

MANIFEST = "manifest.json"
PARTIAL = ".partial"  # folder of what is unfinished
SPLITS = ("train", "val")
NO_END = "models of single characters cannot be trained further; choose gpt2, bytes or a tokenizer.json for a new one"


@dataclass(frozen=True, kw_only=True)
class TokenizerRecord:
    """Which tokenizer made the tokens."""

    name: str
    """A name of TOKENIZERS, or tokenizer.json for a file next to the manifest."""
    hash: str
    """sha256 of the vocabulary, as Tokenizer.hash."""
    vocab_size: int
    """The number of ids."""
    end_of_text: int
    """The id that starts each document."""

    def __post_init__(self) -> None:
        if self.name not in (*TOKENIZERS, FILE):
            raise ValueError(f"tokenizer {self.name}")
        if not 0 <= self.end_of_text < self.vocab_size:
            raise ValueError(f"end_of_text {self.end_of_text:,} of a vocabulary of {self.vocab_size:,}")

    @staticmethod
    def of(tokenizer: Tokenizer) -> "TokenizerRecord":
        """Describe a tokenizer."""
        return TokenizerRecord(
            name=tokenizer.name,
            hash=tokenizer.hash,
            vocab_size=tokenizer.vocab_size,
            end_of_text=tokenizer.document_start(NO_END),
        )

    def load(self, folder: str | Path, remedy: str) -> Tokenizer:
        """Load this tokenizer, from `folder` if it came from a file.

        Raises:
            DataError: it is missing, or is a different one; ends with `remedy`.
        """
        tokenizer = load_tokenizer(self.name if self.name in TOKENIZERS else Path(folder) / self.name)
        if tokenizer.hash != self.hash:
            raise DataError(
                f"{folder}: its tokenizer is {TokenizerRecord.of(tokenizer)}, but {self} made the tokens; {remedy}"
            )
        return tokenizer

    def __str__(self) -> str:
        return f"{self.name} ({self.hash[:12]})"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What the manifest records about one shard."""

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
    """sha256 of the whole file."""

    def __post_init__(self) -> None:
        if self.split not in SPLITS or not names_neighbour(self.file):
            raise ValueError(f"shard {self.file}, split {self.split}")
        if min(self.tokens, self.documents, self.bytes, self.text_bytes) < 0:
            raise ValueError(f"shard {self.file}: has a negative count")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a prepared folder holds and where it came from."""

    tokenizer: TokenizerRecord
    """Which tokenizer made the tokens."""
    source: str
    """The source as the user named it."""
    revision: str
    """The state of the source: a commit, a version, or a hash of its files' names, sizes and contents.

    If a source has over 256 MiB, only the first, middle and last 64 KiB of each file are hashed.
    """
    settings: dict[str, int | str | None]
    """The other arguments of prepare; prepare refuses the folder for different ones."""
    validation: str
    """How the validation split was chosen, in words."""
    shards: tuple[Shard, ...]
    """The shards, those of each split in the order of its documents."""
    dropped: dict[str, int] | None = None
    """How many documents and tokens were left out as copies; None without a search for copies."""
    made_by: str = "prepare"
    """A command of REMEDIES. The shards of prepare begin with a document; in shards from elsewhere a document may
    continue from one shard to the next."""

    def __post_init__(self) -> None:
        if self.tokenizer.vocab_size > MAX_VOCAB_SIZE:
            raise ValueError(f"vocab_size {self.tokenizer.vocab_size:,} is over {MAX_VOCAB_SIZE:,}")
        if len({shard.file for shard in self.shards}) < len(self.shards):
            raise ValueError("a shard is named twice")
        if self.made_by not in REMEDIES:
            raise ValueError(f"made_by {self.made_by}")

    @staticmethod
    def load(folder: str | Path) -> "Manifest":
        """Read a prepared folder's manifest.

        Raises:
            DataError: there is none, or gptlab did not write it.
        """
        path = Path(folder) / MANIFEST
        try:
            return typed(Manifest, parse_json(path.read_bytes()))
        except FileNotFoundError:
            if not Path(folder).exists():
                here = "" if Path(folder).is_absolute() else f" in {Path.cwd()}"
                raise DataError(
                    f'{folder}: there is no such folder{here}; make it with "gptlab data prepare SOURCE {folder}", '
                    "or name the one you have"
                ) from None
            raise DataError(
                f'{folder}: has no {MANIFEST}, so it is not a finished data folder; run "gptlab data prepare"'
            ) from None
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise DataError(f'{path}: is not a manifest of "gptlab data prepare" ({error})') from error

    def save(self, folder: Path) -> None:
        """Write the manifest, which marks the folder as finished."""
        with whole_file(folder / MANIFEST) as file:
            file.write((json.dumps(asdict(self), indent=2) + "\n").encode())

    def split(self, split: str) -> list[Shard]:
        """List the shards of `train` or `val`."""
        return [shard for shard in self.shards if shard.split == split]

    @property
    def remedy(self) -> str:
        """How to repair a missing or damaged shard."""
        return REMEDIES[self.made_by]

    def read_shard(self, folder: str | Path, shard: Shard) -> Tokens:
        """Map a shard's tokens into memory without reading them.

        Raises:
            DataError: it is missing, damaged, or has another length than the manifest says.
        """
        path = Path(folder) / shard.file
        tokens = read_shard(path, self.remedy)
        if tokens.size != shard.tokens:
            raise DataError(
                f"shard {path}: holds {tokens.size:,} tokens, {MANIFEST} says {shard.tokens:,}; "
                f"delete it and {self.remedy}"
            )
        return tokens

    @property
    def fingerprint(self) -> str:
        """A hash of all shards' hashes: equal for equal tokens, wherever the folder is."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    def load_tokenizer(self, folder: str | Path) -> Tokenizer:
        """Load the tokenizer that made the tokens.

        Raises:
            DataError: it is missing, or is a different one.
        """
        return self.tokenizer.load(folder, "put that one back")

    def check_reader(self, folder: str | Path, reader: Tokenizer) -> None:
        """Check that a model's tokenizer is the one that made the tokens.

        Raises:
            DataError: the vocabularies differ.
        """
        if reader.hash != self.tokenizer.hash:
            raise DataError(
                f"{folder}: its tokenizer is {self.tokenizer}, the model reads {reader.name} ({reader.hash[:12]}); "
                "prepare the text again with the model's own"
            )

    def summary(self) -> dict[str, Any]:
        """Count shards, tokens, documents and text bytes, by split."""
        return {
            "source": self.source,
            "revision": self.revision,
            "tokenizer": self.tokenizer.name,
            "vocab_size": self.tokenizer.vocab_size,
            "validation": self.validation,
            "dropped": self.dropped,
        } | {
            split: {
                "shards": len(self.split(split)),
                "tokens": sum(shard.tokens for shard in self.split(split)),
                "documents": sum(shard.documents for shard in self.split(split)),
                "text_bytes": sum(shard.text_bytes for shard in self.split(split)),
            }
            for split in SPLITS
        }


REMEDIES = {
    "prepare": REBUILD,
    "adopt": f"put the original back, or delete {MANIFEST} and adopt the folder as it is",
    "fetch": 'run "gptlab data fetch" again to replace it',
}
"""How to repair a damaged shard, by the command that made the folder."""


def told(facts: dict[str, Any]) -> str:
    """Write a manifest's summary for people."""
    train, val, dropped = facts["train"], facts["val"], facts["dropped"]
    copies = f", {dropped['documents']:,} copies of {dropped['tokens']:,} tokens left out" if dropped else ""
    return (
        f"{train['tokens']:,} tokens to train on in {train['shards']} shard(s), "
        f"{val['tokens']:,} to validate on, tokenizer {facts['tokenizer']}{copies}"
    )
