"""How several processes share the memory of a run: the kinds of [train] parallel, one class each.

    kind    every process holds                         sends in a step, in numbers a parameter
    ddp     parameters, gradients, optimizer state      2, the sum of the gradients
    zero1   parameters, gradients, 1/n of the state     3, that sum and the new parameters
    fsdp    1/n of all three                            3 in each pass: parameters twice, gradients once

What they train is the same. Source: Rajbhandari et al. (2020), ZeRO, https://arxiv.org/abs/1910.02054.
"""

import copy
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gptlab.machine.world import World
from gptlab.model.gpt import GPT
from gptlab.model.roles import KindName, role
from gptlab.runs.scattered import Link, Scattered, Span
from gptlab.train import flat
from gptlab.train.flat import Flat
from gptlab.train.objective import Objective

ReduceName = Literal["float32", "bfloat16"]
BUCKET_MB = 25  # of gradients that are summed at once; torch's own choice
NUMBER_BYTES = 4  # parameters, gradients and the optimizer's running means are float32


class Alone:
    """One process, which holds everything."""

    meets_in_passes = False
    """Whether all processes must make each pass together, so that none can try one by itself."""

    def __init__(self, objective: Objective, world: World) -> None:
        self.model, self.world = objective.model, world
        self.shapes = {name: parameter.shape for name, parameter in self.model.named_parameters()}
        """Of the whole parameters."""
        self.called: nn.Module = objective
        """What a pass calls."""
        self.readable: GPT = self.model
        """The model as evaluations read it, whole while `measured`."""
        self.parts: Mapping[str, Tensor] = dict(self.model.named_parameters())
        """What this process updates of each parameter."""
        self.link: Link | None = None
        """The way to the first process, which saves; None if that holds everything."""

    @staticmethod
    def bytes_of(parameters: int, state: int, processes: int) -> int:
        """Return the bytes of parameters, gradients and optimizer state that a process holds; `state` is in bytes."""
        return 2 * NUMBER_BYTES * parameters + state

    def unsynchronised(self) -> AbstractContextManager[None]:
        """Return the context of a pass that is not the last of its step."""
        return nullcontext()

    def clip(self, bound: float) -> float:
        """Scale the gradient down to a norm, and return the norm it had."""
        return nn.utils.clip_grad_norm_(self.model.parameters(), bound).item()

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the parameters from their gradients."""
        optimizer.step()

    @contextmanager
    def measured(self) -> Generator[None]:
        """Let `readable` have all parameters for a while."""
        yield

    def hold(self, name: str, like: Tensor, whole: Tensor) -> None:
        """Fill a tensor that is cut up as the parameter is with what this process holds of it."""
        like.copy_(whole)

    def cut(self, name: str, whole: Tensor) -> Tensor:
        """Return the part that this process updates of a tensor of a parameter's shape."""
        return whole

    def to_save(self, name: str, held: Tensor) -> Tensor | Scattered:
        """Return a tensor that is cut up as the parameter is, for a checkpoint."""
        return held

    def state_to_save(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor | Scattered]:
        """Return the optimizer's tensors, `{parameter}/{quantity}`, for a checkpoint."""
        return state


class DDP(Alone):
    """Every process holds everything, and the gradients are summed as the backward pass makes them."""

    def __init__(
        self,
        objective: Objective,
        world: World,
        reduce: ReduceName = "float32",
        whole: frozenset[KindName] = frozenset(),
    ) -> None:
        super().__init__(objective, world)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.11 lacks the newer name
            self._ddp = DistributedDataParallel(
                objective, broadcast_buffers=False, gradient_as_bucket_view=True, bucket_cap_mb=BUCKET_MB
            )
        if reduce == "bfloat16":
            self._ddp.register_comm_hook(None, _mean_in_bfloat16)
        self.called = self._ddp

    def unsynchronised(self) -> AbstractContextManager[None]:
        """Return the context of a pass whose gradients stay in this process."""
        return self._ddp.no_sync()


