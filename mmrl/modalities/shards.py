"""A model's weights divided over processes (torch's FSDP2), so that none holds all of them while it trains.

Each process holds some rows of every weight. A part of such a weight is an ordinary parameter: optimizers, averages,
roles and checkpoints move and keep parts alone, and know of nothing else. The model gathers a block's weights where it
runs the block, and gives them back behind it; so every process has to run the same blocks in the same order while it
makes a gradient. Where processes run different numbers of forwards (sampling, evaluation), `whole` gathers all of them
for a while, and nothing is sent inside of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmrl.modalities import unread
from mmrl.modalities.acting import MIXED, Rows, part_of

Found = TypeVar("Found")
# Models, and the whole of what their `state_dict` gives.
Gathered = Sequence[tuple[nn.Module, Mapping[str, Tensor]]]
Sum = Callable[[Tensor, str], Tensor]  # (tensor, "sum" or "max") -> the same over all processes


class DivisionError(ValueError):
    """A model that cannot be divided as it is asked; says why and what to do."""


@dataclass(frozen=True)
class Divisible:
    """A model whose weights can be divided.

    module: whose parameters, and whose `state_dict` a checkpoint is made of. blocks: class names of what is gathered as
    one; names that it has no module of are passed over. ignored: parts that stay whole on every process, such as towers
    that not every micro-batch runs. inner: whether modules inside are called besides its own `forward`: then what runs
    the model has to run inside of `Shards.run`. saves_frozen: whether a checkpoint of the policy holds frozen weights.
    """

    module: nn.Module
    blocks: Sequence[str]
    ignored: Sequence[nn.Module] = ()
    inner: bool = False
    saves_frozen: bool = True


class _Root(nn.Module):
    """A forward that is whatever runs the model, so that FSDP gathers around all of it what is in no block."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, compute: Callable[[], Any]) -> Any:
        return compute()


