"""Two checkpoints merged block by block: live in memory for the search, and once more into a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from optimizer.blocks import BlockWeights, check_weights
from optimizer.checkpoints.architectures import blocks_of, expected_tensors
from optimizer.checkpoints.names import unet_names
from optimizer.checkpoints.opening import open_checkpoint
from optimizer.checkpoints.reading import CheckpointFile
from optimizer.checkpoints.unets import check_unet, open_unets, write_with_unet
from optimizer.checkpoints.writing import Sealed
from optimizer.components import Sources, elsewhere, open_sources
from optimizer.elements import Groups, elements_in
from optimizer.gradients import BlockGradients
from optimizer.means import Means
from scoring.errors import InputError, TrialFailed
from scoring.rendering.components import dtype_name

# Each tensor starts at a multiple of this many numbers, so that matrix kernels find them aligned.
_ALIGNMENT = 64
# How many numbers are looked at together for one that moves; nearly always the first such part has one.
_LOOKED_AT_ONCE = 2**18


class LiveMerge:
    """A UNet whose parameters are, at any moment, the merge of A and B.

    A, B and the live parameters lie in flat buffers ordered by block; the parameters of `unet` become views
    into the live one. Setting a block is one `torch.lerp` over its slice, at memory speed: no state dict is
    built, nothing is allocated and no block is touched whose weight stays. Half precision is computed in
    fp32 inside the kernel and rounded once. Parameters that lie channels last go on to do so. At first the
    UNet is A.

    architecture: of both files and of `unet`; dtype: of the live parameters, fp32, fp16 or bf16. elements: by
    name, tensors that have a weight apart from their block's (optimizer/elements.py); wherever blocks are
    spoken of here, they stand beside them.
    Memory: the UNet once, and twice more the blocks that differ.
    Raises InputError when a file cannot be read or lacks a UNet tensor, and when A and B are the same UNet
    in `dtype`.
    """

    blocks: tuple[str, ...]
    """The blocks in which A and B differ in `dtype`: those that a search has to weigh."""

    held: tuple[str, ...]
    """The blocks in which the files differ, but by less than `dtype` can hold: no weight moves them."""

    def __init__(
        self,
        path_a: Path,
        path_b: Path,
        unet: nn.Module,
        *,
        architecture: str,
        device: torch.device | str,
        dtype: torch.dtype,
        elements: Sequence[str] = (),
    ) -> None:
        groups = groups_of(architecture, elements)
        self._known = groups.names
        places = _Places(unet, groups)
        with open_checkpoint(path_a) as a, open_checkpoint(path_b) as b:
            for file in (a, b):
                check_unet(file, architecture)
            self.blocks, self.held = _differing(a, b, places.keys, dtype)
            self._live = places.slices(self._known, device, dtype)
            self._a = places.slices(self.blocks, device, dtype)
            self._b = places.slices(self.blocks, device, dtype)
            for block in self._known:
                places.fill(self._live[block], a, block)
            for block in self.blocks:
                self._a[block].copy_(self._live[block])
                places.fill(self._b[block], b, block)
        places.bind(unet, self._live)
        self._places = places
        self.unet = unet
        self._witnesses = places.witnesses(unet)
        self._applied: BlockWeights = dict.fromkeys(self.blocks, 0.0)

    def apply(self, weights: Mapping[str, float]) -> list[str]:
        """Make the UNet (1 - alpha) * A + alpha * B per block; returns the blocks that changed.

        weights: an alpha in [0, 1] for each of `blocks`; blocks of the architecture in which A and B are the
        same may be named too and move nothing. 0 gives A and 1 gives B to the bit. Raises InputError for
        other names or values, and TrialFailed when the UNet no longer has the parameters that it was given.
        """
        checked = _check_differing(weights, self.blocks, self._known)
        changed = self._changed(checked)
        self._check_bound()
        with torch.no_grad():
            for block in changed:
                lerp_into(self._live[block], self._a[block], self._b[block], checked[block])
                self._applied[block] = checked[block]
        return changed

    @contextmanager
    def gradients(self) -> Iterator[BlockGradients]:
        """Within it backward passes add up, by block, what the parameters' gradients are; it begins at 0.

        They land in flat buffers like those of the parameters: of `blocks`, the UNet once more in memory.
        """
        self._check_bound()
        like = next(iter(self._live.values()))
        grads = self._places.slices(self.blocks, like.device, like.dtype)
        self._places.take_gradients(self.unet, grads)
        try:
            yield BlockGradients(grads, self._a, self._b)
        finally:
            for parameter in self.unet.parameters():
                parameter.requires_grad_(False).grad = None

    def moves(self, weights: Mapping[str, float]) -> bool:
        """Whether `apply(weights)` would change any number of the UNet.

        Other weights do not where they name other blocks than `blocks`, and where every number rounds to
        what it was. It looks no further than the first number that changes. Raises InputError as `apply`.
        """
        checked = _check_differing(weights, self.blocks, self._known)
        return any(self._block_moves(block, checked[block]) for block in self._changed(checked))

    def _changed(self, weights: BlockWeights) -> list[str]:
        return [block for block in self.blocks if weights[block] != self._applied[block]]

    @torch.no_grad()
    def _block_moves(self, block: str, alpha: float) -> bool:
        parts = (torch.split(of[block], _LOOKED_AT_ONCE) for of in (self._live, self._a, self._b))
        for live, a, b in zip(*parts, strict=True):
            merged = torch.empty_like(live)
            lerp_into(merged, a, b, alpha)
            if not torch.equal(merged, live):
                return True
        return False

    def _check_bound(self) -> None:
        # `unet.to(...)` or loading into it replaces what parameters point at, and merges go nowhere.
        for owner, name, address in self._witnesses:
            if getattr(owner, name).data_ptr() != address:
                raise TrialFailed(
                    "the merge would change nothing that renders: the UNet's tensors were replaced, by a "
                    "move to another device or dtype or by loading weights into it; load both models again"
                )


def export_merge(
    path_a: Path,
    path_b: Path,
    weights: Mapping[str, float],
    out: Path,
    *,
    metadata: Mapping[str, str],
    dtype: torch.dtype = torch.float16,
    parts: Sources | None = None,
    sealed: Sealed | None = None,
) -> None:
    """Write the merge of two files as a single-file checkpoint.

    Tensor by tensor from the memory maps, in fp32, rounded once to `dtype`. Only the UNet is merged: VAE,
    text encoder and whatever else A holds come from A, or from where `parts` says; EMA copies are left out.
    weights: an alpha in [0, 1] for every block in which A and B differ, and for elements of blocks. parts:
    text encoder or VAE -> the files that it comes from. sealed: see `write_streamed`. Raises InputError for
    files that do not fit each other, for wrong weights, and when the file cannot be written; an older `out`
    then stays as it was.
    """
    with ExitStack() as stack:
        architecture, (a, b) = stack.enter_context(open_unets((path_a, path_b)))
        groups = groups_of(architecture, elements_in(weights))
        alphas = _check_differing(weights, (), groups.names)
        _, files = stack.enter_context(open_sources(parts or {}, architecture))
        write_with_unet(
            out,
            a,
            lambda key: _merged(a, b, key, groups.of(key), alphas),
            architecture=architecture,
            metadata=metadata,
            dtype=dtype,
            parts=elsewhere(files, stack.enter_context(Means())),
            sealed=sealed,
        )


def differing_blocks(path_a: Path, path_b: Path, elements: Sequence[str] = ()) -> tuple[str, ...]:
    """The blocks and elements in which two files differ: those that `export_merge` needs a weight for.

    Raises InputError for files that do not fit each other.
    """
    with open_unets((path_a, path_b)) as (architecture, (a, b)):
        groups = groups_of(architecture, elements)
        found = {group for key, group in groups.by_key().items() if not _same(a, b, key)}
        return tuple(name for name in groups.names if name in found)


def groups_of(architecture: str, elements: Iterable[str] = ()) -> Groups:
    """What the UNet's tensors of an architecture move with. Raises InputError as `Groups`."""
    return Groups(expected_tensors(architecture).unet, blocks_of(architecture), elements)


