"""Job files are read so that the service need not know where they lie."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from scoring.errors import InputError
from scoring.probes import Probe, to_infotext
from scoring.probes.images import labelled, png_text
from service.jobfile import read_job_file


def test_what_is_named_beside_the_job_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "probes.yaml").write_text("[{prompt: a cat, seed: 1}]")
    (tmp_path / "reward").mkdir()
    file = tmp_path / "job.yaml"
    file.write_text(
        "probes: probes.yaml\nheldout: on-the-server.yaml\n"
        "scorers: [{scorer: clip, model: reward}, {scorer: laion-v1, model: elsewhere}]"
    )
    request = read_job_file(file)
    assert request["probes"] == [{"prompt": "a cat", "seed": 1}]
    assert request["heldout"] == "on-the-server.yaml", "the service may have a file of that name"
    assert [s["model"] for s in request["scorers"]] == [str(tmp_path / "reward"), "elsewhere"]


def test_infotexts_and_images_travel_with_the_job(tmp_path: Path) -> None:
    probe = Probe(prompt="a cat", seed=1)
    image = labelled(Image.new("RGB", (8, 8)), probe)
    image.save(tmp_path / "cat.png", pnginfo=png_text(image))
    (tmp_path / "two.txt").write_text(f"{to_infotext(probe)}\n\n{to_infotext(probe)}\n")
    (tmp_path / "payload.json").write_text('{"prompt": "x", "sampler_name": "Euler"}')
    file = tmp_path / "job.yaml"
    file.write_text("probes: [cat.png, two.txt, {prompt: own, seed: 2}, far.png]\nheldout: payload.json")
    request = read_job_file(file)
    said = {"infotext": to_infotext(probe)}
    assert request["probes"] == [said, said, said, {"prompt": "own", "seed": 2}, "far.png"]
    assert request["heldout"] == {"prompt": "x", "sampler_name": "Euler"}


@pytest.mark.parametrize(
    ("text", "words"),
    [("[1]", "holds names and values"), ("a: [", "cannot be read as YAML"), ("", "holds names and values")],
)
def test_a_file_that_is_no_job_is_named(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=rf"job\.yaml.*{words}"):
        read_job_file(file)


def test_a_directory_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory"):
        read_job_file(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read_job_file(tmp_path / "none.yaml")