class Shards:
    """The weights of some models in `shards` parts, one for each of so many processes of rising rank.

    Weights that are not read yet (mmrl.modalities.unread) are read once they are divided, each process its rows.

    total: sums over processes. late: gradients are summed over processes once for an update, and whole until then; else
    behind every backward. gathered: the type in which weights are gathered, None for their own; parts, gradients and
    sums stay in float32.
    is_whole: whether all weights are gathered now. refuses: whether a backward through the weights is a mistake now.
    Raises DivisionError. Every process calls every method, but for `run` inside of `whole`.
    """

    def __init__(
        self,
        models: Sequence[Divisible],
        shards: int,
        device: torch.device,
        total: Sum,
        late: bool = False,
        gathered: torch.dtype | None = None,
    ) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        # What a denoiser returns is a view of its last layer's output, which nothing here writes into.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
        world, self.rank = dist.get_world_size(), dist.get_rank()
        self.shards, self.copies, self.late = shards, world // shards, late
        shape, names = (shards,), ("shard",)
        if self.copies > 1:
            shape, names = (self.copies, shards), ("replicate", "shard")  # type: ignore[assignment]
        self.mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
        self.is_whole = self.refuses = False
        self._total = total
        self._models = models
        for model in models:
            _refuse_small(model, shards)
        self._roots = [self._divide(model, gathered, device) for model in models]
        self._by_module = {id(model.module): root for model, root in zip(models, self._roots)}
        self._used: set[int] = set()  # ids of weights that a backward has reached since the last sum
        self._divided: dict[int, nn.Parameter] = {}
        self._gathered: dict[int, nn.Parameter] = {}
        for root in self._roots:
            for module in _sharded(root):
                self._note_use(module)
        self._parts: dict[int, nn.Parameter] = {}

    def _divide(self, model: Divisible, gathered: torch.dtype | None, device: torch.device) -> Any:
        """Bottom-up: a block inside of a block is gathered by itself."""
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        policy = MixedPrecisionPolicy(
            param_dtype=gathered, reduce_dtype=torch.float32 if gathered else None, cast_forward_inputs=False
        )
        whole = {p for module in model.ignored for p in module.parameters()}
        whole |= {p for p in model.module.parameters() if p.ndim == 0}
        root = _Root(model.module) if model.inner else model.module
        places = unread.places(model.module)
        for module in _blocks(model, whole):
            fully_shard(module, mesh=self.mesh, reshard_after_forward=True, mp_policy=policy, ignored_params=whole)
        made: Any = fully_shard(
            root, mesh=self.mesh, reshard_after_forward=True, mp_policy=policy, ignored_params=whole
        )
        for module in _sharded(made):
            # Losses are sums whose weights are counted over all processes; gloo only sums where it is told to.
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
        made.set_reduce_scatter_unused_params(True)
        made.set_requires_gradient_sync(not self.late)
        unread.read(places, device, self.range)
        made._get_fsdp_state()._lazy_init()  # before anything inside is called without its root
        return made

    def _note_use(self, module: Any) -> None:
        """Let what a module gathers by itself note in each backward that it has been reached."""
        divided = dict(module.named_parameters())
        module.unshard()  # one after the other: never all weights at once
        for name, weight in module.named_parameters():
            if _is_divided(divided[name]) and not _is_divided(weight):
                self._divided[id(divided[name])] = divided[name]
                self._gathered[id(divided[name])] = weight
                if weight.requires_grad:
                    weight.register_post_accumulate_grad_hook(self._noting(id(divided[name])))
        module.reshard()

    def _noting(self, weight: int) -> Callable[[Tensor], None]:
        def note(_: Tensor) -> None:
            if self.refuses:
                raise RuntimeError(MIXED)
            self._used.add(weight)

        return note

    # ---------------------------------------------------------------- running the model

    def run(self, module: nn.Module, compute: Callable[[], Found]) -> Found:
        """What `compute` gives, which runs modules inside of a model. Tensors with a gradient that it returns have to
        be seen: alone, or in tuples, lists and dicts."""
        return compute() if self.is_whole else cast(Found, self._by_module[id(module)](compute))

    def seen(self, module: nn.Module, inside: Sequence[Tensor]) -> None:
        """What modules inside of a model gave is differentiated, and not what the model gives: what is in no block is
        gathered for it, too."""
        if not self.is_whole:
            self._by_module[id(module)]._get_fsdp_state()._register_pre_backward_hook(list(inside))

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, every process has all weights, and may run any number of forwards, without gradient."""
        if self.is_whole:
            yield
            return
        with ExitStack() as stack:
            for module in (m for root in self._roots for m in _sharded(root)):
                module.set_reshard_after_forward(False, recurse=False)
                stack.callback(module.set_reshard_after_forward, True, recurse=False)
                stack.callback(module.reshard)
                module.unshard()
            self.is_whole = True
            stack.callback(setattr, self, "is_whole", False)
            yield
            for root in self._roots:  # the order of so many forwards is no order of a backward
                root.reset_iter_state()

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Inside, processes run the same forwards by `run`, and ask alike for gradients of `gathered_as`
        (torch.autograd.grad), which come to no weight."""
        with ExitStack() as stack:
            for root in self._roots:
                root.set_requires_gradient_sync(False)
                stack.callback(root.set_requires_gradient_sync, not self.late)
                stack.callback(root.reset_iter_state)
            yield

    def gathered_as(self, weight: nn.Parameter) -> nn.Parameter:
        """The parameter that stands for a divided weight while it is gathered; a weight that is not divided is its
        own."""
        return self._gathered.get(id(weight), weight)

    @contextmanager
    def whole_of(self, module: nn.Module, names: Iterable[str]) -> Iterator[None]:
        """Inside, these weights of a model are whole, and what is gathered with them: a block at a time is small. What
        is made of them outlives it, they themselves do not. Every process enters, with the same names in turn."""
        if self.is_whole:
            yield
            return
        root = self._by_module[id(module)]
        inside = dict(module.named_modules(remove_duplicate=False))
        units = {id(unit): unit for unit in (_gathered_with(name, inside, root) for name in names)}
        with ExitStack() as stack:
            for unit in units.values():
                stack.callback(unit.reshard)
                unit.unshard()
            yield

    # ---------------------------------------------------------------- parts

    def part(self, weight: nn.Parameter) -> nn.Parameter:
        """What this process holds of a weight, as a parameter; a weight that is not divided is its own.

        Both share their numbers. Gradients come to the part by `collect`.
        """
        if id(weight) not in self._divided:
            return weight
        if id(weight) not in self._parts:
            rows = cast(Any, weight)._local_tensor
            made = nn.Parameter(rows.detach(), requires_grad=weight.requires_grad)
            self._parts[id(weight)] = part_of(made, Rows(len(weight)))
        return self._parts[id(weight)]

    @property
    def number(self) -> int:
        """Which of the parts of every weight this process holds."""
        return self.rank % self.shards

    @property
    def writes(self) -> bool:
        """Whether it is of the first copy, whose parts a checkpoint holds."""
        return self.rank < self.shards

    def range(self, rows: int) -> tuple[int, int]:
        """(first, first behind) of the rows that this process holds of so many."""
        return first_row(rows, self.shards, self.number), first_row(rows, self.shards, self.number + 1)

    def cut(self, tensor: Tensor) -> Tensor:
        """This process's rows of a tensor that is like a divided weight."""
        first, end = self.range(len(tensor))
        return tensor[first:end]

    def names(self, weights: Mapping[str, nn.Parameter]) -> dict[str, int]:
        """Of weights by name those that are divided, and how many rows each has in all."""
        found = {name: getattr(weight, "rows", None) for name, weight in weights.items()}
        return {name: rows.of for name, rows in found.items() if rows is not None}

    @torch.no_grad()
    def collect(self) -> None:
        """Add the gradients of divided weights, summed over all processes, to those of their parts.

        A weight that no backward of any process has reached has no gradient, as on one process.
        """
        if self.late:
            for root in self._roots:
                root.set_requires_gradient_sync(True)
                root._get_fsdp_state()._root_post_backward_final_callback()
                root.set_requires_gradient_sync(False)
        trained = [weight for weight in self._divided.values() if weight.requires_grad]
        used = self._total(torch.tensor([float(id(weight) in self._used) for weight in trained]), "max").tolist()
        self._used.clear()
        for weight, reached in zip(trained, used):
            gradient, weight.grad = weight.grad, None
            if gradient is not None and reached:
                part, found = self.part(weight), cast(Any, gradient)._local_tensor
                part.grad = found if part.grad is None else part.grad + found

    def gather_rows(self, mine: Tensor, rows: int) -> Tensor:
        """[rows, ...] of the rows that each process holds of it."""
        if self.shards == 1:
            return mine
        size = -(-rows // self.shards)
        padded = mine.new_zeros(size, *mine.shape[1:])
        padded[: len(mine)] = mine
        found = [torch.empty_like(padded) for _ in range(self.shards)]
        dist.all_gather(found, padded, group=self.mesh.get_group("shard"))
        return torch.cat(found)[:rows]

    @torch.no_grad()
    def norm(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """The norm of all gradients, of which divided weights have each part on one process of a copy. Float32."""
        graded = [p for p in parameters if p.grad is not None and p.grad.numel()]
        mine = _square([p for p in graded if hasattr(p, "rows")])
        every = _square([p for p in graded if not hasattr(p, "rows")])
        return (self._total(mine, "sum") / self.copies + every).sqrt().float()

    # ---------------------------------------------------------------- out of the process

    @torch.no_grad()
    def gathered(self, keep: bool) -> Gathered:
        """(model, its whole state_dict on the CPU), one weight after the other; tied ones are one tensor.

        Without what is frozen, where a checkpoint of the policy has none of it. keep: whether this process gets them;
        all take part.
        """
        made = []
        for model in self._models:
            found: dict[str, Tensor] = {}
            seen: dict[int, Tensor] = {}
            for name, weight in model.module.state_dict(keep_vars=True).items():
                if not (model.saves_frozen or weight.requires_grad):
                    continue
                if id(weight) not in seen:
                    all_of_it = full(weight)
                    seen[id(weight)] = all_of_it.cpu() if keep else all_of_it[:0]
                if keep:
                    found[name] = seen[id(weight)]
            made.append((model.module, found))
        return made


def full(weight: Tensor) -> Tensor:
    """All of a weight, which may be divided, without gradient; every process calls, in the same order."""
    return cast(Any, weight).full_tensor().detach() if _is_divided(weight) else weight.detach()


@contextmanager
def as_whole(gathered: Gathered) -> Iterator[None]:
    """Inside, the `state_dict` of models gives what was gathered, whoever asks for it, and they are of their own class,
    not of that which FSDP gave them: libraries write its name."""
    from torch.distributed.fsdp import FSDPModule

    with ExitStack() as stack:
        for module, found in gathered:
            # In its place as a plain attribute: the libraries that write checkpoints call it on the module.
            vars(module)["state_dict"] = lambda *_, found=found, **__: dict(found)
            stack.callback(vars(module).pop, "state_dict")
            divided = type(module)
            if issubclass(divided, FSDPModule):
                module.__class__ = divided.__bases__[-1]
                stack.callback(setattr, module, "__class__", divided)
        yield


def first_row(rows: int, shards: int, shard: int) -> int:
    """The first of the rows that are in a part, as torch.chunk cuts them; those behind the last are none."""
    return min(rows, -(-rows // shards) * shard)


def _blocks(model: Divisible, whole: set[nn.Parameter]) -> list[nn.Module]:
    """Modules of the named classes that have something to divide, inner ones first. Raises DivisionError without."""
    names = set(model.blocks)
    named = [m for m in reversed(list(model.module.modules())) if type(m).__name__ in names and m is not model.module]
    found = [m for m in named if any(p not in whole for p in m.parameters())]
    if not found:
        known = ", ".join(sorted(names)) or "none"
        raise DivisionError(
            f"{type(model.module).__name__} has no block that could be gathered by itself (its class names: {known}); "
            "leave sharding.shards at 1"
        )
    return found


def _refuse_small(model: Divisible, shards: int) -> None:
    """Raise DivisionError where a process would hold no row of any weight."""
    ignored = {id(p) for module in model.ignored for p in module.parameters()}
    rows = [len(p) for p in model.module.parameters() if p.ndim and id(p) not in ignored]
    if not any(-(-count // shards) * (shards - 1) < count for count in rows):
        raise DivisionError(
            f"sharding.shards={shards}: no weight of {type(model.module).__name__} has so many rows (the largest has "
            f"{max(rows, default=0)}), and some processes would hold nothing; take fewer"
        )


def _square(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The sum of the squares of their gradients, float64, on the CPU."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack([n.double() for n in torch._foreach_norm(gradients)]).square().sum().cpu()


def _sharded(root: nn.Module) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [module for module in root.modules() if isinstance(module, FSDPModule)]


def _gathered_with(name: str, modules: Mapping[str, nn.Module], root: Any) -> Any:
    """The module with which a weight is gathered: the innermost around it."""
    from torch.distributed.fsdp import FSDPModule

    while name:
        name = name.rpartition(".")[0]
        if isinstance(modules[name], FSDPModule):
            return modules[name]
    return root


def _is_divided(weight: Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(weight, DTensor)
