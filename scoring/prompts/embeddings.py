"""Textual inversions: files whose vectors stand for their name in a prompt."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scoring.errors import InputError
from scoring.prompts.chunks import CHUNK_LENGTH
from scoring.torch_archives import LOAD_ERRORS, load_tensors

EMBEDDING_SUFFIXES = (".safetensors", ".pt", ".bin")


class EmbeddingFolder:
    """The embeddings of a folder and those below it, each known by its file name without the suffix.

    tokenize: text to ids. width: of the text encoder. A file is read when a prompt names it, so that
    embeddings for several architectures may lie together. Raises InputError for a folder that is not there.
    """

    def __init__(self, folder: Path, tokenize: Callable[[str], list[int]], width: int) -> None:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of embeddings; make it, or take the setting away")
        self._width = width
        self._vectors: dict[Path, Tensor] = {}
        self._named: dict[int, list[tuple[list[int], Path]]] = {}
        files = (
            path for path in folder.rglob("*") if path.suffix.lower() in EMBEDDING_SUFFIXES and path.is_file()
        )
        for path in sorted(files):
            if name := tokenize(path.stem):
                self._named.setdefault(name[0], []).append((name, path))
        for candidates in self._named.values():
            candidates.sort(key=lambda candidate: len(candidate[0]), reverse=True)

    def find(self, ids: Sequence[int], position: int) -> tuple[Tensor, int] | None:
        """The vectors (n, width), float32, of the longest name that begins at `position`, and its length in
        tokens. Names are compared as tokens, so case is of no account.

        Raises InputError, naming the file, for one that is broken, is no embedding, has vectors of another
        width or too many of them, and for a name that two files have.
        """
        matching = [
            (name, path)
            for name, path in self._named.get(ids[position], ())
            if list(ids[position : position + len(name)]) == name
        ]
        if not matching:
            return None
        name, path = matching[0]
        twins = [other for other_name, other in matching[1:] if other_name == name]
        if twins:
            raise InputError(f"{path} and {twins[0]} are embeddings of one name; rename or remove one")
        if path not in self._vectors:
            self._vectors[path] = _read(path, self._width)
        return self._vectors[path], len(name)


def _read(path: Path, width: int) -> Tensor:
    vectors = _only_tensor(_contents(path), path)
    if vectors.dim() == 1:
        vectors = vectors[None]
    if vectors.dim() != 2 or not len(vectors) or not vectors.is_floating_point():
        raise InputError(
            f"{path} holds {str(vectors.dtype).removeprefix('torch.')} of shape {tuple(vectors.shape)} "
            "where an embedding has rows of decimal numbers; remove it"
        )
    if vectors.shape[1] != width:
        raise InputError(
            f"embedding {path} has vectors {vectors.shape[1]} wide, the model's text encoder {width}; "
            f"take one made for this architecture, or leave {path.stem!r} out of the prompt"
        )
    if len(vectors) > CHUNK_LENGTH:
        raise InputError(
            f"embedding {path} has {len(vectors)} vectors, {CHUNK_LENGTH} fit; take a shorter one"
        )
    if not vectors.isfinite().all():
        raise InputError(f"embedding {path} holds NaN or infinity; take another")
    return vectors.detach().float()


def _contents(path: Path) -> Any:
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        return load_tensors(path)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is no plain embedding: it would run code when read, or is broken; "
            "take a .safetensors of it"
        ) from error
    except (SafetensorError, *LOAD_ERRORS) as error:
        raise InputError(
            f"{path} can't be read as an embedding ({error}); take another copy of it"
        ) from error


def _only_tensor(contents: Any, path: Path) -> Tensor:
    """A1111's own files keep it in `string_to_param`, all others are a mapping with one tensor in it."""
    if isinstance(contents, dict) and "string_to_param" in contents:
        contents = contents["string_to_param"]
    if isinstance(contents, dict) and {"clip_l", "clip_g"} <= contents.keys():
        raise InputError(
            f"embedding {path} is made for SDXL's two text encoders; take one made for this architecture"
        )
    tensors = list(contents.values()) if isinstance(contents, dict) else []
    if len(tensors) != 1 or not isinstance(tensors[0], Tensor):
        raise InputError(f"{path} is no embedding: it must hold exactly one tensor; remove it")
    return tensors[0]
