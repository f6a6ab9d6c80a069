"""How far models lie from each other, as a table, as JSON, and as a map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from scoring.errors import InputError
from service.cli.components import file_of
from service.cli.output import AsJson, console, print_json
from service.cli.setup import Config
from service.settings import load_settings

# torch and diffusers take seconds to import: only the commands that compute may pay for them.
if TYPE_CHECKING:
    from optimizer.distances import Distances, Matrix
    from optimizer.maps import Mantel

_DIGITS = 4


def distances(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL", help="Two or more files or names of models.")
    ],
    *,
    by: Annotated[
        Literal["component", "block"], typer.Option(help="A column a component, or one a block.")
    ] = "component",
    draw: Annotated[
        Path | None, typer.Option("--map", help="Draw the UNets as points on a map here (.png).")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Correlate with the models' images: a folder with a folder of images a model, or distances "
            "as JSON of models and distances."
        ),
    ] = None,
    clip: Annotated[
        Path | None, typer.Option(help="CLIP for --images FOLDER: a folder in open_clip's layout.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the permutations of the Mantel test.")] = 0,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Show L2 and cosine between every two models; each pair is computed once and kept."""
    from optimizer.distances import distances_between
    from optimizer.maps import mantel

    settings = load_settings(config)
    paths = [file_of(name, settings) for name in models]
    names = [path.stem if path.suffix in (".safetensors", ".ckpt") else path.name for path in paths]
    cache = settings.cache_dir
    found = distances_between(paths, cache)
    test = None
    if images is not None:
        test = mantel(found.l2("unet"), _between_images(images, names, clip), seed=seed)
    if draw is not None:
        _draw(draw, found, names, paths, cache)
    if as_json:
        print_json(_as_json(found, names, test))
        return
    console.print(_table(found, names, by))
    if draw is not None:
        console.print(f"map written to {draw}", highlight=False, soft_wrap=True)
    if test is not None:
        console.print(
            f"UNet L2 and image distances: Spearman {test.correlation:.3f}, Mantel p = {test.p_value:.4f} "
            f"({test.permutations} permutations)",
            highlight=False,
            soft_wrap=True,
        )


def _between_images(images: Path, names: list[str], clip: Path | None) -> Matrix:
    if not images.is_dir():
        return read_matrix(images, names)
    if clip is None:
        raise InputError(f"{images} is a folder of images; say with --clip which CLIP is to look at them")
    from optimizer.image_distances import image_distances

    return image_distances([images / name for name in names], clip)


def read_matrix(file: Path, names: list[str]) -> Matrix:
    """A matrix of distances from JSON, in the order of `names`. Raises InputError for another's."""
    import numpy as np

    try:
        stored = json.loads(file.read_text())
        models, matrix = [str(name) for name in stored["models"]], np.array(stored["distances"], dtype=float)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{file} holds no distances ({error!r}); give JSON with models, their names, and distances, the "
            "rows of a matrix"
        ) from error
    lacking = [name for name in names if name not in models]
    if lacking or matrix.shape != (len(models), len(models)):
        what = f"says nothing of {', '.join(lacking)}" if lacking else f"has a matrix of {matrix.shape}"
        raise InputError(f"{file} {what}; it needs a row and a column for every model")
    order = [models.index(name) for name in names]
    found: Matrix = matrix[np.ix_(order, order)]
    return found


def _draw(out: Path, found: Distances, names: list[str], paths: list[Path], cache: Path) -> None:
    from optimizer.checkpoints import open_checkpoint
    from optimizer.checkpoints.hashes import HashCache
    from optimizer.lineage import Known, parents_in
    from optimizer.maps import classical_mds, draw_map

    hashes = HashCache(cache)
    known = [Known(path.name, hashes.sha256(path)) for path in paths]
    arrows = []
    for child, path in enumerate(paths):
        with open_checkpoint(path) as file:
            arrows += [(parent, child) for parent in parents_in(file, known) if parent != child]
    title = f"UNets of {len(names)} models by their L2 distance"
    draw_map(out, classical_mds(found.l2("unet")), names, arrows, title)


def _columns(found: Distances, by: str) -> list[str]:
    from optimizer.checkpoints import blocks_of

    blocks = blocks_of(found.architecture)
    return list(blocks) if by == "block" else [part for part in found.parts() if part not in blocks]


def _table(found: Distances, names: list[str], by: str) -> Table:
    columns = _columns(found, by)
    if by == "block":
        # A row a block: 27 columns fit no terminal.
        table = Table("block", *(f"{names[i]}\n{names[j]}" for i, j in found.pairs), box=None)
        for block in columns:
            l2, cosine = found.l2(block), found.cosine(block)
            table.add_row(block, *(f"{l2[pair]:.{_DIGITS}g} ({cosine[pair]:.4f})" for pair in found.pairs))
        return table
    table = Table("A", "B", *(f"{part}\nL2 (cosine)" for part in columns), box=None)
    for pair in found.pairs:
        numbers = (f"{found.l2(part)[pair]:.{_DIGITS}g} ({found.cosine(part)[pair]:.4f})" for part in columns)
        table.add_row(names[pair[0]], names[pair[1]], *numbers)
    return table


def _as_json(found: Distances, names: list[str], test: Mantel | None) -> dict[str, Any]:
    parts = {
        part: {"l2": found.l2(part).tolist(), "cosine": found.cosine(part).tolist()} for part in found.parts()
    }
    value: dict[str, Any] = {"models": names, "architecture": found.architecture, "parts": parts}
    if test is not None:
        value["images"] = {
            "spearman": test.correlation,
            "p_value": test.p_value,
            "permutations": test.permutations,
        }
    return value
