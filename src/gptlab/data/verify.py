"""Verify: checking every shard of a data folder against its manifest, token by token."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.data.manifest import MANIFEST, Manifest, Shard
from gptlab.data.shards import HEADER_BYTES, TOKEN, check_range, read_shard
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import DataError
from gptlab.progress import Progress

CHUNK_BYTES = 8_000_000  # read at a time, so that memory does not grow with the shard


def verify(folder: str | Path) -> dict[str, Any]:
    """Check every shard of a data folder against its manifest, token by token; return the manifest's summary.

    Raises:
        DataError: the first difference found.
    """
    folder = Path(folder)
    manifest = Manifest.load(folder)
    tokenizer = manifest.load_tokenizer(folder)
    for path in sorted(folder.glob("*.bin")):
        if path.name not in {shard.file for shard in manifest.shards}:
            raise DataError(
                f"shard {path}: is not in {MANIFEST}; move it elsewhere, as other programs would read it"
            )
    with Progress("verifying", sum(shard.bytes for shard in manifest.shards), "B") as progress:
        for shard in manifest.shards:
            _verify_shard(folder, manifest, shard, tokenizer, progress)
    return manifest.summary()


def _verify_shard(
    folder: Path, manifest: Manifest, shard: Shard, tokenizer: Tokenizer, progress: Progress
) -> None:
    path, remedy = folder / shard.file, f"delete it and {manifest.remedy}"
    first = manifest.read_shard(folder, shard)[0]
    if manifest.made_by == "prepare" and first != tokenizer.end_of_text:
        raise DataError(
            f"shard {path}: begins with token {first}, not with end-of-text {tokenizer.end_of_text}; {remedy}"
        )
    held = measure(path, shard.split, tokenizer, progress, remedy)
    for what, ours, said in (
        ("documents", held.documents, shard.documents),
        ("bytes of text", held.text_bytes, shard.text_bytes),
        ("bytes", held.bytes, shard.bytes),
    ):
        if ours != said:
            raise DataError(f"shard {path}: holds {ours:,} {what}, {MANIFEST} says {said:,}; {remedy}")
    if held.sha256 != shard.sha256:
        raise DataError(f"shard {path}: its sha256 differs from the one in {MANIFEST}; {remedy}")


def measure(
    path: Path,
    split: str,
    tokenizer: Tokenizer,
    progress: Progress,
    remedy: str,
    wrong_vocabulary: str = "",
) -> Shard:
    """Read a shard once, and describe it as a manifest does.

    `wrong_vocabulary` is the remedy for a token outside the vocabulary, if it is another.

    Raises:
        DataError: the shard is damaged, or a token is outside the vocabulary.
    """
    tokens = read_shard(path, remedy).size
    documents = text_bytes = position = 0
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(HEADER_BYTES))
        while raw := file.read(CHUNK_BYTES):
            digest.update(raw)
            chunk = np.frombuffer(raw, TOKEN)
            check_range(chunk, tokenizer.vocab_size, path, position, wrong_vocabulary or remedy)
            documents += int(np.count_nonzero(chunk == tokenizer.end_of_text))
            text_bytes += int(tokenizer.token_bytes[chunk].sum())
            position += chunk.size
            progress.advance(len(raw))
    return Shard(
        file=path.name,
        split=split,
        tokens=tokens,
        documents=documents,
        bytes=HEADER_BYTES + tokens * TOKEN.itemsize,
        text_bytes=text_bytes,
        sha256=digest.hexdigest(),
    )
