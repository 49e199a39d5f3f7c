"""`gptlab data list`."""

from typing import Any


def run() -> dict[str, Any]:
    """List the sources known by name, and the ready-made sets of shards."""
    from gptlab.data.fetch import READY
    from gptlab.data.sources.table import SOURCES

    listed = {
        command: [
            {"name": name, "size": found.size, "description": found.description}
            for name, found in known.items()
        ]
        for command, known in {"prepare": SOURCES, "fetch": READY}.items()
    }
    for command, entries in listed.items():
        print(f"for gptlab data {command}:")
        for entry in entries:
            print(f"  {entry['name']:<16} {entry['size']:>8}  {entry['description']}")
    print("for both: hf:OWNER/NAME and so on, any data set of text or shards on the Hugging Face hub")
    return {"sources": listed["prepare"], "ready": listed["fetch"]}
