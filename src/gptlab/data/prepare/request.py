"""What a preparation was asked for, with source and tokenizer found."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from gptlab.data.manifest import MANIFEST, PARTIAL, Manifest, Shard, TokenizerRecord
from gptlab.data.shards import MAX_SHARD_TOKENS
from gptlab.data.sources.hub_source import PREFIX
from gptlab.data.sources.source import Source
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import DataError
from gptlab.parsing import parse_json, typed
from gptlab.storage import whole_file

BEGUN = "source.json"  # in PARTIAL: the source and revision of the unfinished preparation
VAL_FRACTION = 0.01
MAX_VAL_TOKENS = 10_485_760  # as many as llm.c validates on

Deduplicate = Literal["exact"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a manifest records of the request besides source and tokenizer; see `prepare` for their meaning."""

    val_tokens: int | None
    max_tokens: int | None
    shard_tokens: int
    text_column: str | None
    deduplicate: Deduplicate | None

    def __post_init__(self) -> None:
        check_count("val_tokens", self.val_tokens)
        check_count("max_tokens", self.max_tokens)
        check_count("shard_tokens", self.shard_tokens, MAX_SHARD_TOKENS)


@dataclass(frozen=True)
class SourcePart:
    """The part of a source that one of several machines encodes: a range of its bytes."""

    number: int
    """Which part, from 1."""
    of: int
    """How many parts there are."""

    @staticmethod
    def read(text: str) -> "SourcePart":
        """Read `3/16`.

        Raises:
            DataError: the text is not a part.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise DataError(f"--part {text}: must be I/N with I from 1 to N, as in 3/16")
        return SourcePart(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def range(self, total: int) -> range:
        """Return its range of `total` bytes."""
        return range(total * (self.number - 1) // self.of, total * self.number // self.of)


WHOLE = SourcePart(1, 1)


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """A source, a tokenizer, a folder, and how much of the source to prepare."""

    source: Source
    out: Path
    encoder: Tokenizer
    settings: Settings
    workers: int
    """How many processes; does not change the result."""
    part: SourcePart = WHOLE

    @property
    def partial(self) -> Path:
        """Where the jobs' results are until the shards are written."""
        return self.out / PARTIAL

    @property
    def val_fraction(self) -> float:
        """The fraction of documents held out for validation; the same however much of the source is prepared.

        Raises:
            DataError: it would be over half.
        """
        tokens, val_tokens = self.source.bytes / self.encoder.bytes_per_token, self.settings.val_tokens
        if val_tokens is None:
            return min(VAL_FRACTION, MAX_VAL_TOKENS / tokens)
        if val_tokens > tokens / 2:
            raise DataError(
                f'val_tokens {val_tokens:,}: over half of source "{self.source.name}", which holds '
                f"about {tokens:,.0f} tokens; ask for fewer"
            )
        return val_tokens / tokens

    def manifest(
        self, validation: str = "", shards: Sequence[Shard] = (), dropped: dict[str, int] | None = None
    ) -> Manifest:
        """Describe the folder that this plan makes."""
        return Manifest(
            tokenizer=TokenizerRecord.of(self.encoder),
            source=self.source.name,
            revision=self.source.revision,
            settings=asdict(self.settings),
            validation=validation,
            shards=tuple(shards),
            dropped=dropped,
        )

    def note_revision(self) -> None:
        """Record in the folder which revision of its source this preparation began with."""
        with whole_file(self.partial / BEGUN) as file:
            file.write(json.dumps([self.source.name, self.source.revision]).encode())

    def differences(self, there: Manifest) -> list[str]:
        """List how a folder's manifest differs from this plan, as `source revision was a, is now b`."""
        wanted = self.manifest()
        same = there.revision == self.source.earlier
        compared = [
            ("tokenizer", there.tokenizer.name, wanted.tokenizer.name),
            ("tokenizer hash", there.tokenizer.hash, wanted.tokenizer.hash),
            ("source revision", there.revision, there.revision if same else wanted.revision),
            *((name, there.settings.get(name), value) for name, value in wanted.settings.items()),
        ]
        return [f"{name} was {was}, is now {now}" for name, was, now in compared if was != now]


def check_count(name: str, value: int | None, most: int = 2**63 - 1) -> None:
    """Raise ValueError unless a number that the user chose lies between 1 and `most`."""
    if value is not None and not 1 <= value <= most:
        raise ValueError(f"{name} {value:,}: must lie between 1 and {most:,}")


def revision_begun(out: Path, source: str) -> str | None:
    """Return the revision of a hub source that an earlier run finished or began with; None for any other folder."""
    if (out / MANIFEST).exists():
        there = Manifest.load(out)
        name, revision = there.source, there.revision
    elif (out / PARTIAL / BEGUN).exists():
        try:
            name, revision = typed(tuple[str, str], parse_json((out / PARTIAL / BEGUN).read_bytes()))
        except ValueError:  # damaged: begin again
            return None
    else:
        return None
    return revision if name == source and revision.startswith(PREFIX) else None
