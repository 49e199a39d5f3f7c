"""`gptlab data prepare`."""

from pathlib import Path
from typing import Any, Literal


def run(
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
        source: a name from `gptlab data list`, a file or folder of .txt, .json, .jsonl or .parquet, compressed or not,
            or a data set on the Hugging Face hub, as hf:OWNER/NAME[@REVISION][:CONFIGURATION_OR_PATH].
        out: the prepared folder.
        tokenizer: gpt2, bytes, or a file from `gptlab data tokenizer`.
        val_tokens: about how many tokens to hold out, splitting the last document if there are only a few long ones;
            None means a hundredth.
        max_tokens: stop after about this many; None means all.
        workers: processes; None means one per core.
        text_column: the column of the text in .json, .jsonl and .parquet; None finds it.
        deduplicate: `exact` leaves out documents equal to an earlier one; max_tokens counts before that.
        engine: `processes` on this machine, or `ray`, a cluster that sees OUT as this machine does.
        part: I/N does one of N parts, for `gptlab data merge`; None means all.
    """
    from gptlab.data.manifest import told
    from gptlab.data.prepare.prepare import prepare

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
        print(f"when all parts are done: gptlab data merge {out}")
        return facts
    done = "already prepared" if facts["already_prepared"] else f"prepared in {facts['seconds']:.0f} s"
    print(f"{out}: {done}, {told(facts)}")
    return facts
