"""UNets and text encoders screened on small models, with real files, renders and scorers."""

from __future__ import annotations

import csv
import json
import random
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import optimizer.screening as screening
from optimizer.checkpoints import load_component, load_components
from optimizer.checkpoints.parts import component_of
from optimizer.components import extract
from optimizer.screen_report import Drawing, draw_sheets, results, write_tables
from optimizer.screening import Device, Model, Models, Screened, Screener, check_models
from optimizer.standings import Combination, combined_scores, ranking, standings
from scoring.errors import InputError
from scoring.probes import Probe
from scoring.probes.images import infotext_of_image
from scoring.probes.infotext_reader import read_infotext
from scoring.prompts.plain import plain_text
from scoring.rendering.fitting import shortened
from scoring.rendering.images import to_pil
from scoring.rendering.renderer import Renderer
from scoring.scorers.base import ScorerSpec
from scoring.scorers.registry import create_scorer
from tests.unit.optimizer.checkpoint_files import write_header_only
from tests.unit.optimizer.pictures import places_of

PROBES = [
    Probe(prompt=prompt, seed=seed, steps=2, width=size, height=32, cfg_scale=3.0, sampler="Euler")
    for prompt, seed, size in (("a cat", 1, 32), ("a (red:1.2) apple", 2, 32), ("a dog", 3, 64))
]
UNETS, TEXTS = ("left", "right"), ("left", "loud", "right")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models whose UNets and text encoders all differ: `left`, `right`, `loud`, and `broken` with a NaN."""
    out = tmp_path_factory.mktemp("screened")
    torch.manual_seed(3)
    for name, base, noise in (("left", "left", 0.0), ("right", "right", 0.3), ("loud", "left", 0.6)):
        tensors = load_file(tiny_models / f"{base}.safetensors")
        for key, tensor in list(tensors.items()):
            if component_of(key) == "text_encoder":
                spread = tensor.float().std(unbiased=False).to(tensor)
                tensors[key] = tensor + noise * spread * torch.randn_like(tensor)
        save_file(tensors, out / f"{name}.safetensors")
    tensors = load_file(out / "left.safetensors")
    tensors["model.diffusion_model.out.2.bias"][0] = torch.nan
    save_file(tensors, out / "broken.safetensors")
    return out


def model(folder: Path, name: str) -> Model:
    return Model(name, folder / f"{name}.safetensors")


def models(folder: Path, unets: Sequence[str] = UNETS, texts: Sequence[str] = TEXTS) -> Models:
    return Models(
        [model(folder, name) for name in unets],
        [model(folder, name) for name in texts],
        model(folder, "left"),
    )


@pytest.fixture(scope="module")
def specs(tiny_scorers: Path) -> list[ScorerSpec]:
    clip = ScorerSpec(scorer="clip", model=str(tiny_scorers / "reward"))
    return [clip, ScorerSpec(scorer="sharpness", weight=2.0, reverse=True)]


@pytest.fixture(scope="module")
def screened(
    folder: Path, specs: list[ScorerSpec], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Screened]:
    """All UNets with all text encoders, and the folder with the images; read only."""
    out = tmp_path_factory.mktemp("out")
    return out, Screener(models(folder), PROBES, specs, out).run()


def alone(folder: Path, combination: Combination) -> list[Tensor]:
    """The images (3, H, W) of a combination by a renderer of its own, one probe after the other."""
    components = load_components(
        folder / f"{combination.unet}.safetensors", device="cpu", dtype=torch.float32
    )
    path = folder / f"{combination.text_encoder}.safetensors"
    components.text_encoder = load_component(path, "text_encoder", "emoji", device="cpu", dtype=torch.float32)
    renderer = Renderer(components, "cpu")
    with torch.no_grad():
        return [images[0] for probe in PROBES for _, images in renderer.render([probe])]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_every_image_is_that_of_its_unet_with_its_text_encoder(
    folder: Path, screened: tuple[Path, Screened]
) -> None:
    _, found = screened
    assert set(found.images) == {Combination(unet, text) for unet in UNETS for text in TEXTS}
    seen = []
    for combination, paths in found.images.items():
        for path, image in zip(paths, alone(folder, combination), strict=True):
            # Sharing a batch changes an image by rounding.
            (wanted,) = to_pil(image[None])
            assert np.abs(pixels(path) - np.asarray(wanted).astype(int)).max() <= 1, path
            seen.append(pixels(path).tobytes())
    assert len(set(seen)) == len(seen), "no two combinations draw the same"


def test_every_image_tells_how_it_was_made(screened: tuple[Path, Screened]) -> None:
    _, found = screened
    for combination, paths in found.images.items():
        for path, probe in zip(paths, PROBES, strict=True):
            assert read_infotext(infotext_of_image(path)).probes == (probe,)
            assert path.parts[-3:-1] == combination


def test_scores_are_those_of_every_image_judged_alone(
    screened: tuple[Path, Screened], specs: list[ScorerSpec]
) -> None:
    _, found = screened
    for spec in specs:
        scorer = create_scorer(spec, "cpu")
        for combination, paths in found.images.items():
            for i, path in enumerate(paths):
                image = torch.tensor(pixels(path)).permute(2, 0, 1)[None].float() / 255
                with torch.no_grad():
                    (direct,) = scorer.score(image, [plain_text(PROBES[i].prompt, 2)]).tolist()
                assert found.scores[combination][i][spec.scorer] == pytest.approx(direct, rel=1e-6, abs=1e-5)


def test_the_ranking_is_that_of_the_mean_of_normalised_scores(
    screened: tuple[Path, Screened], specs: list[ScorerSpec]
) -> None:
    _, found = screened
    scores = combined_scores(found.scores, specs, normalise=True)
    # Literally: (clip in standard deviations - 2 x sharpness in standard deviations) / 3.
    every = {s: [one[s] for own in found.scores.values() for one in own] for s in ("clip", "sharpness")}
    literal = {}
    for combination, own in found.scores.items():
        parts = [
            {s: (one[s] - statistics.mean(every[s])) / statistics.stdev(every[s]) for s in every}
            for one in own
        ]
        literal[combination] = [(part["clip"] - 2 * part["sharpness"]) / 3 for part in parts]
        assert scores[combination] == pytest.approx(literal[combination])
    rows = ranking(found.scores, scores, specs)
    by_hand = sorted(literal, key=lambda combination: -sum(literal[combination]))
    assert [row.combination for row in rows] == by_hand
    assert [row.rank for row in rows] == [1, 2, 3, 4, 5, 6]
    best = rows[0]
    own = found.scores[best.combination]
    assert best.scorers["clip"].value == pytest.approx(sum(one["clip"] for one in own) / 3)
    spread = np.std([one["clip"] for one in own], ddof=1) / np.sqrt(3)
    assert best.scorers["clip"].error == pytest.approx(spread)


def test_standings_compare_on_the_same_probes_and_partners() -> None:
    easy, hard = 0.9, 0.1
    scores = {
        Combination("u", "a"): [easy + 0.05, hard + 0.05, 0.5 + 0.06],
        Combination("u", "b"): [easy, hard, 0.5],
        Combination("v", "a"): [easy + 0.15, hard + 0.15, 0.5 + 0.14],
        Combination("v", "b"): [easy + 0.1, hard + 0.1, 0.5 + 0.1],
        Combination("w", "a"): [0.0, 0.0, 0.0],  # b failed with w: w tells nothing of a beside b
    }
    a, b = standings(scores, "text_encoder")
    assert (a.name, a.rank, b.name, b.rank) == ("a", 1, "b", 2)
    # Per probe, of the two partners u and v: a - b = 0.05, 0.05, 0.05, and half of it lies above the mean.
    assert a.gain.value == pytest.approx(0.025)
    assert b.gain.value == pytest.approx(-0.025)
    assert a.score == pytest.approx(statistics.mean([0.95, 0.15, 0.56, 1.05, 0.25, 0.64]))
    assert a.stands_out
    assert b.stands_out
    even = {
        Combination("u", "a"): [0.5, 0.1],
        Combination("u", "b"): [0.1, 0.5],
        Combination("u", "c"): [0.3, 0.3],
    }
    assert [(one.name, one.rank, one.stands_out) for one in standings(even, "text_encoder")] == [
        ("a", 1, False),
        ("b", 1, False),
        ("c", 1, False),
    ]
    assert standings({}, "unet") == []
    apart = {Combination("u", "a"): [1.0], Combination("v", "b"): [2.0]}
    assert standings(apart, "unet") == []


def test_who_stands_out_is_decided_by_a_t_test() -> None:
    # The gains of a are 0.5, 1, 1.5: t = 1 / (0.5 / sqrt(3)) = 3.46, and 4.30 is needed with 3 probes.
    few = {Combination("u", "a"): [0.5, 1.0, 1.5], Combination("u", "b"): [-0.5, -1.0, -1.5]}
    a, b = standings(few, "text_encoder")
    assert a.gain.value / (a.gain.error or 0) == pytest.approx(2 * 3**0.5)
    assert not any(one.stands_out for one in (a, b))
    many = {key: own * 4 for key, own in few.items()}
    assert all(one.stands_out for one in standings(many, "text_encoder"))
    one_probe = {key: own[:1] for key, own in few.items()}
    assert [(one.gain.error, one.stands_out) for one in standings(one_probe, "text_encoder")] == [
        (None, False)
    ] * 2


def test_no_order_changes_the_result(
    folder: Path, specs: list[ScorerSpec], screened: tuple[Path, Screened], tmp_path: Path
) -> None:
    _, found = screened
    unets, texts = list(reversed(UNETS)), random.Random(1).sample(TEXTS, 3)
    other = Screener(models(folder, unets, texts), PROBES, list(reversed(specs)), tmp_path).run()
    for combination, paths in found.images.items():
        assert [path.read_bytes() for path in paths] == [p.read_bytes() for p in other.images[combination]]
        assert found.scores[combination] == other.scores[combination]
    scores = [combined_scores(one.scores, specs, normalise=True) for one in (found, other)]
    assert scores[0] == scores[1]
    rows = [ranking(one.scores, own, specs) for one, own in zip((found, other), scores, strict=True)]
    assert rows[0] == rows[1]


class Counted:
    """Counts what is loaded and rendered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loaded: list[tuple[str, str]] = []
        self.rendered: list[int] = []
        load, render = load_component, Renderer.render

        def loading(path: Path, component: str, *args: object, **named: object) -> object:
            self.loaded.append((path.stem, component))
            return load(path, component, *args, **named)  # type: ignore[arg-type]

        def rendering(renderer: Renderer, *args: object) -> object:
            for indices, images in render(renderer, *args):  # type: ignore[arg-type]
                self.rendered += indices
                yield indices, images

        monkeypatch.setattr(screening, "load_component", loading)
        monkeypatch.setattr(Renderer, "render", rendering)


