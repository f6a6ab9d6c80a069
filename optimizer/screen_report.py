"""What is written of a screening: contact sheets, tables, the ranking."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from optimizer.contact_sheet import Cell, contact_sheet
from optimizer.screen_folder import ScreenFolder
from optimizer.screening import Model, Models, Screened
from optimizer.standings import (
    Axis,
    Combination,
    Mean,
    Ranked,
    Standing,
    combined_scores,
    ranking,
    standings,
)
from scoring.display import cell
from scoring.probes import Probe
from scoring.scorers.base import ScorerSpec

_MOST_PROMPT = 160
_WIDEST = 256


@dataclass(frozen=True)
class Results:
    """Everything that is known when a screening is done. Without scorers nothing is ranked."""

    models: Models
    probes: Sequence[Probe]
    specs: Sequence[ScorerSpec]
    screened: Screened
    ranked: Sequence[Ranked]
    standings: Mapping[Axis, Sequence[Standing]]
    """Of the axes that have more than one member."""


@dataclass(frozen=True)
class Drawing:
    """cell: the width of a picture in pixels; unless given as the probes say, 256 at most, since a sheet of
    forty models has hundreds. per_band: so many side by side."""

    cell: int | None = None
    per_band: int | None = None

    def width(self, probes: Sequence[Probe]) -> int:
        """The width of a picture on a sheet of these probes."""
        return self.cell or min(_WIDEST, max(probe.width for probe in probes))


def results(
    models: Models,
    probes: Sequence[Probe],
    specs: Sequence[ScorerSpec],
    screened: Screened,
    *,
    normalise: bool = True,
) -> Results:
    """Scores, ranks and standings. Raises InputError for scorers that can't be brought to one scale."""
    if not specs or not screened.scores:
        return Results(models, probes, specs, screened, [], {})
    scores = combined_scores(screened.scores, specs, normalise=normalise)
    several = {"unet": len(models.unets) > 1, "text_encoder": len(models.text_encoders) > 1}
    axes: list[Axis] = ["unet", "text_encoder"]
    return Results(
        models,
        probes,
        specs,
        screened,
        ranking(screened.scores, scores, specs),
        {axis: standings(scores, axis) for axis in axes if several[axis]},
    )


def draw_sheets(found: Results, folder: Path, drawing: Drawing) -> list[Path]:
    """Contact sheets as PNG; their paths.

    Where one axis is alone, `sheet.png`: probes are rows and models columns. Else a sheet a probe,
    `sheet-1.png` and so on: text encoders are rows, UNets columns.
    """
    unets, texts = found.models.unets, found.models.text_encoders
    pictures = ScreenFolder(folder)
    sheets: dict[str, Image.Image] = {}

    def cell(combination: Combination, probe: int) -> Cell:
        if combination in found.screened.failures:
            return f"failed: {found.screened.failures[combination]}"
        return pictures.image(found.screened.images[combination][probe])

    if len(unets) > 1 and len(texts) > 1:
        of_unets, of_texts = (_ranks(found.standings.get(axis, ())) for axis in ("unet", "text_encoder"))
        for i, probe in enumerate(found.probes):
            sheets[f"sheet-{i + 1}.png"] = contact_sheet(
                {text.name: [cell(Combination(unet.name, text.name), i) for unet in unets] for text in texts},
                [unet.name for unet in unets],
                cell=drawing.width([probe]),
                title=[*_titles(found), _said(probe)],
                row_notes=of_texts,
                column_notes=of_unets,
                per_band=drawing.per_band,
            )
    else:
        combinations = found.models.combinations
        names = [_moving(found.models, combination) for combination in combinations]
        axis: Axis = "text_encoder" if len(texts) > 1 else "unet"
        sheets["sheet.png"] = contact_sheet(
            {
                label: [cell(combination, i) for combination in combinations]
                for i, label in enumerate(_labels(found.probes))
            },
            names,
            cell=drawing.width(found.probes),
            title=_titles(found),
            column_notes=_ranks(found.standings.get(axis, ())),
            per_band=drawing.per_band,
        )
    for name, sheet in sheets.items():
        sheet.save(folder / name)
    return [folder / name for name in sheets]


