"""Adopt: writing a manifest for a folder of shards that another program wrote, without changing them.

llm.c and modded-nanogpt write the same format as prepare, but cut the stream of documents at a fixed number of tokens,
so that a shard may begin inside a document.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.manifest import MANIFEST, Manifest, Shard, TokenizerRecord
from gptlab.data.shards import read_shard
from gptlab.data.tokenizer import Tokenizer
from gptlab.data.verify import measure
from gptlab.errors import DataError
from gptlab.outputs import require_writable
from gptlab.progress import Progress

_VALIDATION = {"val", "valid", "validation"}
_REMEDY = "copy or download it again"


def adopt(folder: str | Path, *, tokenizer: str | Path = "gpt2", val: Sequence[Path] = ()) -> dict[str, Any]:
    """Read every shard of a folder, and write the manifest that the rest of gptlab needs.

    Returns:
        The manifest's summary, and `already_adopted` (there was nothing to do).

    Raises:
        DataError: a file is not a whole shard, a token is outside the vocabulary, there is nothing left to train on,
            or the folder has changed since it was adopted.
        ConfigError: the manifest cannot be written.
    """
    folder = Path(folder)
    paths = _shard_files(folder)
    splits, validation = choose_splits([path.name for path in paths], [_inside(path, folder) for path in val])
    there = Manifest.load(folder) if (folder / MANIFEST).exists() else None
    if there is not None and there.made_by != "adopt":
        raise DataError(
            f'{folder}: was made by "gptlab data {there.made_by}" and has a manifest; there is nothing to adopt'
        )
    require_writable(folder / MANIFEST)  # before the shards are read
    encoder = load_tokenizer(tokenizer)
    manifest = Manifest(
        tokenizer=TokenizerRecord.of(encoder),
        source=folder.resolve().name,
        revision="as it was found",
        settings={},
        validation=validation,
        shards=_measure_all(paths, splits, encoder),
        made_by="adopt",
    )
    if there is None:
        encoder.save(folder)
        manifest.save(folder)
    elif differences := _differences(there, manifest):
        raise DataError(
            f"{folder}: is already adopted, but {'; '.join(differences)}; adopt it as before, or delete "
            f"{MANIFEST} to adopt it again"
        )
    return manifest.summary() | {"already_adopted": there is not None}


def choose_splits(names: Sequence[str], val: Sequence[str] = ()) -> tuple[dict[str, str], str]:
    """Return the split of each file, and in words how it was chosen.

    Args:
        names: the files, in order.
        val: the files that validate, if the user chose any.

    Raises:
        DataError: nothing is left to train on.
    """
    if val:
        held_out, words = set(val), "the files that were named"
    elif held_out := {name for name in names if _VALIDATION & set(re.split("[^a-z]+", name.lower()))}:
        words = "the files with val in their name"
    else:
        held_out, words = {names[0]}, f"the first file ({names[0]})"
    if held_out == set(names):
        raise DataError(
            f"{', '.join(names)}: would all validate, with nothing left to train on; add shards, or choose "
            "the validation shards with --val"
        )
    return {name: "val" if name in held_out else "train" for name in names}, words


def wrong_tokenizer(encoder: Tokenizer) -> str:
    """Tell the user what to do about tokens outside the vocabulary."""
    return f"the tokens are not {encoder.name}'s: choose another --tokenizer"


def _shard_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder of the .bin files")
    found = sorted(folder.glob("*.bin"))
    if not found:
        for array in sorted(folder.glob("*.npy"))[:1]:
            read_shard(array)  # raises an error that says what the file is
        raise DataError(f"{folder}: holds no .bin files; give the folder that does")
    return found


def _inside(path: Path, folder: Path) -> str:
    for file in (path, folder / path):
        if file.is_file() and file.parent.resolve() == folder.resolve():
            return file.name
    raise DataError(f"--val {path}: is not a file of {folder}; name one of its shards")


def _measure_all(paths: Sequence[Path], splits: dict[str, str], encoder: Tokenizer) -> tuple[Shard, ...]:
    # All headers first, so that a file which is not a shard is found at once, not after minutes.
    for path in paths:
        read_shard(path, _REMEDY)
    with Progress("reading shards", sum(path.stat().st_size for path in paths), "B") as progress:
        shards = [
            measure(path, splits[path.name], encoder, progress, _REMEDY, wrong_tokenizer(encoder))
            for path in paths
        ]
    return tuple(sorted(shards, key=lambda shard: shard.split))  # stable: each split keeps its order


def _differences(there: Manifest, now: Manifest) -> list[str]:
    """List what has changed in a folder since it was adopted."""
    before = {shard.file: shard for shard in there.shards}
    after = {shard.file: shard for shard in now.shards}
    differences = [f"{name} is gone" for name in before.keys() - after.keys()]
    differences += [f"{name} is new" for name in after.keys() - before.keys()]
    for name in before.keys() & after.keys():
        if before[name].split != after[name].split:
            differences.append(f"{name} was for {before[name].split}, is now for {after[name].split}")
        elif before[name] != after[name]:
            differences.append(f"{name} has changed")
    if there.tokenizer != now.tokenizer:
        differences.append(f"the tokenizer was {there.tokenizer}, is now {now.tokenizer}")
    return sorted(differences)
