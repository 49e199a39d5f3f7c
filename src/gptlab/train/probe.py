"""Trial passes: how many sequences fit in memory, and whether the compiler works."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch

from gptlab.errors import TrainError, brief
from gptlab.machine.memory import free_gpu_bytes, peak_bytes, release
from gptlab.machine.world import World
from gptlab.train.micro_batch_size import estimate, even
from gptlab.train.micro_batches import MicroBatches
from gptlab.train.objective import Objective


class Probe:
    """Makes trial passes, and adjusts the micro-batch and the compiler to their outcome.

    Args:
        attempt: makes a pass over a number of sequences.
        objective: what is compiled.
        micro_batches: whose size may be reduced.
        world: the processes, which all do the same.
        auto: whether to search for the micro-batch; otherwise it is fixed.
        coming: returns how many bytes the next update will allocate.
        named: the context that turns running out of memory into a TrainError.
    """

    def __init__(
        self,
        attempt: Callable[[int], None],
        objective: Objective,
        micro_batches: MicroBatches,
        world: World,
        *,
        auto: bool,
        coming: Callable[[], int],
        named: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._attempt, self._objective, self._micro_batches, self._world = (
            attempt,
            objective,
            micro_batches,
            world,
        )
        self._auto, self._coming, self._named, self._settled = auto, coming, named, not auto

    def settle(self, sequences: int) -> None:
        """Use the micro-batch found earlier, so that a resumed run computes the same."""
        self._micro_batches.sequences = max(1, min(self._micro_batches.largest_share, sequences))
        self._settled = True

    def run(self, say: Callable[[str], None]) -> None:
        """Find settings that work, the same in all processes.

        Raises:
            TrainError: not even one sequence fits.
        """
        failure: Exception | None = None
        try:
            self._find(say)
        except Exception as error:
            failure = error
        if self._world.count(failure is not None)[0]:  # else the others would wait for this one
            raise failure or TrainError("another process failed in its first pass; see its own message")
        if 0 < self._world.count(self._objective.compiled_as != "nothing")[0] < self._world.size:
            self._objective.compile_as("nothing")
            self._find(say)
        self._micro_batches.sequences = min(self._world.gather([self._micro_batches.sequences]))

    def _find(self, say: Callable[[str], None]) -> None:
        batches, device = self._micro_batches, self._world.device
        coming = self._coming() if device.type != "cpu" else 0
        if device.type == "cuda" and not self._settled:
            most, fits = batches.sequences, even(batches.largest_share, self._estimate(coming))
            batches.sequences = min(most, fits)
            if fits < most:
                say(f"memory holds {fits} sequences at once, estimated from a pass over a few")
        with self._named():
            reserve = torch.empty(coming, dtype=torch.uint8, device=device)  # for the first update
        while (failure := self._failure()) is not None:
            if isinstance(failure, str):
                say(f"torch.compile fails here ({failure}); training continues without it, but slower")
                self._objective.compile_as("nothing")
                continue
            if not self._auto or batches.sequences == 1:
                raise failure
            size, batches.sequences = batches.sequences, even(batches.largest_share, batches.sequences // 2)
            say(f"out of memory with {size} sequences at once: micro_batch is now {batches.sequences}")
        del reserve

    def _failure(self) -> TrainError | str | None:
        """Try a pass; return a TrainError if memory ran out, the compiler's message if that failed, else None."""
        compiled = self._objective.compiled_as != "nothing"
        try:
            self._attempt(self._micro_batches.sequences)
            return None
        except TrainError as error:
            # A copy, as the original keeps the tensors alive that did not fit.
            failure: TrainError | str = TrainError(str(error))
        except Exception as error:
            if not compiled:
                raise
            failure = brief(error)
        release()
        if compiled:
            torch.compiler.reset()  # else a second shape would be compiled for all shapes
        return failure

    def _estimate(self, coming: int) -> int:
        """Estimate how many sequences fit, without compiling: that takes more memory, but not minutes."""
        device, what = self._world.device, self._objective.compiled_as
        self._objective.compile_as("nothing")
        try:
            peak = partial(peak_bytes, device, self._attempt)
            return estimate(peak, free=free_gpu_bytes(device), reserve=coming)
        finally:
            self._objective.compile_as(what)