def test_each_component_is_loaded_once_and_each_text_encoded_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    Screener(models(folder), PROBES, [], tmp_path).run()
    wanted = [(name, "unet") for name in UNETS] + [(name, "text_encoder") for name in TEXTS]
    assert sorted(counted.loaded) == sorted([*wanted, ("left", "vae")])
    assert len(counted.rendered) == len(UNETS) * len(TEXTS) * len(PROBES)


def test_batches_are_measured_without_the_text_encoder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In 10 steps b never stands beside c; in the 2 of a measurement it does, in the third call of Heun.
    changes = {"prompt": "[a:b:0.25] [c:d:4]", "steps": 10, "sampler": "Heun"}
    probe = PROBES[0].model_copy(update=changes)
    measured: list[Tensor] = []

    def measure(renderer: Renderer, probes: Sequence[Probe], file: Path) -> None:
        assert file == tmp_path / "batches.json"
        measured.extend(images for _, images in renderer.render([shortened(one) for one in probes]))

    monkeypatch.setattr(screening, "fit_batches", measure)
    device = Device(batches=tmp_path / "batches.json")
    Screener(models(folder, texts=["left"]), [probe], [], tmp_path, device=device).run()
    assert len(measured) == len(UNETS)
    renderer = Renderer(
        load_components(folder / "left.safetensors", device="cpu", dtype=torch.float32), "cpu"
    )
    with torch.no_grad():
        ((_, wanted),) = renderer.render([shortened(probe)])
    assert torch.equal(measured[0], wanted)