def write_tables(found: Results, folder: Path) -> None:
    """`scores.csv` with a line a combination, `images.csv` with a line an image, and `ranking.json`."""
    scorers = [spec.scorer for spec in found.specs]
    with (folder / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        head = ["rank", "unet", "text_encoder", "score", "score_error"]
        table = csv.writer(file)
        table.writerow([*head, *(f"{s}{part}" for s in scorers for part in ("", "_error")), "failed"])
        for row in found.ranked:
            numbers = [part for mean in (row.score, *(row.scorers[s] for s in scorers)) for part in mean]
            table.writerow([row.rank, *map(cell, row.combination), *numbers, ""])
        for combination, reason in sorted(found.screened.failures.items()):
            table.writerow(["", *map(cell, combination), *[""] * (2 + 2 * len(scorers)), cell(reason)])
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["unet", "text_encoder", "probe", "prompt", "seed", "file", *scorers])
        for combination, paths in sorted(found.screened.images.items()):
            own = found.screened.scores.get(combination, [{}] * len(paths))
            for i, (path, probe) in enumerate(zip(paths, found.probes, strict=True)):
                numbers = [own[i][scorer] for scorer in scorers]
                place = path.relative_to(folder).as_posix()
                texts = map(cell, (*combination, i, probe.prompt, probe.seed, place))
                table.writerow([*texts, *numbers])
    text = json.dumps(as_json(found), indent=2, ensure_ascii=False)
    (folder / "ranking.json").write_text(text + "\n", encoding="utf-8")


def as_json(found: Results) -> dict[str, Any]:
    """The ranking, the standings and what they were made of."""
    return {
        "models": {
            "unets": [_of_model(one, found) for one in found.models.unets],
            "text_encoders": [_of_model(one, found) for one in found.models.text_encoders],
            "vae": _of_model(found.models.vae, found),
        },
        "scorers": [spec.model_dump() for spec in found.specs],
        "probes": [probe.model_dump(mode="json") for probe in found.probes],
        "ranking": [
            {
                "rank": row.rank,
                **row.combination._asdict(),
                "score": row.score._asdict(),
                "scorers": {name: mean._asdict() for name, mean in row.scorers.items()},
            }
            for row in found.ranked
        ],
        "standings": {
            axis: [
                {
                    "rank": one.rank,
                    "name": one.name,
                    "score": one.score,
                    "gain": one.gain._asdict(),
                    "stands_out": one.stands_out,
                }
                for one in of_axis
            ]
            for axis, of_axis in found.standings.items()
        },
        "failed": [
            {**combination._asdict(), "reason": reason}
            for combination, reason in sorted(found.screened.failures.items())
        ],
    }


def number(mean: Mean, *, signed: bool = False) -> str:
    """`0.312 ± 0.004`: a mean with as many digits as its error makes sense of. signed: `+0.312`."""
    sign = "+" if signed else ""
    if not mean.error:
        return f"{mean.value:{sign}.4g}"
    digits = max(0, min(6, 1 - _magnitude(mean.error)))
    return f"{mean.value:{sign}.{digits}f} ± {mean.error:.{digits}f}"


def _magnitude(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


def _titles(found: Results) -> list[str]:
    models = found.models
    vae = f"VAE of {models.vae.name}"
    if len(models.text_encoders) == 1:
        first = f"UNets with the text encoder of {models.text_encoders[0].name}, {vae}"
    elif len(models.unets) == 1:
        first = f"Text encoders on the UNet of {models.unets[0].name}, {vae}"
    else:
        first = f"UNets (columns) with text encoders (rows), {vae}"
    if not any(found.standings.values()):
        return [first]
    scorers = ", ".join(spec.scorer for spec in found.specs)
    return [first, f"#rank by {scorers}; how much better than the mean of all, ± standard error"]


def _moving(models: Models, combination: Combination) -> str:
    return combination.text_encoder if len(models.text_encoders) > 1 else combination.unet


def _ranks(of_axis: Sequence[Standing]) -> dict[str, str]:
    notes = {}
    for one in of_axis:
        gain, _, error = number(one.gain, signed=True).partition(" ± ")
        notes[one.name] = f"#{one.rank}  {gain}" + (f"\n± {error}" if error else "")
    return notes


def _said(probe: Probe) -> str:
    prompt = probe.prompt if len(probe.prompt) <= _MOST_PROMPT else probe.prompt[:_MOST_PROMPT] + "…"
    return f"{prompt} · seed {probe.seed}"


def _labels(probes: Sequence[Probe]) -> list[str]:
    """A name for every probe: what it says and its seed; numbered where two say the same."""
    said = [_said(probe).replace(" · ", "\n") for probe in probes]
    return [f"{one} ({i + 1})" if said.count(one) > 1 else one for i, one in enumerate(said)]


def _of_model(model: Model, found: Results) -> dict[str, str]:
    return {
        "name": model.name,
        "file": model.path.name,
        "sha256": found.screened.hashes[model.path],
    }
