"""`autombw screen`: every UNet with every text encoder on the same probes, as sheets and as a ranking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand

from scoring.errors import InputError
from scoring.probes import Probe, probe_data
from scoring.scorers.base import ScorerSpec
from service.cli.components import file_of
from service.cli.output import AsJson, console, errors, fail, print_json
from service.cli.setup import Config, configure_logging
from service.jobfile import read_job_file
from service.settings import Settings, describe, load_settings

# torch and diffusers take seconds to import: only the commands that compute may pay for them.
if TYPE_CHECKING:
    from optimizer.checkpoints import Architecture
    from optimizer.screen_report import Results
    from optimizer.screening import Models
    from optimizer.standings import Axis, Standing

_LISTS = ("--unets", "--unet", "--text-encoders", "--text-encoder", "--scorer")
_WORDS = {"unet": "UNets", "text_encoder": "text encoders"}


class Lists(TyperCommand):
    """Takes `--unets a b c` as `--unets a --unets b --unets c`, so that a shell's `*` works."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The words of the command line, with lists written out."""
        return super().parse_args(ctx, written_out(args))


def screen(
    *,
    unets: Annotated[
        list[str],
        typer.Option("--unets", "--unet", metavar="MODEL...", help="Whose UNets: files or names of models."),
    ],
    text_encoders: Annotated[
        list[str],
        typer.Option("--text-encoders", "--text-encoder", metavar="MODEL...", help="Whose text encoders."),
    ],
    probes: Annotated[
        str, typer.Option(help="A file of probes, as `autombw probes show` reads it; here or in its folder.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write; run again, it goes on.")],
    vae: Annotated[str | None, typer.Option(help="Whose VAE; the first UNet's model's unless given.")] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=MODEL]...", help="Who judges: `clip=emoji-clip`; pictures only without."),
    ] = None,
    scorers: Annotated[
        Path | None, typer.Option(help="A YAML or JSON file whose `scorers:` says it as a job does.")
    ] = None,
    normalise: Annotated[
        bool, typer.Option(help="Bring several scorers to one scale before they are weighed.")
    ] = True,
    prediction_type: Annotated[
        str | None, typer.Option(help="Of all UNets: epsilon or v_prediction; else found out from each file.")
    ] = None,
    cell: Annotated[
        int | None,
        typer.Option(
            min=16, max=4096, help="Width of a picture on the sheets; else as rendered, 256 at most."
        ),
    ] = None,
    columns: Annotated[
        int, typer.Option(min=1, help="So many pictures side by side; the others follow below.")
    ] = 12,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Render the same probes by many UNets and text encoders; draw contact sheets, rank who is useful."""
    from optimizer.screen_report import Drawing, draw_sheets, results, write_tables
    from optimizer.screen_report import as_json as data
    from optimizer.screening import Screener, check_models

    settings = load_settings(config)
    configure_logging(settings, quiet=True)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; name a folder for the sheets")
    specs = _scorers(scorer or [], scorers, settings)
    models = _models(unets, text_encoders, vae, prediction_type, settings)
    wanted = _probes(probes, check_models(models), settings)
    _check_scale(specs, normalise, len(models.combinations) * len(wanted))
    cache, device = settings.cache_dir, _device(settings)
    screened = Screener(models, wanted, specs, out, device=device, cache=cache, told=_say).run()
    try:
        found = results(models, wanted, specs, screened, normalise=normalise)
    except InputError as error:
        draw_sheets(results(models, wanted, [], screened), out, Drawing(cell, columns))
        raise InputError(
            f"{error} (--no-normalise); the sheets in {out} are drawn, nothing is ranked"
        ) from error
    out.mkdir(parents=True, exist_ok=True)
    write_tables(found, out)
    sheets = draw_sheets(found, out, Drawing(cell, columns))
    if as_json:
        print_json({**data(found), "sheets": [str(sheet) for sheet in sheets]})
    else:
        _print(found, sheets, out)
    if not screened.images:
        fail(f"every combination failed: {next(iter(screened.failures.values()))}", 1)


def written_out(args: Sequence[str]) -> list[str]:
    """The words of a command line with each value of a list behind its option."""
    words: list[str] = []
    option, values = None, 0
    for word in args:
        if word.startswith("-"):
            option, values = (word, 0) if word in _LISTS else (None, 0)
            words.append(word)
        else:
            words += [option, word] if option is not None and values else [word]
            values += 1
    return words


def _scorers(named: Sequence[str], file: Path | None, settings: Settings) -> list[ScorerSpec]:
    from service.planning import checked_scorers

    given: Any = [
        {"scorer": name, "model": model or None} for name, _, model in (one.partition("=") for one in named)
    ]
    field = "--scorer"
    if file is not None:
        request = read_job_file(file)
        if not isinstance(request.get("scorers"), list):
            raise InputError(f"{file} says nothing of `scorers:`; list them there as in a job file")
        given, field = [*request["scorers"], *given], f"{file}: scorers" if not given else "scorers"
    try:
        specs = TypeAdapter(list[ScorerSpec]).validate_python(given)
    except ValidationError as error:
        raise InputError(f"{field}: {describe(error)}") from error
    return checked_scorers(specs, settings, local=True, field=field)


def _models(
    unets: Sequence[str],
    text_encoders: Sequence[str],
    vae: str | None,
    prediction_type: str | None,
    settings: Settings,
) -> Models:
    from optimizer.checkpoints import parse_prediction_type
    from optimizer.screening import Model, Models

    def model(name: str) -> Model:
        path = file_of(name, settings)
        label = path.stem if path.suffix in (".safetensors", ".ckpt") else path.name
        return Model(label, path)

    if prediction_type is not None:
        parse_prediction_type(prediction_type)
    return Models(
        [model(name) for name in unets],
        [model(name) for name in text_encoders],
        model(vae if vae is not None else unets[0]),
        prediction_type,
    )


def _probes(file: str, architecture: Architecture, settings: Settings) -> list[Probe]:
    from service.probes import ProbeSource

    path = Path(file) if Path(file).exists() else settings.probes_dir / file
    reading = ProbeSource("screen", settings, architecture).read(
        probe_data(path if path.exists() else Path(file)), path.name
    )
    for line in reading.lines():
        _say(line)
    return list(reading.probes)


def _check_scale(specs: Sequence[ScorerSpec], normalise: bool, images: int) -> None:
    if normalise and len(specs) > 1 and images < 2:
        raise InputError(
            "several scorers are brought to one scale by their spread over the images, and there would be "
            "one; give more probes or models, or --no-normalise"
        )


def _device(settings: Settings) -> Any:
    import torch

    from optimizer.screening import Device

    return Device(
        settings.resolved_device(),
        getattr(torch, settings.resolved_dtype()),
        settings.resolved_max_batch(),
        settings.embeddings_dir if settings.embeddings_dir.is_dir() else None,
        settings.batches_file,
    )


def _say(line: str) -> None:
    errors.print(escape(line), style="dim", highlight=False, soft_wrap=True)


def _print(found: Results, sheets: Sequence[Path], out: Path) -> None:
    if found.ranked or found.screened.failures:
        console.print(_ranking(found))
    for axis, of_axis in found.standings.items():
        if len(found.standings) > 1:
            console.print(_standings(axis, of_axis))
        console.print(f"\n{_who_stands_out(axis, of_axis)}", highlight=False, soft_wrap=True)
    drawn = sheets[0].name if len(sheets) == 1 else f"{sheets[0].name} to {sheets[-1].name}"
    console.print(
        f"\n{escape(str(out))}: {drawn}, scores.csv, images.csv, ranking.json; VAE of "
        f"{escape(found.models.vae.name)}; {found.screened.rendered} images rendered",
        highlight=False,
        soft_wrap=True,
    )


def _ranking(found: Results) -> Table:
    from optimizer.screen_report import number

    scorers = [spec.scorer for spec in found.specs]
    table = Table("rank", "UNet", "text encoder", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ["score", *scorers] if len(scorers) > 1 else scorers:
        table.add_column(escape(name), no_wrap=True)
    for row in found.ranked:
        means = [row.scorers[name] for name in scorers]
        shown = [row.score, *means] if len(scorers) > 1 else means
        table.add_row(str(row.rank), *map(escape, row.combination), *map(number, shown))
    for combination, reason in sorted(found.screened.failures.items()):
        table.add_row("-", *map(escape, combination), f"[red]failed: {escape(reason)}")
    return table


def _standings(axis: Axis, of_axis: Sequence[Standing]) -> Table:
    from optimizer.screen_report import number

    title = f"\n{_WORDS[axis]} on the same probes and partners"
    table = Table(
        "rank", "model", "better than their mean by", "", title=title, title_justify="left", box=None,
        title_style="bold", pad_edge=False, padding=(0, 2, 0, 0),
    )  # fmt: skip
    for one in of_axis:
        verdict = (
            "" if not one.stands_out else "[green]stands out" if one.gain.value > 0 else "[red]falls off"
        )
        table.add_row(str(one.rank), escape(one.name), number(one.gain, signed=True), verdict)
    return table


def _who_stands_out(axis: Axis, of_axis: Sequence[Standing]) -> str:
    from optimizer.screen_report import number

    def told(some: Sequence[Standing]) -> str:
        return ", ".join(f"{escape(one.name)} ({number(one.gain, signed=True)})" for one in some)

    best = [one for one in of_axis if one.stands_out and one.gain.value > 0]
    worst = [one for one in of_axis if one.stands_out and one.gain.value < 0]
    word = _WORDS[axis]
    if not best and not worst:
        return f"Of the {word} none stands out: what they differ by may be chance. More probes tell more."
    lines = [f"[bold]{word} that stand out[/]: {told(best)}"] if best else []
    return "\n".join([*lines, *([f"[bold]{word} that fall off[/]: {told(worst)}"] if worst else [])])