def _mean_in_bfloat16(
    _: object,
    bucket: dist.GradBucket,  # pyright: ignore[reportPrivateImportUsage]
) -> torch.futures.Future[Tensor]:
    """Average a bucket of gradients, half as many bytes; torch's own hook refuses gloo."""
    gradients: Tensor = bucket.buffer()
    small = (gradients / dist.get_world_size()).bfloat16()
    work = dist.all_reduce(small, async_op=True)
    assert work is not None
    summed: torch.futures.Future[list[Tensor]] = work.get_future()

    def finish(done: torch.futures.Future[list[Tensor]]) -> Tensor:
        return gradients.copy_(done.value()[0])

    return summed.then(finish)


class Scattering(Alone):
    """Several processes, none of which holds the whole state."""

    spans: Mapping[str, Sequence[Span]]
    """Which process updates which numbers of each parameter."""

    def cut(self, name: str, whole: Tensor) -> Tensor:
        """Return the part that this process updates of a tensor of a parameter's shape."""
        (own,) = self._own(self.spans[name])
        if own.stop - own.start == whole.numel():
            return whole
        return whole.reshape(-1)[own.start : own.stop].view(self.parts[name].shape)

    def state_to_save(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor | Scattered]:
        """Return the optimizer's tensors, for a checkpoint; all processes call this together."""
        kinds = {key: value.dtype if value.ndim else value.cpu() for key, value in state.items()}
        everywhere: dict[str, Any] = {}
        for theirs in self.world.gather([kinds]):
            everywhere = theirs | everywhere
        return {key: self._state(key, kind, state.get(key)) for key, kind in everywhere.items()}

    def _state(self, key: str, kind: torch.dtype | Tensor, own: Tensor | None) -> Tensor | Scattered:
        """Return a tensor that has a format, or a number that all have."""
        if isinstance(kind, Tensor):
            return kind
        name = key.partition("/")[0]
        return self._scattered(name, self.spans[name], torch.empty(0, dtype=kind) if own is None else own)

    def _own(self, spans: Sequence[Span]) -> list[Span]:
        """Return what this process has of some spans: one or none."""
        return [span for span in spans if span.rank == self.world.rank]

    def _scattered(self, name: str, spans: Sequence[Span], own: Tensor) -> Scattered:
        assert self.link is not None
        return Scattered(self.shapes[name], spans, own, self.link)


