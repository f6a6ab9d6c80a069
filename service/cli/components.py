"""Components of checkpoints: list, extract, swap, join, convert, prune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from scoring.errors import InputError
from service.cli.output import AsJson, console, print_json
from service.cli.setup import Config
from service.settings import Settings, load_settings

# torch and diffusers take seconds to import: only the commands that compute may pay for them.
if TYPE_CHECKING:
    from optimizer.checkpoints.parts import Component
    from service.component_files import ComponentFiles

app = typer.Typer(
    no_args_is_help=True, help="Take checkpoints apart and put them together: UNet, text encoder, VAE."
)

Precision = Literal["fp32", "fp16", "bf16"]
Model = Annotated[str, typer.Argument(help="A file, or the name of a model of the models folder.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The file to write (.safetensors).")]
Dtype = Annotated[
    Precision | None, typer.Option(help="Precision of all weights; else each as its file has it.")
]
Force = Annotated[bool, typer.Option("--force", help="Write over a file that is there.")]


@app.command("list")
def list_components(
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="Files or names of models.")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show which components files hold, in which precision, and for which architectures."""
    from optimizer.components import components_in
    from service.component_files import held_row

    settings = load_settings(config)
    rows = [(name, held) for name in models for held in components_in(file_of(name, settings))]
    if as_json:
        print_json([held_row(name, held) for name, held in rows])
        return
    table = Table("model", "component", "tensors", "M parameters", "precision", "fits", box=None)
    for name, held in rows:
        row = held_row(name, held)
        table.add_row(
            name,
            held.component,
            str(held.tensors),
            f"{held.parameters / 1e6:.1f}",
            ", ".join(row["dtypes"]),
            ", ".join(held.fits) or "none: not whole",
        )
    console.print(table)


@app.command()
def extract(
    model: Model,
    *,
    out: Out,
    components: Annotated[str, typer.Option(help="unet, text_encoder, vae; several with commas.")],
    dtype: Dtype = None,
    force: Force = False,
    config: Config = None,
) -> None:
    """Write a component of a model to a file of its own."""
    from optimizer.checkpoints.parts import parse_components

    settings, wanted = load_settings(config), parse_components(split(components))
    check_out(out, force)
    writer(settings).extract(file_of(model, settings), wanted, out, dtype)
    told(out)


@app.command()
def swap(
    model: Model,
    component: Annotated[str, typer.Argument(help="unet, text_encoder or vae.")],
    source: Annotated[
        str, typer.Argument(help="Where the new one comes from: a model or a component's file.")
    ],
    *,
    out: Out,
    dtype: Dtype = None,
    force: Force = False,
    config: Config = None,
) -> None:
    """Write a model with one component of another one."""
    from optimizer.checkpoints.parts import parse_components

    settings = load_settings(config)
    (wanted,) = parse_components([component])
    check_out(out, force)
    base, other = file_of(model, settings), file_of(source, settings)
    writer(settings).swap(base, wanted, other, out, dtype)
    told(out)


@app.command()
def join(
    *,
    out: Out,
    unet: Annotated[
        list[str], typer.Option(help="Where the UNet comes from; given twice or more: their mean.")
    ],
    text_encoder: Annotated[list[str], typer.Option(help="The same for the text encoder.")],
    vae: Annotated[list[str], typer.Option(help="The same for the VAE; a bare VAE file will do.")],
    dtype: Dtype = None,
    force: Force = False,
    config: Config = None,
) -> None:
    """Write a model of the UNet of one, the text encoder of another, and the VAE of a third."""
    settings = load_settings(config)
    check_out(out, force)
    named: dict[Component, list[str]] = {"unet": unet, "text_encoder": text_encoder, "vae": vae}
    sources = {part: [file_of(name, settings) for name in names] for part, names in named.items()}
    writer(settings).join(sources, out, dtype)
    told(out)


@app.command()
def convert(
    model: Model,
    *,
    out: Out,
    dtype: Annotated[Precision, typer.Option(help="Precision of all weights.")],
    force: Force = False,
    config: Config = None,
) -> None:
    """Write a model in another precision, or a .ckpt or diffusers folder as one .safetensors file."""
    settings = load_settings(config)
    check_out(out, force)
    writer(settings).convert(file_of(model, settings), out, dtype)
    told(out)


@app.command()
def prune(
    model: Model,
    *,
    out: Out,
    ema: Annotated[
        Literal["drop", "use"],
        typer.Option(help="drop the EMA copy of the UNet, or use it in the UNet's place."),
    ] = "drop",
    dtype: Dtype = None,
    force: Force = False,
    config: Config = None,
) -> None:
    """Write a model without EMA copies."""
    settings = load_settings(config)
    check_out(out, force)
    writer(settings).prune(file_of(model, settings), out, ema, dtype)
    told(out)


def file_of(name: str, settings: Settings) -> Path:
    """A path that is there, else a model of the models folder."""
    from optimizer.checkpoints import resolve_model

    # Who can type a path here can read the file anyway; a name means the models folder.
    return Path(name) if Path(name).exists() else resolve_model(settings.models_dir, name)


def split(names: str) -> list[str]:
    """Names between commas."""
    return [name.strip() for name in names.split(",") if name.strip()]


def check_out(out: Path, force: bool) -> None:
    """Raise InputError for a file that is no .safetensors or is there already."""
    if out.suffix != ".safetensors":
        raise InputError(f"{out} would be no .safetensors file; give it that suffix")
    if out.exists() and not force:
        raise InputError(f"{out} is there already; choose another name, or --force to write over it")


def told(out: Path) -> None:
    """Say what was written."""
    console.print(f"{out} written, {out.stat().st_size / 1e6:.1f} MB", highlight=False, soft_wrap=True)


def writer(settings: Settings) -> ComponentFiles:
    """Writes the files; every source is hashed once, and its hash kept."""
    from optimizer.checkpoints.hashes import HashCache
    from service.component_files import ComponentFiles

    return ComponentFiles(HashCache(settings.cache_dir))
