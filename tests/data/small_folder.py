"""A small data folder of byte tokens, and ways to damage one."""

import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.manifest import Manifest, TokenizerRecord
from gptlab.data.prepare.writer import ShardWriter
from gptlab.data.shards import read_shard

END = 256  # end-of-text of the bytes tokenizer
DOCUMENTS = [[END, *b"one"], [END, *b"and two"], [END, *b"3"], [END, *b"the fourth, longer than the rest"]]


def make_folder(folder: Path, shard_tokens: int = 13) -> Path:
    """Write a small prepared folder of byte tokens: two shards of train, one of val."""
    tokenizer = load_tokenizer("bytes")
    with ShardWriter(folder, "train", shard_tokens, tokenizer.token_bytes) as train:
        for document in DOCUMENTS:
            train.add(np.array(document, np.uint16))
    with ShardWriter(folder, "val", shard_tokens, tokenizer.token_bytes) as val:
        val.add(np.array([END, *b"held out"], np.uint16))
    Manifest(
        tokenizer=TokenizerRecord.of(tokenizer),
        source="a test",
        revision="1",
        settings={},
        validation="one document",
        shards=(*train.shards, *val.shards),
    ).save(folder)
    return folder


def overwrite(position: int, token: int) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        raw = bytearray(path.read_bytes())
        raw[1024 + 2 * position : 1026 + 2 * position] = struct.pack("<H", token)
        path.write_bytes(raw)

    return apply


def replace(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def documents_of(folder: Path, split: str) -> list[str]:
    """Decode a split's documents using only the format."""
    tokenizer = Manifest.load(folder).load_tokenizer(folder)
    found: list[str] = []
    for path in sorted(folder.glob(f"{split}_*.bin")):
        tokens = np.asarray(read_shard(path))
        starts = [*np.flatnonzero(tokens == tokenizer.end_of_text).tolist(), tokens.size]
        found += [tokenizer.decode(tokens[a + 1 : b]) for a, b in pairwise(starts)]
    return found
