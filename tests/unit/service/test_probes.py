"""The probes of a job: read from its request and the folders, as its models see them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from optimizer.checkpoints.architectures import Architecture
from scoring.errors import InputError
from scoring.probes import Probe
from scoring.probes.images import labelled, png_text
from service.probes import ProbeSource
from service.settings import Settings

INFOTEXT = (
    "a cat\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x512, Model hash: a85153fd84, "
    "Model: mix, Clip skip: 2, RNG: CPU, Version: v1.7.0"
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(
        probes_dir=tmp_path / "probes",
        wildcards_dir=tmp_path / "wildcards",
        embeddings_dir=tmp_path / "embeddings",
    )
    settings.probes_dir.mkdir()
    return settings


def _source(settings: Settings, architecture: Architecture = "sd1", job: str = "job") -> ProbeSource:
    return ProbeSource(job, settings, architecture)


def test_files_of_every_kind_may_be_named(settings: Settings) -> None:
    probe = Probe(prompt="p", seed=4)
    image = labelled(Image.new("RGB", (8, 8)), probe)
    image.save(settings.probes_dir / "a.png", pnginfo=png_text(image))
    (settings.probes_dir / "b.txt").write_text(INFOTEXT)
    (settings.probes_dir / "c.json").write_text('{"prompt": "x", "seed": 7, "sampler_name": "Euler"}')
    (settings.probes_dir / "d.yaml").write_text("[{prompt: y, seed: 8}]")
    names = ["a.png", "b.txt", "c.json", "d.yaml"]
    reading = _source(settings).read([*names, {"prompt": "z", "seed": 9}, {"infotext": INFOTEXT}], "probes")
    assert [p.seed for p in reading.probes] == [4, 1, 7, 8, 9, 1]
    for name in names:
        assert _source(settings).read(name, "probes").probes
    assert "made in A1111 with Model hash: a85153fd84, Model: mix, Version: v1.7.0" in reading.lines()


def test_files_elsewhere_are_refused(settings: Settings) -> None:
    with pytest.raises(InputError, match=r"probes\[0\]: '\.\./x\.txt' lies outside"):
        _source(settings).read(["../x.txt"], "probes")


@pytest.mark.parametrize(("architecture", "clip_skip"), [("sd1", 2), ("sd2", 1), ("sdxl", 1)])
def test_the_clip_skip_of_a1111_is_that_of_the_models(
    architecture: Architecture, clip_skip: int, settings: Settings
) -> None:
    spec = [{"infotext": INFOTEXT}, {"prompt": "a", "seed": 1, "clip_skip": 3}]
    reading = _source(settings, architecture).read(spec, "probes")
    assert [probe.clip_skip for probe in reading.probes] == [clip_skip, 3], "our own YAML counts as it says"
    told = [line for line in reading.lines() if "Clip skip is 1" in line]
    assert bool(told) == (architecture != "sd1")


def test_what_is_drawn_is_drawn_once_a_job(settings: Settings) -> None:
    spec = [{"prompt": "a", "seed": -1}]
    drawn = [
        _source(settings, job=job).read(spec, field).probes[0].seed
        for job, field in (("one", "probes"), ("one", "probes"), ("one", "heldout"), ("two", "probes"))
    ]
    assert drawn[0] == drawn[1], "for a leaf that is added, or a clone"
    assert len(set(drawn)) == 3


def test_embeddings_must_be_there(settings: Settings) -> None:
    spec = {"infotext": INFOTEXT + ', TI hashes: "EasyNegative: c74b4e810b03"'}
    with pytest.raises(InputError, match=r"not in .*embeddings: EasyNegative; put their files there"):
        _source(settings).read(spec, "probes")
    (settings.embeddings_dir / "sd1").mkdir(parents=True)
    (settings.embeddings_dir / "sd1/easynegative.safetensors").touch()
    assert _source(settings).read(spec, "probes").probes


def test_wildcards_are_expanded_from_their_folder(settings: Settings) -> None:
    settings.wildcards_dir.mkdir()
    (settings.wildcards_dir / "hat.txt").write_text("cap\n")
    spec = {"prompt": "__hat__", "seed": 1, "wildcards": "random"}
    assert _source(settings).read(spec, "probes").probes[0].prompt == "cap"


def test_no_probes_are_refused(settings: Settings) -> None:
    with pytest.raises(InputError, match="heldout: no probes in it"):
        _source(settings).read([], "heldout")
