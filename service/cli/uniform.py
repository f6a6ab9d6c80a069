"""The uniform merge of many models, without a job."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from service.cli.components import Force, Out, Precision, check_out, file_of, split, writer
from service.cli.output import console
from service.cli.setup import Config
from service.settings import load_settings


def uniform(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL", help="Two or more files or names of models.")
    ],
    *,
    out: Out,
    components: Annotated[
        str, typer.Option(help="What is averaged: unet, text_encoder, vae; all else is the first model's.")
    ] = "unet",
    dtype: Annotated[Precision, typer.Option(help="Precision of all weights.")] = "fp16",
    force: Force = False,
    config: Config = None,
) -> None:
    """Write the mean of two or more models: no search, and what every search has to beat."""
    from optimizer.checkpoints.parts import parse_components

    settings, wanted = load_settings(config), parse_components(split(components))
    check_out(out, force)
    paths = [file_of(name, settings) for name in models]
    started = time.perf_counter()
    writer(settings).uniform(paths, wanted, out, dtype)
    seconds, size = time.perf_counter() - started, out.stat().st_size / 1e6
    console.print(
        f"{out} written, {size:.1f} MB: the mean of {len(paths)} models ({', '.join(wanted)}), "
        f"in {seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
