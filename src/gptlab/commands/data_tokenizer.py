"""`gptlab data tokenizer`."""

from pathlib import Path
from typing import Any

from gptlab.errors import ConfigError


def run(source: str, out: Path, /, *, vocab_size: int, text_column: str | None = None) -> dict[str, Any]:
    """Train a byte-level BPE tokenizer.

    Args:
        source: as for `gptlab data prepare`.
        out: the JSON file to write.
        vocab_size: entries, including end-of-text and the 256 bytes.
        text_column: the column of the text in .jsonl and .parquet; None finds it.
    """
    from gptlab.data.sources.table import find_source
    from gptlab.data.train_tokenizer import train_tokenizer
    from gptlab.outputs import require_writable
    from gptlab.storage import whole_file

    if out.exists():
        raise ConfigError(f"{out}: exists; choose another file, or delete it first")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: there is no folder {out.parent}; make it first")
    require_writable(out)
    trained = train_tokenizer(find_source(source, text_column).documents(), vocab_size)
    with whole_file(out) as file:
        file.write(trained.to_str(pretty=True).encode())
    entries = trained.get_vocab_size()
    print(f"{out}: {entries:,} entries" + (" (the text gives no more)" if entries < vocab_size else ""))
    return {"file": str(out), "vocab_size": entries}
