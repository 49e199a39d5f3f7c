"""What a preparation was asked for, everything looked up."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptlab.data.manifest import MANIFEST, Manifest, Shard, TokenizerRecord
from gptlab.data.sources.hub_source import PREFIX
from gptlab.data.sources.inputs import Source
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import DataError
from gptlab.parsing import parse_json, typed
from gptlab.storage import whole_file

PARTIAL = ".partial"
BEGUN = "source.json"  # in PARTIAL: of which source and revision it is
VAL_FRACTION = 0.01
MAX_VAL_TOKENS = 10_485_760  # what llm.c validates on

Deduplicate = Literal["exact"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A source, a tokenizer, a folder, and how much to make of them."""

    source: Source
    out: Path
    encoder: Tokenizer
    val_tokens: int | None
    max_tokens: int | None
    shard_tokens: int
    text_column: str | None
    deduplicate: Deduplicate | None
    workers: int
    """Processes at once; no part of what identifies the result."""

    @property
    def partial(self) -> Path:
        """Where the jobs' results lie until the shards are written."""
        return self.out / PARTIAL

    @property
    def val_fraction(self) -> float:
        """Which part of the documents is for validation, whatever part of the source is prepared.

        Raises:
            DataError: it would be over half.
        """
        tokens = self.source.bytes / self.encoder.bytes_per_token
        if self.val_tokens is None:
            return min(VAL_FRACTION, MAX_VAL_TOKENS / tokens)
        if self.val_tokens > tokens / 2:
            raise DataError(
                f'val_tokens {self.val_tokens:,}: over half of source "{self.source.name}", which holds '
                f"about {tokens:,.0f} tokens; ask for fewer"
            )
        return self.val_tokens / tokens

    def manifest(
        self, validation: str = "", shards: Sequence[Shard] = (), dropped: dict[str, int] | None = None
    ) -> Manifest:
        """Describe the folder this plan makes."""
        return Manifest(
            tokenizer=TokenizerRecord.of(self.encoder),
            source=self.source.name,
            revision=self.source.revision,
            settings={
                "val_tokens": self.val_tokens,
                "max_tokens": self.max_tokens,
                "shard_tokens": self.shard_tokens,
                "text_column": self.text_column,
                "deduplicate": self.deduplicate,
            },
            validation=validation,
            shards=tuple(shards),
            dropped=dropped,
        )

    def differences(self, there: Manifest) -> list[str]:
        """Say in what a folder's manifest is another plan's, as `source revision was a, is now b`."""
        wanted = self.manifest()
        same = there.revision == self.source.earlier
        compared = [
            ("tokenizer", there.tokenizer.name, wanted.tokenizer.name),
            ("tokenizer hash", there.tokenizer.hash, wanted.tokenizer.hash),
            ("source revision", there.revision, there.revision if same else wanted.revision),
            *((name, there.settings.get(name), value) for name, value in wanted.settings.items()),
        ]
        return [f"{name} was {was}, is now {now}" for name, was, now in compared if was != now]


def note_revision(plan: Plan) -> None:
    """Write down which revision of its source a preparation has begun with."""
    with whole_file(plan.partial / BEGUN) as file:
        file.write(json.dumps([plan.source.name, plan.source.revision]).encode())


def revision_begun(out: Path, source: str) -> str | None:
    """Return the revision of a source that an earlier run prepared or began with, if it can be had again."""
    if (out / MANIFEST).exists():
        there = Manifest.load(out)
        name, revision = there.source, there.revision
    elif (out / PARTIAL / BEGUN).exists():
        try:
            name, revision = typed(tuple[str, str], parse_json((out / PARTIAL / BEGUN).read_bytes()))
        except ValueError:  # what is damaged is begun anew
            return None
    else:
        return None
    return revision if name == source and revision.startswith(PREFIX) else None
