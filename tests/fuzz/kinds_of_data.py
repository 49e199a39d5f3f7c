"""Text, tokenizers, shards and what lies beside them: what is whole, how it is read, and what holds of the result."""

import gzip
import hashlib
import json
from pathlib import Path

from forms import pack_zstd
from kind import Kind

from gptlab.errors import GptlabError

LINES = [f"Line {number} of a text that says little, and says it {number % 7} times." for number in range(40)]


def a_prepared_folder(folder: Path) -> None:
    from gptlab.data.prepare.prepare import prepare

    source = folder / "source.jsonl"
    source.write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES))
    prepare(source, folder / "data", tokenizer="bytes", val_tokens=200, shard_tokens=1000, workers=1)
    source.unlink()


def read_prepared(folder: Path) -> None:
    """Counts are of the shards as they are, names lie within, and every window is tokens of the vocabulary."""
    from gptlab.data.audit.inspect import inspect
    from gptlab.data.batches import TrainBatches, Windows
    from gptlab.data.manifest import SPLITS, Manifest
    from gptlab.data.verify import verify

    folder = folder / "data"
    manifest = Manifest.load(folder)
    names = [shard.file for shard in manifest.shards]
    assert len(set(names)) == len(names)
    assert all(Path(name).name == name and (folder / name).parent == folder for name in names)
    assert all(
        min(s.tokens, s.documents, s.bytes, s.text_bytes) >= 0 and s.split in SPLITS for s in manifest.shards
    )
    json.dumps(manifest.summary())
    batches = TrainBatches(Windows(folder, "train", 16), seed=1)
    ids, targets = batches.batch(0, 4)
    assert ids.shape == targets.shape == (4, 16)
    inspect(folder)
    assert verify(folder)["train"]["tokens"] == sum(s.tokens for s in manifest.split("train"))


def mend_shards(folder: Path) -> None:
    manifest = folder / "data" / "manifest.json"
    raw = json.loads(manifest.read_bytes())
    for shard in raw["shards"]:
        content = (folder / "data" / shard["file"]).read_bytes()
        shard |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest.write_text(json.dumps(raw))


def adopt_shards(folder: Path) -> None:
    from gptlab.data.adopt import adopt
    from gptlab.data.verify import verify

    (folder / "data" / "manifest.json").unlink()
    adopt(folder / "data", tokenizer="bytes")
    verify(folder / "data")


def a_part(folder: Path) -> None:
    from gptlab.data.prepare.prepare import prepare

    for number in (1, 2):
        (folder / f"source{number}.txt").write_text("\n".join(LINES[number::2]))
    a_tokenizer(folder)
    for number in (1, 2):
        prepare(folder, folder / "data", tokenizer=folder / "tokenizer.json", workers=1, part=f"{number}/2")


def merge_parts(folder: Path) -> None:
    """What was merged verifies."""
    from gptlab.data.prepare.prepare import merge
    from gptlab.data.verify import verify

    merge(folder / "data")
    verify(folder / "data")


def a_tokenizer(folder: Path) -> None:
    from gptlab.data.train_tokenizer import train_tokenizer

    (folder / "tokenizer.json").write_text(train_tokenizer(LINES, 290).to_str())


def read_tokenizer(folder: Path) -> None:
    """It has no more ids than its file has letters, and gives a text back."""
    from gptlab.data.load_tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder / "tokenizer.json")
    ids = tokenizer.encode(LINES[0])
    assert 0 < tokenizer.vocab_size <= (folder / "tokenizer.json").stat().st_size
    assert max(ids) < tokenizer.vocab_size
    assert tokenizer.decode(ids) == LINES[0]
    assert len(tokenizer.hash) == 64


def sources(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    text = "".join(json.dumps({"text": line, "id": 3}) + "\n" for line in LINES)
    (folder / "plain.jsonl").write_text(text)
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "packed.jsonl.zst").write_bytes(pack_zstd(text.encode()))
    (folder / "one.txt").write_text("\n".join(LINES))
    for name, packed in (("plain", "NONE"), ("packed", "ZSTD")):
        table = pyarrow.table({"text": LINES, "id": list(range(len(LINES)))})
        pyarrow.parquet.write_table(table, folder / f"{name}.parquet", row_group_size=16, compression=packed)


def read_sources(folder: Path) -> None:
    """Every document is a text that UTF-8 can hold, and none is empty."""
    from gptlab.data.sources.files import cut_file

    problems: list[GptlabError] = []
    for file in sorted(folder.iterdir()):
        try:
            for piece in cut_file(file, None):
                assert piece.bytes >= 0
                assert all(text and text.encode() for text in piece.documents())
        except GptlabError as error:
            problems.append(error)
    if problems:
        raise problems[0]


def hellaswag_items(folder: Path) -> None:
    item = {"activity_label": "Baking", "ctx_a": "A cook breaks eggs.", "ctx_b": "she", "label": 2}
    item |= {
        "ctx": "A cook breaks eggs. she",
        "endings": ["sings.", "[title] stirs.", "whisks them.", "sleeps."],
    }
    lines = (json.dumps({"ind": number, **item}) + "\n" for number in range(5))
    (folder / "items.jsonl").write_text("".join(lines))


def read_hellaswag(folder: Path) -> None:
    """An example has four endings and one of them is right, and both protocols can ask it."""
    from gptlab.data.load_tokenizer import load_tokenizer
    from gptlab.eval.hellaswag import PROTOCOLS, read

    encode = load_tokenizer("bytes").encode
    for example in read(folder / "items.jsonl"):
        assert len(example.endings) == 4
        assert 0 <= example.label < 4
        for ask in PROTOCOLS.values():
            ask(example, encode)


DATA = {
    "manifest": Kind(
        a_prepared_folder, {"data/manifest.json": "json"}, read_prepared, ("data", "verify", "{folder}/data")
    ),
    "shards": Kind(
        a_prepared_folder,
        {"data/*.bin": "bytes"},
        read_prepared,
        ("data", "inspect", "{folder}/data"),
        mend=mend_shards,
    ),
    "adopted shards": Kind(a_prepared_folder, {"data/*.bin": "bytes"}, adopt_shards, writes=True),
    "parts": Kind(
        a_part,
        {"data/.partial/*.json": "json", "data/.partial/*.npy": "bytes", "data/.partial/*.tokens": "bytes"},
        merge_parts,
        ("data", "merge", "{folder}/data"),
        writes=True,
    ),
    "tokenizer": Kind(a_tokenizer, {"tokenizer.json": "json"}, read_tokenizer),
    "sources": Kind(
        sources,
        {"*.jsonl": "lines", "*.gz": "gzip", "*.zst": "zstd", "*.txt": "bytes", "*.parquet": "bytes"},
        read_sources,
    ),
    "hellaswag": Kind(hellaswag_items, {"items.jsonl": "lines"}, read_hellaswag),
}
