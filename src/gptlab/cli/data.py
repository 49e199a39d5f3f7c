"""The commands about data: `gptlab data ...`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from gptlab.errors import ConfigError


def prepare(
    source: str,
    out: Path,
    /,
    *,
    tokenizer: str = "gpt2",
    val_tokens: int | None = None,
    max_tokens: int | None = None,
    workers: int | None = None,
    text_column: str | None = None,
    deduplicate: Literal["exact"] | None = None,
    engine: Literal["processes", "ray"] = "processes",
    part: str | None = None,
) -> dict[str, Any]:
    """Turn documents into shards of tokens; run again to continue.

    Args:
        source: a name of `gptlab data list`, a file or folder of .txt, .json, .jsonl or .parquet, packed or not, or a
            data set on the Hugging Face hub, as hf:OWNER/NAME[@REVISION][:CONFIGURATION_OR_PATH].
        out: the prepared folder.
        tokenizer: gpt2, bytes, or a file of `gptlab data tokenizer`.
        val_tokens: about how many tokens to hold out, of the last document a part where few are long; None is a
            hundredth.
        max_tokens: stop after about that many; None is all.
        workers: processes; None is one for each core.
        text_column: where the text is, in .json, .jsonl and .parquet; None finds it.
        deduplicate: `exact` leaves out documents equal to an earlier one; max_tokens counts before that.
        engine: `processes` of this machine, or `ray`, a cluster that sees OUT as this machine does.
        part: I/N does one of N shares, for `gptlab data merge`; None is all.
    """
    from gptlab.data.prepare import prepare

    facts = prepare(
        source,
        out,
        tokenizer=tokenizer,
        val_tokens=val_tokens,
        max_tokens=max_tokens,
        workers=workers,
        text_column=text_column,
        deduplicate=deduplicate,
        engine=engine,
        part=part,
    )
    if "part" in facts:
        print(f"{out}: part {facts['part']} is done, {facts['tokens']:,} tokens in {facts['jobs']} job(s)")
        print(f"when all are there: gptlab data merge {out}")
        return facts
    done = "was prepared already" if facts["already_prepared"] else f"prepared in {facts['seconds']:.0f} s"
    print(f"{out}: {done}, {_tokens(facts)}")
    return facts


def merge(out: Path, folders: tuple[Path, ...] = (), /) -> dict[str, Any]:
    """Put the parts of a preparation together.

    Args:
        out: the prepared folder, where the parts lie.
        folders: where parts lie that are not in OUT.
    """
    from gptlab.data.prepare import merge

    facts = merge(out, folders)
    done = "was prepared already" if facts["already_prepared"] else f"merged in {facts['seconds']:.0f} s"
    print(f"{out}: {done}, {_tokens(facts)}")
    return facts


def adopt(folder: Path, /, *, tokenizer: str = "gpt2", val: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Give a folder of llm.c's or modded-nanogpt's .bin files a manifest; the files stay as they are.

    Args:
        folder: where the files lie.
        tokenizer: the one that made them: gpt2, bytes, or a file of `gptlab data tokenizer`.
        val: the files that validate; none is those with val in their name, else the first.
    """
    from gptlab.data.adopt import adopt

    facts = adopt(folder, tokenizer=tokenizer, val=val)
    done = "was adopted already" if facts["already_adopted"] else "adopted"
    print(f"{folder}: {done}, {_tokens(facts)}; validation: {facts['validation']}")
    return facts


def fetch(
    name: str, out: Path, /, *, max_tokens: int | None = None, tokenizer: str = "gpt2"
) -> dict[str, Any]:
    """Bring shards that are tokenized already from the Hugging Face hub; run again to continue.

    Args:
        name: a ready set of `gptlab data list`, or hf:OWNER/NAME[:PATTERN].
        out: the data folder.
        max_tokens: stop with the shard that makes so many to train on; None brings all.
        tokenizer: the one that made them: gpt2, bytes, or a file of `gptlab data tokenizer`.
    """
    from gptlab.data.fetch import fetch

    facts = fetch(name, out, max_tokens=max_tokens, tokenizer=tokenizer)
    done = f"{facts['fetched']} shard(s) fetched" if facts["fetched"] else "is all there"
    print(f"{out}: {done}, {_tokens(facts)}; validation: {facts['validation']}")
    return facts