def test_what_is_there_is_not_rendered_again(
    folder: Path, specs: list[ScorerSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = models(folder, ["left"], ["left", "loud"])
    first = Screener(few, PROBES, specs, tmp_path).run()
    assert (first.rendered, first.judged) == (6, 12)
    counted = Counted(monkeypatch)
    again = Screener(few, PROBES, specs, tmp_path).run()
    assert (again.rendered, again.judged, counted.loaded, counted.rendered) == (0, 0, [], [])
    assert again.scores == first.scores
    # One image gone: it alone is rendered, with its own UNet and text encoder; the same to the bit.
    gone = first.images["left", "loud"][2]  # type: ignore[index]
    before = gone.read_bytes()
    gone.unlink()
    mended = Screener(few, PROBES, specs, tmp_path).run()
    assert counted.loaded == [("left", "unet"), ("left", "vae"), ("loud", "text_encoder")]
    assert (mended.rendered, counted.rendered) == (1, [2])
    assert gone.read_bytes() == before
    # One more model, one more probe, one more scorer: only what is new.
    more = models(folder, ["left"], ["loud", "right", "left"])
    probes = [*PROBES, PROBES[0].model_copy(update={"seed": 9})]
    guard = ScorerSpec(scorer="brightness")
    grown = Screener(more, probes, [*specs, guard], tmp_path).run()
    assert grown.rendered == 4 + 1 + 1
    assert [one["clip"] for one in grown.scores["left", "loud"]][:3] == pytest.approx(  # type: ignore[index]
        [one["clip"] for one in first.scores["left", "loud"]]  # type: ignore[index]
    )


def test_another_file_of_the_same_name_is_rendered_anew(folder: Path, tmp_path: Path) -> None:
    few = models(folder, ["left"], ["left"])
    Screener(few, PROBES, [], tmp_path).run()
    other = Models([Model("left", folder / "right.safetensors")], few.text_encoders, few.vae)
    assert Screener(other, PROBES, [], tmp_path).run().rendered == 3
    assert Screener(few, PROBES, [], tmp_path).run().rendered == 0
    velocity = Models(few.unets, few.text_encoders, few.vae, prediction_type="epsilon")
    assert Screener(velocity, PROBES, [], tmp_path).run().rendered == 3


def test_scores_that_a_kill_cut_short_are_computed_again(
    folder: Path, specs: list[ScorerSpec], tmp_path: Path
) -> None:
    few = models(folder, ["left"], ["left"])
    first = Screener(few, PROBES, specs, tmp_path).run()
    journal = tmp_path / "scores.jsonl"
    journal.write_bytes(journal.read_bytes()[:-5])
    again = Screener(few, PROBES, specs, tmp_path).run()
    assert (again.rendered, again.judged, again.scores) == (0, 3, first.scores)
    assert Screener(few, PROBES, specs, tmp_path).run().judged == 0


def test_a_broken_model_fails_alone(folder: Path, specs: list[ScorerSpec], tmp_path: Path) -> None:
    lines: list[str] = []
    broken = models(folder, ["broken", "left"], ["left", "loud"])
    found = Screener(broken, PROBES, specs, tmp_path, told=lines.append).run()
    assert set(found.images) == set(found.scores) == {("left", "left"), ("left", "loud")}
    assert set(found.failures) == {("broken", "left"), ("broken", "loud")}
    assert "NaN" in found.failures["broken", "left"]  # type: ignore[index]
    assert [line[:5] for line in lines[1:5]] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    scores = combined_scores(found.scores, specs, normalise=True)
    assert [one.name for one in standings(scores, "unet")] == ["left"]
    assert len(standings(scores, "text_encoder")) == 2


def test_sheets_show_each_image_in_its_place_and_tables_name_it(
    folder: Path, specs: list[ScorerSpec], screened: tuple[Path, Screened], tmp_path: Path
) -> None:
    out, found = screened
    done = results(models(folder), PROBES, specs, found)
    sheets = draw_sheets(done, out, Drawing())
    assert [sheet.name for sheet in sheets] == ["sheet-1.png", "sheet-2.png", "sheet-3.png"]
    for i, path in enumerate(sheets):
        sheet = Image.open(path)
        places = {
            combination: places_of(sheet, Image.open(paths[i])) for combination, paths in found.images.items()
        }
        assert all(len(place) == 1 for place in places.values())
        lefts = [[places[Combination(unet, text)][0][0] for unet in UNETS] for text in TEXTS]
        tops = [[places[Combination(unet, text)][0][1] for unet in UNETS] for text in TEXTS]
        assert all(row == lefts[0] == sorted(set(row)) for row in lefts), "UNets are columns"
        assert [set(row) for row in tops] == [{top} for top in sorted(row[0] for row in tops)]
    write_tables(done, out)
    with (out / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["unet"], row["text_encoder"]) for row in rows] == [row.combination for row in done.ranked]
    assert [row["rank"] for row in rows] == list("123456")
    own = found.scores[done.ranked[0].combination]
    assert float(rows[0]["clip"]) == pytest.approx(statistics.mean(one["clip"] for one in own))
    with (out / "images.csv").open() as file:
        for row in csv.DictReader(file):
            combination, i = Combination(row["unet"], row["text_encoder"]), int(row["probe"])
            assert out / row["file"] == found.images[combination][i]
            assert float(row["clip"]) == found.scores[combination][i]["clip"]
            assert (row["prompt"], int(row["seed"])) == (PROBES[i].prompt, PROBES[i].seed)
    told = json.loads((out / "ranking.json").read_text())
    assert [(one["unet"], one["text_encoder"]) for one in told["ranking"]] == [
        row.combination for row in done.ranked
    ]
    assert {axis: len(of_axis) for axis, of_axis in told["standings"].items()} == {
        "unet": 2,
        "text_encoder": 3,
    }


def test_an_axis_alone_makes_one_sheet_of_probes_and_models(
    folder: Path, specs: list[ScorerSpec], tmp_path: Path
) -> None:
    few = models(folder, ["left", "broken"], ["loud"])
    found = Screener(few, PROBES, specs, tmp_path).run()
    (path,) = draw_sheets(results(few, PROBES, specs, found), tmp_path, Drawing(cell=64))
    sheet = Image.open(path)
    images = [Image.open(path) for path in found.images[Combination("left", "loud")]]
    # The third probe is as wide as a cell; the others are enlarged to it.
    ((left, top),) = places_of(sheet, images[2])
    for i in (0, 1):
        enlarged = images[i].resize((64, 64), Image.Resampling.LANCZOS)
        ((own_left, own_top),) = places_of(sheet, enlarged)
        assert own_left == left
        assert own_top < top
    grey = np.asarray(sheet)[top : top + 32, left + 66 : left + 130]
    assert (grey == 0xEC).all(-1).mean() > 0.5, "the broken one has no picture"


def test_a_component_alone_in_its_file_will_do(folder: Path, tmp_path: Path) -> None:
    for part in ("unet", "text_encoder", "vae"):
        extract(folder / "left.safetensors", [part], tmp_path / f"{part}.safetensors", metadata={})
    whole = Screener(models(folder, ["left"], ["left"]), PROBES, [], tmp_path / "a").run()
    parts = Models([model(tmp_path, "unet")], [model(tmp_path, "text_encoder")], model(tmp_path, "vae"))
    apart = Screener(parts, PROBES, [], tmp_path / "b").run()
    one, other = (next(iter(found.images.values())) for found in (whole, apart))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def of_header(folder: Path, architecture: str, extra: str = "") -> Model:
    path = folder / f"{architecture}{extra}.safetensors"
    return Model(path.stem, write_header_only(path, architecture))


def test_wrong_models_are_refused_before_anything_is_rendered(folder: Path, tmp_path: Path) -> None:
    left, right = model(folder, "left"), model(folder, "right")
    sd1, sd2, sdxl = (of_header(tmp_path, name) for name in ("sd1", "sd2", "sdxl"))
    vae = tmp_path / "vae.safetensors"
    extract(left.path, ["vae"], vae, metadata={})
    bare = Model("vae", vae)
    assert check_models(Models([sd2], [sd2], sd1)) == "sd2", "SD2 was trained in SD1's latents"
    for wrong, message in (
        (Models([sd1], [sd2], sd1), r"text encoder of sd2.*SD2.x \(1024 wide\).*SD1.x needs.*768 wide"),
        (Models([sd1, sd2], [sd1], sd1), "UNet of sd1 is that of SD1.x, and that of sd2 of SD2.x"),
        (Models([sdxl], [sdxl], sdxl), "SDXL"),
        (Models([bare], [left], left), "vae.safetensors has no UNet"),
        (Models([left], [bare], left), "vae.safetensors has no text encoder, only VAE"),
        (Models([left, left], [left], left), "left is named twice among the UNets"),
        (Models([left], [right, right], left), "right is named twice among the text encoders"),
        (Models([left, Model("left", right.path)], [left], left), "both called left"),
        (Models([], [left], left), "no UNets to screen"),
        (Models([left], [], left), "no text encoders to screen"),
        (Models([left], [left], Model("no", folder / "no.safetensors")), "no.safetensors"),
    ):
        with pytest.raises(InputError, match=message):
            Screener(wrong, PROBES, [], tmp_path / "out")
    with pytest.raises(InputError, match="no probes"):
        Screener(models(folder), [], [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_scorer_that_fails_keeps_the_images(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        name, differentiable = "sharpness", False

        def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            raise RuntimeError("no such layer")

    few, spec = models(folder, ["left"], ["left"]), ScorerSpec(scorer="sharpness")
    with monkeypatch.context() as patched:
        patched.setattr(screening, "create_scorer", lambda *_: Broken())
        with pytest.raises(InputError, match=r"no such layer.*images are kept"):
            Screener(few, PROBES, [spec], tmp_path).run()
    again = Screener(few, PROBES, [spec], tmp_path).run()
    assert (again.rendered, again.judged) == (0, 3)
