"""The probes of a file, as they are understood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from scoring.probes import FreeUStage, Places, Probe, Reading, read_probe_file
from service.cli.output import AsJson, console, print_json
from service.cli.setup import Config
from service.settings import load_settings

app = typer.Typer(
    no_args_is_help=True, help="The images that judge: what a file of them is understood to say."
)

Key = tuple[str, str]
"""A field of a probe, and of that field's own fields one: ("hires", "scale"), ("seed", "")."""

_PLAIN = Probe(prompt="", seed=0)
# Shown whatever they are; the others where they are not as nobody sets them.
_ALWAYS = ("prompt", "seed", "sampler", "steps", "cfg_scale", "clip_skip", "rng")
_UNSAID = (("resize_x", 0), ("resize_y", 0), ("mimic_scale_min", 0.0), ("cfg_scale_min", 0.0))
_MEANS = {("cfg_scale", 0.0): "0 (the negative prompt alone)", ("steps", 0): "as the first pass"}


@app.command()
def show(
    file: Annotated[
        str,
        typer.Argument(
            help="YAML, JSON or TOML, an infotext as .txt, or an image; here or in the probes folder."
        ),
    ],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show what is understood of a payload, an infotext, an image or a YAML file of probes."""
    settings = load_settings(config)
    path = Path(file) if Path(file).exists() else settings.probes_dir / file
    reading = read_probe_file(path if path.exists() else Path(file), Places(wildcards=settings.wildcards_dir))
    if as_json:
        print_json(_data(reading))
    else:
        _print(path, reading)


def _data(reading: Reading) -> dict[str, Any]:
    return {
        "probes": [probe.model_dump(mode="json") for probe in reading.probes],
        "provenance": [dict(made) for made in reading.provenance],
        "embeddings": list(reading.embeddings),
        "notes": [{"source": note.source, "text": note.text} for note in reading.notes],
    }


def _print(path: Path, reading: Reading) -> None:
    said = [_said(probe) for probe in reading.probes]
    common = {key: value for key, value in said[0].items() if all(one.get(key) == value for one in said)}
    own = [{key: value for key, value in one.items() if key not in common} for one in said]
    console.print(
        f"[bold]{escape(path.name)}[/]: {len(said)} probe{'s' if len(said) > 1 else ''}\n", highlight=False
    )
    _show_rows({**_rows(common), "off": ", ".join(_off(said))})
    if any(field in ("prompt", "negative_prompt") for one in own for field, _ in one):
        for number, one in enumerate(own, 1):
            console.print(f"\n[bold]probe {number}[/]", highlight=False)
            _show_rows(_rows(one))
    elif any(own):
        _show_columns([_rows(one) for one in own])
    if lines := [*reading.lines(), *_hints(reading)]:
        console.print("\n[bold]notes[/]")
        for line in lines:
            console.print(Padding(f"- {escape(line)}", (0, 0, 0, 2)), highlight=False)


def _hints(reading: Reading) -> list[str]:
    """What a job will look at that has these probes."""
    skipping = any(reading.probes[i].clip_skip != 1 for i in reading.counted_by_a1111)
    skips = ["clip_skip counts as in A1111: a job of SD2 or SDXL models makes it 1"] if skipping else []
    return [*skips, *(f"a job needs the embedding {name} in its folder" for name in reading.embeddings)]


def _show_rows(rows: Mapping[str, str]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", min_width=15, no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(escape(key), escape(value))
    console.print(table, highlight=False)


def _show_columns(rows: Sequence[Mapping[str, str]]) -> None:
    """One line a probe, where what differs is short."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table("probe", *map(escape, names), box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for number, row in enumerate(rows, 1):
        table.add_row(str(number), *(escape(row.get(name, "")) for name in names))
    console.print()
    console.print(table, highlight=False)


def _said(probe: Probe) -> dict[Key, str]:
    """What a probe says; what is off says nothing."""
    said: dict[Key, str] = {}
    for field, value in probe.model_dump().items():
        if isinstance(value, Mapping):
            said |= {(field, key): text for key, text in _part(value).items()}
        elif field == "width":
            said["size", ""] = f"{probe.width} x {probe.height}"
        elif field in _ALWAYS or (value != getattr(_PLAIN, field) and field != "height"):
            said[field, ""] = _shown(field, value)
    return said


def _part(fields: Mapping[str, Any]) -> dict[str, str]:
    """What hires, freeu or thresholding says."""
    said = {
        key: _shown(key, value)
        for key, value in fields.items()
        if key != "stages" and value is not None and (key, value) not in _UNSAID
    }
    return said | {f"stage {i}": _stage(stage) for i, stage in enumerate(fields.get("stages", []), 1)}


def _stage(stage: Mapping[str, Any]) -> str:
    plain = FreeUStage().model_dump()
    return ", ".join(f"{key} {_shown(key, value)}" for key, value in stage.items() if value != plain[key])


def _rows(said: Mapping[Key, str]) -> dict[str, str]:
    """A row a field; its own fields stand behind each other, FreeU's stages and prompts below."""
    rows: dict[str, str] = {}
    for (field, key), text in said.items():
        if key.startswith("stage ") or key.endswith("prompt"):
            rows[f"  {key}"] = text or "changes nothing"
        elif key:
            rows[field] = ", ".join(filter(None, [rows.get(field), f"{key} {text}"]))
        else:
            rows[field] = text
    return rows


def _off(said: Sequence[Mapping[Key, str]]) -> list[str]:
    """The fields that no probe says anything of."""
    named = {field for one in said for field, _ in one} | {"width", "height"}
    return [field for field in Probe.model_fields if field not in named]


def _shown(field: str, value: Any) -> str:
    return _MEANS.get((field, value)) or (f"{value:g}" if isinstance(value, float) else str(value))