def verify(folder: Path, /) -> dict[str, Any]:
    """Check every shard of a prepared folder against its manifest.

    Args:
        folder: the prepared folder.
    """
    from gptlab.data.verify import verify

    facts = verify(folder)
    print(f"{folder}: all as the manifest says, {_tokens(facts)}")
    return facts


def _tokens(facts: Mapping[str, Any]) -> str:
    train, val, dropped = facts["train"], facts["val"], facts["dropped"]
    copies = f", {dropped['documents']:,} copies of {dropped['tokens']:,} tokens left out" if dropped else ""
    return (
        f"{train['tokens']:,} tokens to train on in {train['shards']} shard(s), "
        f"{val['tokens']:,} to validate on, tokenizer {facts['tokenizer']}{copies}"
    )


def inspect(folder: Path, /, *, out: Path | None = None) -> dict[str, Any]:
    """Show what a prepared folder holds: numbers, lengths, copies, some documents.

    Args:
        folder: the prepared folder.
        out: folder for the same as a page, `index.html`, with its pictures; None writes none.
    """
    from gptlab.data.inspect import inspect
    from gptlab.datasheet import refuse_place, told, write_page

    if out is not None:
        refuse_place(folder, out)
    facts = inspect(folder)
    print(told(facts))
    if out is not None:
        facts["files"] = write_page(facts, out)
        print(f"\n{out / 'index.html'}: written, and {len(facts['files']) - 1} picture(s)")
    return facts


def contamination(
    folder: Path,
    /,
    *,
    task: Literal["hellaswag", "continuation"] | None = None,
    data: Path | None = None,
    items: Path | None = None,
    text_column: str | None = None,
    n: int = 13,
    workers: int | None = None,
) -> dict[str, Any]:
    """Search the training shards for word n-grams of a task's items.

    Args:
        folder: the prepared folder.
        task: whose items to look for.
        data: HellaSwag's JSONL; None downloads it.
        items: instead of a task, .txt, .jsonl or .parquet whose documents to look for.
        text_column: where the text of these is, in .jsonl and .parquet; None finds it.
        n: words of an n-gram; 13 is GPT-3's.
        workers: processes; None is one for each core.
    """
    from gptlab.contamination import contamination, told

    facts = contamination(
        folder, task=task, data=data, items=items, text_column=text_column, n=n, workers=workers
    )
    print(told(facts))
    return facts


def list_sources() -> dict[str, Any]:
    """List the sources that are known by name, and the sets of shards that are ready."""
    from gptlab.data import sources as known
    from gptlab.data.fetch import READY

    sources = known.list_sources()
    ready = [
        {"name": name, "size": found.size, "description": found.description} for name, found in READY.items()
    ]
    for command, listed in (("prepare", sources), ("fetch", ready)):
        print(f"for gptlab data {command}:")
        for entry in listed:
            print(f"  {entry['name']:<16} {entry['size']:>8}  {entry['description']}")
    print("for both: hf:OWNER/NAME and so on, any data set on the Hugging Face hub, of text or of shards")
    return {"sources": sources, "ready": ready}


def tokenizer(
    source: str, out: Path, /, *, vocab_size: int, text_column: str | None = None
) -> dict[str, Any]:
    """Train a byte-level BPE tokenizer.

    Args:
        source: as for `gptlab data prepare`.
        out: the JSON file to write.
        vocab_size: entries, end-of-text and the 256 bytes among them.
        text_column: where the text is, in .jsonl and .parquet; None finds it.
    """
    from gptlab.data.shards import aside
    from gptlab.data.sources import documents
    from gptlab.data.tokenizer import train_tokenizer
    from gptlab.outputs import unwritable

    if out.exists():
        raise ConfigError(f"{out}: exists; choose another file, or delete it first")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: there is no folder {out.parent}; make it first")
    if (refusal := unwritable(out)) is not None:
        raise ConfigError(refusal)
    trained = train_tokenizer(documents(source, text_column), vocab_size)
    with aside(out) as file:
        file.write(trained.to_str(pretty=True).encode())
    entries = trained.get_vocab_size()
    print(f"{out}: {entries:,} entries" + (" (the text gives no more)" if entries < vocab_size else ""))
    return {"file": str(out), "vocab_size": entries}
