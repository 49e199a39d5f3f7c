"""Verify: every shard of a prepared folder against its manifest, token by token."""

from pathlib import Path
from typing import Any

import numpy as np

from gptlab.data.manifest import MANIFEST, Manifest, Shard
from gptlab.data.shards import REBUILD, check_range, file_sha256, read_shard
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import DataError
from gptlab.progress import Progress

_VERIFY_TOKENS = 4_000_000  # read at a time, so that memory does not grow with the shard


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
            f"shard {path}: holds {tokens.size:,} tokens, {MANIFEST} says {shard.tokens:,}; {REBUILD}"
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
                f"shard {path}: holds {held:,} {what}, {MANIFEST} says {said:,}; delete it and {REBUILD}"
            )
    if file_sha256(path) != shard.sha256:
        raise DataError(f"shard {path}: its sha256 is not the one in {MANIFEST}; delete it and {REBUILD}")
