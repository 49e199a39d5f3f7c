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
        part: I/N does one of N parts, for `gptlab data merge`; None is all.
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
        print(f"when all are there: gptlab data merge {out}")
        return facts
    done = "was prepared already" if facts["already_prepared"] else f"prepared in {facts['seconds']:.0f} s"
    print(f"{out}: {done}, {told(facts)}")
    return facts