def lerp_into(out: Tensor, a: Tensor, b: Tensor, alpha: float) -> None:
    """out = (1 - alpha) * a + alpha * b, allocating nothing; exactly a at 0 and b at 1."""
    # The ends are copied: the arithmetic would turn -0.0 into 0.0, and a copy is faster.
    if alpha in (0.0, 1.0):
        out.copy_(b if alpha else a)
    else:
        torch.lerp(a, b, alpha, out=out)


class _Places:
    """Where each UNet tensor lies in the flat slice of its block or element."""

    def __init__(self, unet: nn.Module, groups: Groups) -> None:
        self._groups = groups
        self.keys: dict[str, list[str]] = {block: [] for block in groups.names}
        self._places: dict[str, tuple[int, torch.Size, tuple[int, ...]]] = {}
        self._sizes = dict.fromkeys(groups.names, 0)
        self._names = unet_names(unet)
        for name, parameter in unet.named_parameters():
            key = self._names[name]
            block = groups.of(key)
            self.keys[block].append(key)
            self._places[key] = (self._sizes[block], parameter.shape, _strides(parameter))
            self._sizes[block] += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT

    def slices(
        self, blocks: tuple[str, ...], device: torch.device | str, dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """One flat buffer of zeros, cut into the blocks' slices."""
        sizes = [self._sizes[block] for block in blocks]
        flat = torch.zeros(sum(sizes), device=device, dtype=dtype)
        return dict(zip(blocks, torch.split(flat, sizes), strict=True)) if blocks else {}

    def fill(self, part: Tensor, file: CheckpointFile, block: str) -> None:
        """Copy a block's tensors from the file into its slice."""
        for key in self.keys[block]:
            self._view(part, key).copy_(file.tensor(key))

    def bind(self, unet: nn.Module, live: Mapping[str, Tensor]) -> None:
        """Make the UNet's parameters views of the live slices."""
        for name, parameter in unet.named_parameters():
            key = self._names[name]
            parameter.data = self._view(live[self._groups.of(key)], key)

    def take_gradients(self, unet: nn.Module, grads: Mapping[str, Tensor]) -> None:
        """Make the gradients of the parameters of these blocks views of `grads`, to which autograd adds."""
        for name, parameter in unet.named_parameters():
            key = self._names[name]
            block = self._groups.of(key)
            parameter.requires_grad_(block in grads)
            parameter.grad = self._view(grads[block], key) if block in grads else None

    def witnesses(self, unet: nn.Module) -> list[tuple[nn.Module, str, int]]:
        """The first parameter of each block, as (owner, its name there, where it lies in memory)."""
        first: dict[str, str] = {}
        for name, key in self._names.items():
            first.setdefault(self._groups.of(key), name)
        found = []
        for path, _, name in (full.rpartition(".") for full in first.values()):
            owner = unet.get_submodule(path)
            found.append((owner, name, owner.get_parameter(name).data_ptr()))
        return found

    def _view(self, part: Tensor, key: str) -> Tensor:
        offset, shape, strides = self._places[key]
        return part[offset : offset + shape.numel()].as_strided(shape, strides)


def _strides(parameter: Tensor) -> tuple[int, ...]:
    """Those of a parameter that lies channels last, and of a contiguous one else."""
    if parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
        return parameter.stride()
    return torch.empty(parameter.shape, device="meta").stride()


def _differing(
    a: CheckpointFile, b: CheckpointFile, keys: Mapping[str, list[str]], dtype: torch.dtype
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The blocks that differ in `dtype`, and those that differ in the files alone."""
    moving = {block: any(_moves(a, b, key, dtype) for key in keys[block]) for block in keys}
    blocks = tuple(block for block in keys if moving[block])
    held = tuple(
        block for block in keys if not moving[block] and not all(_same(a, b, key) for key in keys[block])
    )
    if not blocks:
        raise InputError(_nothing_to_merge(a, b, dtype, bool(held)))
    return blocks, held


def _nothing_to_merge(a: CheckpointFile, b: CheckpointFile, dtype: torch.dtype, files_differ: bool) -> str:
    name = dtype_name(dtype)
    same = f"{a.path.name} and {b.path.name} have the same UNet in {name}, so no merge of them moves anything"
    if files_differ:
        return f"{same}: they differ by less than it can hold; run them in float32 or choose another model"
    return f"{same}: the files differ in text encoder or VAE alone, and those are A's; choose another model"


def _moves(a: CheckpointFile, b: CheckpointFile, key: str, dtype: torch.dtype) -> bool:
    # By value, not as bytes: the sign of a zero shows in no image.
    return not torch.equal(a.tensor(key).to(dtype), b.tensor(key).to(dtype))


def _merged(
    a: CheckpointFile, b: CheckpointFile, key: str, block: str, alphas: Mapping[str, float]
) -> Tensor:
    alpha = alphas.get(block)
    if alpha is None:
        if not _same(a, b, key):
            raise InputError(f"no weight for block {block}, in which A and B differ; give one from 0 to 1")
        alpha = 0.0
    if alpha in (0.0, 1.0):
        return (b if alpha else a).tensor(key)
    return torch.lerp(a.tensor(key).float(), b.tensor(key).float(), alpha)


def _same(a: CheckpointFile, b: CheckpointFile, key: str) -> bool:
    if a.entries[key].dtype != b.entries[key].dtype:
        return torch.equal(a.tensor(key).float(), b.tensor(key).float())
    # As bytes: 0.0 equals -0.0 and NaN does not equal itself.
    return torch.equal(_bytes(a.tensor(key)), _bytes(b.tensor(key)))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _check_differing(
    weights: Mapping[str, float], needed: tuple[str, ...], known: tuple[str, ...]
) -> BlockWeights:
    wanted = tuple(block for block in known if block in needed or block in weights)
    return check_weights(weights, wanted if set(weights) <= set(known) else known)
