"""What the votes cost: before each pass, all processes of a run agree on whether to stop, in one small exchange.

    torchrun --standalone --nproc-per-node 2 benchmarks/votes.py --json benchmarks/results/votes_cpu.json

A round is the votes of one step. Votes use gloo on every device. Started by torchrun on several machines, it measures
their network: a vote takes about as long as a message there and back.
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

from gptlab.machine.device import describe
from gptlab.machine.world import join_world
from gptlab.outputs import require_writable_file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--passes", type=int, default=64, help="of one step, each with a vote")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.json:
        require_writable_file(arguments.json, "--json")

    with join_world(
        "auto", {"start every process with the same flags": {"rounds": arguments.rounds}}
    ) as world:
        rounds: list[float] = []
        for _ in range(arguments.rounds + 1):
            world.barrier()
            began = time.perf_counter()
            for _ in range(arguments.passes):
                world.count(False)
            rounds.append(time.perf_counter() - began)
        del rounds[0]  # the first makes the buffers
        if not world.main:
            return
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
        )
        result = {
            "what": f"{arguments.passes} votes, the votes of a step of as many passes",
            "processes": world.size,
            "machines": len({(peer.host, peer.address) for peer in world.peers}),
            "passes": arguments.passes,
            "commit": commit.stdout.strip(),
            **describe(world.device),
            "rounds_s": rounds,
            "step_s": statistics.median(rounds),
            "vote_s": {
                "median": statistics.median(rounds) / arguments.passes,
                "least": min(rounds) / arguments.passes,
                "most": max(rounds) / arguments.passes,
            },
        }
    del result["host"]
    print(json.dumps({key: result[key] for key in ("processes", "machines", "step_s", "vote_s")}, indent=1))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
