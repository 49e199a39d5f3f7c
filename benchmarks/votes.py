"""What the votes cost: before each pass, all processes of a run agree on whether to stop, in one small exchange.

    torchrun --standalone --nproc-per-node 2 benchmarks/votes.py --json benchmarks/results/votes_cpu.json

A round is the votes of one step. Votes use gloo on every device. Started by torchrun on several machines, it measures
their network: a vote takes about as long as a message there and back.
"""

import statistics
import time

import record

from gptlab.machine.world import join_world


def main() -> None:
    flags = record.parser(__doc__)
    flags.add_argument("--rounds", type=int, default=100)
    flags.add_argument("--passes", type=int, default=64, help="of one step, each with a vote")
    arguments = record.parsed(flags)

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
        result = {
            "what": f"{arguments.passes} votes, the votes of a step of as many passes",
            "processes": world.size,
            "machines": len({(peer.host, peer.address) for peer in world.peers}),
            "passes": arguments.passes,
            **record.facts(world.device),
            "rounds_s": rounds,
            "step_s": statistics.median(rounds),
            "vote_s": record.spread([seconds / arguments.passes for seconds in rounds]),
        }
    record.tell(result, ("processes", "machines", "step_s", "vote_s"), arguments.json)


if __name__ == "__main__":
    main()