class Zero1(Scattering, DDP):
    """DDP whose optimizer state is shared out; every process updates a stretch of the parameters."""

    def __init__(
        self, objective: Objective, world: World, reduce: ReduceName, whole: frozenset[KindName]
    ) -> None:
        parameters = dict(objective.model.named_parameters())
        matrices = {name: p for name, p in parameters.items() if role(name).kind in whole}
        others = {name: p for name, p in parameters.items() if name not in matrices}
        layouts = (others, flat.cut(others, world.size)), (matrices, flat.dealt(matrices, world.size))
        self._flats = [Flat(some, layout, world) for some, layout in layouts if some]
        super().__init__(objective, world, reduce)
        self.parts = {name: part for one in self._flats for name, part in one.parts.items()}
        self.spans = {name: spans for one in self._flats for name, spans in one.spans.items()}
        self.link = Link(world.rank, dist.new_group(backend="gloo"))

    @staticmethod
    def bytes_of(parameters: int, state: int, processes: int) -> int:
        """Return the bytes of parameters, gradients and optimizer state that a process holds."""
        return 2 * NUMBER_BYTES * parameters + state // processes

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Update this process's parts, and take over the others'."""
        for one in self._flats:
            one.take_gradients()
        optimizer.step()
        for part in self.parts.values():
            part.grad = None
        for one in self._flats:
            one.gather()


class FSDP(Scattering):
    """Every process holds some rows of each parameter; blocks are whole only while they compute.

    A matrix that the optimizer can only update whole is so in one process, for the time of the update: `_rows` are who
    holds what at rest, `spans` who updates what.
    """

    meets_in_passes = True

    def __init__(
        self, objective: Objective, world: World, reduce: ReduceName, whole: frozenset[KindName]
    ) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        super().__init__(objective, world)
        # A copy that shares no parameter; there is room for them only while something is measured.
        empty = {
            id(p): nn.Parameter(p.detach().new_empty(0), requires_grad=False) for p in self.model.parameters()
        }
        self.readable: GPT = copy.deepcopy(self.model, empty).eval()
        self._readable = dict(self.readable.named_parameters())
        mesh = init_device_mesh(world.device.type, (world.size,))
        policy = MixedPrecisionPolicy(reduce_dtype=torch.bfloat16 if reduce == "bfloat16" else None)
        for block in self.model.blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(objective, mesh=mesh, mp_policy=policy)

        self._parameters: dict[str, Any] = dict(self.model.named_parameters())
        matrices = {name: p for name, p in self._parameters.items() if role(name).kind in whole}
        self._owners = flat.deal(matrices, world.size)
        self._rows = {name: rows(parameter.shape, world.size) for name, parameter in self._parameters.items()}
        self.spans = self._rows | {
            name: (Span(owner, 0, matrices[name].numel()),) for name, owner in self._owners.items()
        }
        parts = {name: _local(parameter) for name, parameter in self._parameters.items()}
        self.parts = {
            name: self._absent(name) if name in matrices else part
            for name, part in parts.items()
            if self._own(self.spans[name])
        }
        self.link = Link(world.rank, dist.new_group(backend="gloo"))

    @staticmethod
    def bytes_of(parameters: int, state: int, processes: int) -> int:
        """Return the bytes of parameters, gradients and optimizer state that a process holds."""
        return (2 * NUMBER_BYTES * parameters + state) // processes

    def clip(self, bound: float) -> float:
        """Scale the gradient down to a norm, and return the norm it had."""
        norm: Any = nn.utils.clip_grad_norm_(self.model.parameters(), bound)
        return norm.full_tensor().item()

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Update this process's parts, and hand the rows of whole matrices to those who hold them."""
        for name, parameter in self._parameters.items():
            if name in self._owners:
                weight, gradient = parameter.detach().full_tensor(), parameter.grad.full_tensor()
                if name in self.parts:
                    self.parts[name].data, self.parts[name].grad = weight, gradient
            elif name in self.parts:
                self.parts[name].grad = _local(parameter.grad)
        optimizer.step()
        for name, owner in self._owners.items():
            own = self.parts.get(name)
            whole = torch.empty(self.shapes[name], device=self.world.device) if own is None else own.data
            dist.broadcast(whole, owner)
            self.hold(name, self._parameters[name], whole)
            if own is not None:
                own.data, own.grad = self._absent(name), None
        for part in self.parts.values():
            part.grad = None

    def _absent(self, name: str) -> Tensor:
        """Return a tensor of a parameter's shape that takes no memory."""
        return torch.empty((), device=self.world.device).expand(self.shapes[name])

    @contextmanager
    def measured(self) -> Generator[None]:
        """Let `readable` have all parameters for a while; all processes do this together."""
        try:
            for name, parameter in self._parameters.items():
                self._readable[name].data = parameter.detach().full_tensor()
            yield
        finally:
            for parameter in self._readable.values():
                parameter.data = parameter.data.new_empty(0)

    def hold(self, name: str, like: Tensor, whole: Tensor) -> None:
        """Fill a tensor that is cut up as the parameter is with what this process holds of it."""
        for span in self._own(self._rows[name]):
            local = _local(like)
            local.copy_(whole.reshape(-1)[span.start : span.stop].view(local.shape))

    def to_save(self, name: str, held: Tensor) -> Tensor | Scattered:
        """Return a tensor that is cut up as the parameter is, for a checkpoint."""
        return self._scattered(name, self._rows[name], _local(held))


def _local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor that torch has sharded."""
    sharded: Any = tensor.detach()
    return sharded.to_local()


def rows(shape: torch.Size, processes: int) -> tuple[Span, ...]:
    """Return which rows of a tensor each process holds, as torch's Shard(0) cuts it."""
    row = shape[1:].numel()
    chunk = -(-shape[0] // processes)
    edges = [min(shape[0], chunk * rank) * row for rank in range(processes + 1)]
    return tuple(
        Span(rank, edges[rank], edges[rank + 1]) for rank in range(processes) if edges[rank] < edges[rank + 1]
    )


PARALLEL = {"ddp": DDP, "zero1": Zero1, "fsdp": FSDP}

if TYPE_CHECKING:
    ParallelName = str
else:
    ParallelName = Literal[tuple(PARALLEL)]
