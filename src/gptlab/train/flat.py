"""A buffer that holds parameters one behind the other, of which every process updates an equal stretch.

After an update each sends its own to the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from gptlab.machine.world import World
from gptlab.runs.scattered import Span

# Elements. A kernel treats the last few of a tensor differently, and rounds them differently; a parameter that is cut
# only at multiples of this many ends where it ended before.
ALIGNED = 64


@dataclass(frozen=True)
class FlatLayout:
    """Where each parameter starts in the buffer, and the length of a process's stretch, in elements."""

    starts: Mapping[str, int]
    stretch: int


def contiguous_layout(parameters: Mapping[str, Tensor], processes: int) -> FlatLayout:
    """Lay parameters out in order, so that a stretch may begin and end within one."""
    starts: dict[str, int] = {}
    end = 0
    for name, parameter in parameters.items():
        starts[name] = end
        end += _aligned(parameter.numel())
    return FlatLayout(starts, _aligned(-(-end // processes)))


def assign_owners(matrices: Mapping[str, Tensor], processes: int) -> dict[str, int]:
    """Assign whole matrices, the costliest to orthogonalise first, each to the process that has the least to do."""
    costs, owners = [0] * processes, dict[str, int]()
    for name, matrix in sorted(matrices.items(), key=lambda item: -item[1].numel() * min(item[1].shape)):
        owners[name] = costs.index(min(costs))
        costs[owners[name]] += matrix.numel() * min(matrix.shape)
    return owners


def per_owner_layout(matrices: Mapping[str, Tensor], processes: int) -> FlatLayout:
    """Lay whole matrices out, those of each owner in its stretch."""
    ends, starts, owners = [0] * processes, dict[str, int](), assign_owners(matrices, processes)
    for name, rank in owners.items():
        starts[name] = ends[rank]
        ends[rank] += _aligned(matrices[name].numel())
    return FlatLayout({name: owners[name] * max(ends) + start for name, start in starts.items()}, max(ends))


class FlatBuffer:
    """A buffer that holds parameters from now on.

    Args:
        parameters: by name; each becomes a view of the buffer.
        layout: their places.
        world: the processes.
    """

    def __init__(self, parameters: Mapping[str, Tensor], layout: FlatLayout, world: World) -> None:
        self._parameters, self._layout, self._world = parameters, layout, world
        size = layout.stretch * world.size
        self._buffer = torch.zeros(size, device=world.device)
        for name, parameter in parameters.items():
            start = layout.starts[name]
            place = self._buffer[start : start + parameter.numel()].view(parameter.shape)
            place.copy_(parameter.detach())
            parameter.data = place
        self.spans = {name: self._spans(name) for name in parameters}
        """Which process updates which elements of a parameter."""
        own = {name: span for name, spans in self.spans.items() for span in spans if span.rank == world.rank}
        self.parts = {name: self._part(parameters[name].detach(), span) for name, span in own.items()}
        """What this process updates: whole parameters as they are, and flat parts of others."""
        self._own = own

    def take_gradients(self) -> None:
        """Give every part its part of the parameter's gradient."""
        for name, part in self.parts.items():
            gradient = self._parameters[name].grad
            part.grad = None if gradient is None else self._part(gradient, self._own[name])

    def gather(self) -> None:
        """Fill in what the other processes have updated."""
        # Over gloo an all-gather takes two to five times as long as these; over NCCL as many bytes pass each link.
        for rank, stretch in enumerate(self._buffer.split(self._layout.stretch)):
            dist.broadcast(stretch, rank)

    def _spans(self, name: str) -> tuple[Span, ...]:
        start, stretch = self._layout.starts[name], self._layout.stretch
        stop = start + self._parameters[name].numel()
        return tuple(
            Span(rank, max(start, rank * stretch) - start, min(stop, (rank + 1) * stretch) - start)
            for rank in range(start // stretch, -(-stop // stretch))
        )

    def _part(self, tensor: Tensor, span: Span) -> Tensor:
        if span.stop - span.start == tensor.numel():
            return tensor
        return tensor.reshape(-1)[span.start : span.stop]


def _aligned(count: int) -> int:
    return -(-count // ALIGNED) * ALIGNED
