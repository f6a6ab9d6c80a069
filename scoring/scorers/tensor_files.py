"""Tensors from published files into modules, refused where they do not fit to the last one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from scoring.errors import InputError
from scoring.torch_archives import LOAD_ERRORS, load_tensors

Module = TypeVar("Module", bound=nn.Module)


def read_file(path: Path) -> Any:
    """What a .safetensors file or a pickle holds. A pickle is read as tensors only, never run.

    Raises InputError for a file that is missing or unreadable.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the published .pth or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return load_tensors(path)
    except InputError:
        raise
    except (SafetensorError, *LOAD_ERRORS) as error:
        raise InputError(f"{path}: not readable as tensors: {error}") from error


def state_dict(held: Any, path: Path) -> dict[str, Tensor]:
    """`held` when it is a mapping of names to tensors; raises InputError naming the file."""
    if not isinstance(held, Mapping) or not all(isinstance(value, Tensor) for value in held.values()):
        raise InputError(f"{path}: not a state dict of tensors; give the published file")
    return dict(held)


def filled(module: Module, tensors: Mapping[str, Tensor], path: Path) -> Module:
    """`module` with these tensors, frozen, in float32.

    Raises InputError, naming the file and what differs, unless names and shapes are the module's own.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        raise InputError(f"{path}: another model: {_difference(wanted, found)}")
    module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return module.float().eval().requires_grad_(False)


def _difference(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    names = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    shown = [f"{name} is {_shape(found.get(name))}, wanted is {_shape(wanted.get(name))}" for name in names]
    more = f", and {len(shown) - 4} more" if len(shown) > 4 else ""
    return "; ".join(shown[:4]) + more


def _shape(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else "x".join(map(str, shape)) or "a number"
