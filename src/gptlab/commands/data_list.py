"""`gptlab data list`."""

from typing import Any


def run() -> dict[str, Any]:
    """List the sources known by name, and the ready-made sets of shards."""
    from gptlab.data.fetch import READY
    from gptlab.data.sources import table as known

    sources = known.list_sources()
    ready = [
        {"name": name, "size": found.size, "description": found.description} for name, found in READY.items()
    ]
    for command, listed in (("prepare", sources), ("fetch", ready)):
        print(f"for gptlab data {command}:")
        for entry in listed:
            print(f"  {entry['name']:<16} {entry['size']:>8}  {entry['description']}")
    print("for both: hf:OWNER/NAME and so on, any data set of text or shards on the Hugging Face hub")
    return {"sources": sources, "ready": ready}
