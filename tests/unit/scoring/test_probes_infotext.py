"""A1111's infotexts, read and written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from scoring.errors import InputError
from scoring.probes import (
    DynamicThresholding,
    FreeU,
    FreeUStage,
    Hires,
    Probe,
    Reading,
    read_probe_file,
    to_infotext,
)
from scoring.probes.infotext_lines import split_infotext
from scoring.probes.infotext_reader import read_infotext

ARTICLE = Path(__file__).parents[4] / "shared/reference/astolfomix-sd2.md"
NEGATIVE = (
    "(worst:0), (low:0), (bad:0), (exceptional:0), (masterpiece:0), (comic:0), (extra:0), (lowres:0), "
    "(photorealisitc:0)"
)
FREEU = FreeU(
    version=2,
    start=0.0,
    stop=1.0,
    transition=0.0,
    stages=(
        FreeUStage(backbone_factor=1.1, skip_factor=0.9),
        FreeUStage(backbone_factor=1.2, skip_factor=0.2),
    ),
)
THRESHOLDING = DynamicThresholding(
    mimic_scale=1.0,
    separate_feature_channels=False,
    scaling_startpoint="MEAN",
    variability="AD",
    interpolate_phi=0.3,
    threshold_percentile=100.0,
)


def _line(extra: str = "", prompt: str = "a cat") -> str:
    return f"{prompt}\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x512, RNG: CPU{extra}"


def _probe(extra: str = "") -> Probe:
    (probe,) = read_infotext(_line(extra)).probes
    return probe


def _blocks() -> list[str]:
    return re.findall(r"```\n(parameters\n.*?)\n```", ARTICLE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.skipif(not ARTICLE.is_file(), reason="needs the article")
def test_every_setting_of_the_article_is_understood() -> None:
    """The four blocks, field by field; the fields that none of them names have their defaults."""
    expected = [
        (
            "[niqab], [[hijab]], [astolfo], [[afghanistan]]",
            802596511,
            256,
            (1024, 576),
            1.5,
            64,
            "209-AstolfoMix",
        ),
        ("[[braid]], [astolfo], [[kyoto]]", 3195552242, 256, (1344, 768), 2.0, 64, "209-AstolfoMix"),
        ("[[[[nascar, nurburgring]]]]", 372021954, 256, (1024, 576), 1.5, 64, "209b-AstolfoMix"),
        ("[[braid]], [astolfo], [[new york]]", 802596570, 192, (1024, 576), 1.5, 0, "210b-AstolfoMix"),
    ]
    blocks = _blocks()
    assert len(blocks) == 4
    for block, (end, seed, steps, (width, height), scale, second, model) in zip(
        blocks, expected, strict=True
    ):
        reading = read_infotext(block)
        (probe,) = reading.probes
        assert probe.prompt.startswith("(aesthetic:0), (quality:0)")
        assert probe.prompt.endswith(end)
        assert probe.negative_prompt.removesuffix(", (breasts:0.5)") == NEGATIVE
        assert probe == Probe(
            prompt=probe.prompt,
            negative_prompt=probe.negative_prompt,
            seed=seed,
            sampler="Euler",
            steps=steps,
            cfg_scale=6.0,
            width=width,
            height=height,
            clip_skip=2,
            rng="NV",
            thresholding=THRESHOLDING,
            freeu=FREEU,
            hires=Hires(upscaler="Latent", scale=scale, steps=second, denoising_strength=0.7),
        )
        (made,) = reading.provenance
        assert made["Model"].startswith(model)
        assert list(made) == ["Model hash", "Model", "VAE hash", "VAE", "Version"]
        assert [note.text for note in reading.notes] == [
            "names no RNG: A1111's default, GPU, which is NV here"
        ]


@pytest.mark.skipif(not ARTICLE.is_file(), reason="needs the article")
def test_the_article_written_again_says_the_same() -> None:
    for block in _blocks():
        read = read_infotext(block).probes
        written = to_infotext(read[0])
        assert read_infotext(written).probes == read
        # Word for word what A1111 wrote, but for the models and the RNG, which was left to be known.
        ours, theirs = split_infotext(written, "ours"), split_infotext(block, "theirs")
        named = ("Model hash", "Model", "VAE hash", "VAE", "Version")
        assert [item for item in ours.settings.items() if item[0] != "RNG"] == [
            item for item in theirs.settings.items() if item[0] not in named
        ]
        assert written.split("\n")[:2] == block.split("\n")[1:3]


@pytest.mark.skipif(not ARTICLE.is_file(), reason="needs the article")
def test_a_text_file_may_hold_several(tmp_path: Path) -> None:
    (tmp_path / "four.txt").write_text("\n\n".join(_blocks()), encoding="utf-8")
    reading = read_probe_file(tmp_path / "four.txt")
    assert [probe.seed for probe in reading.probes] == [802596511, 3195552242, 372021954, 802596570]
    assert reading.counted_by_a1111 == {0, 1, 2, 3}


def test_a_probe_is_written_as_a1111_writes_it() -> None:
    """Names, order and quotation marks, worked out by hand from `create_infotext` and the extensions."""
    probe = Probe(
        prompt='a cat, "sitting"\nBREAK on a mat',
        negative_prompt="a dog",
        seed=12345,
        sampler="DPM++ 2M",
        schedule="Karras",
        steps=30,
        cfg_scale=6.5,
        width=1024,
        height=576,
        clip_skip=2,
        rng="CPU",
        eta=0.5,
        ensd=31337,
        variation_seed=99,
        variation_strength=0.25,
        cfg_rescale=0.7,
        freeu=FREEU.model_copy(update={"start": 0.2}),
        thresholding=THRESHOLDING.model_copy(update={"mimic_mode": "Power Up", "mimic_scale_min": 2.0}),
        hires=Hires(
            upscaler="Latent (nearest-exact)",
            resize_x=1536,
            resize_y=864,
            steps=20,
            sampler="Euler a",
            schedule="Automatic",
            cfg_scale=5,
            prompt="a cat: big",
            negative_prompt="tiny",
        ),
    )
    assert to_infotext(probe) == (
        'a cat, "sitting"\nBREAK on a mat\nNegative prompt: a dog\n'
        "Steps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 12345, Size: 1024x576, "
        "Variation seed: 99, Variation seed strength: 0.25, Denoising strength: 0.7, Clip skip: 2, "
        "ENSD: 31337, RNG: CPU, CFG Rescale: 0.7, "
        'FreeU Stages: "[{\\"backbone_factor\\": 1.1, \\"skip_factor\\": 0.9}, '
        '{\\"backbone_factor\\": 1.2, \\"skip_factor\\": 0.2}]", FreeU Schedule: "0.2, 1.0, 0.0", '
        'FreeU Version: 2, Hires sampler: Euler a, Hires prompt: "a cat: big", Hires negative prompt: tiny, '
        "Hires CFG Scale: 5, Hires schedule type: Automatic, Hires resize: 1536x864, Hires steps: 20, "
        "Hires upscaler: Latent (nearest-exact), Dynamic thresholding enabled: True, Mimic scale: 1, "
        "Separate Feature Channels: False, Scaling Startpoint: MEAN, Variability Measure: AD, "
        "Interpolate Phi: 0.3, Threshold percentile: 100, Mimic mode: Power Up, Mimic scale minimum: 2, "
        "Scheduler value: 4, Eta: 0.5"
    )


def test_a_plain_probe_has_the_settings_that_a1111_always_writes_and_its_rng() -> None:
    assert to_infotext(Probe(prompt="a", seed=1, sampler="Euler")) == (
        "a\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x512, RNG: CPU"
    )
    assert to_infotext(Probe(prompt="a", seed=1, sampler="DDIM", eta=0.5)).endswith("RNG: CPU, Eta DDIM: 0.5")


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ({"sampler": "DPM++ 2M"}, "Sampler: DPM++ 2M, Schedule type: Uniform, "),
        ({"sampler": "DPM++ 2M", "schedule": "Uniform"}, "Sampler: DPM++ 2M, Schedule type: Uniform, "),
        ({"sampler": "DPM++ 2M", "schedule": "Karras"}, "Sampler: DPM++ 2M, Schedule type: Karras, "),
        ({"sampler": "DPM++ 2M", "schedule": "Automatic"}, "Sampler: DPM++ 2M, Schedule type: Automatic, "),
        ({"sampler": "DPM++ 2M Karras"}, "Sampler: DPM++ 2M Karras, CFG"),
        ({"sampler": "DPM++ 2M Karras", "schedule": "Karras"}, "Sampler: DPM++ 2M Karras, CFG"),
        ({"sampler": "Euler", "schedule": "Uniform"}, "Sampler: Euler, CFG"),
        ({"sampler": "Restart"}, "Sampler: Restart, CFG"),
        ({"sampler": "Euler", "hires": Hires(sampler="DPM2")}, "Hires schedule type: Uniform"),
        (
            {"sampler": "Euler", "hires": Hires(sampler="LMS Karras")},
            "Hires sampler: LMS Karras, Hires upscale",
        ),
    ],
)
def test_a_schedule_is_written_where_a1111_would_choose_another(given: dict[str, Any], written: str) -> None:
    assert written in to_infotext(Probe(prompt="a", seed=1, **given))


def test_prompts_that_the_form_cannot_hold_are_given_once_more() -> None:
    text = to_infotext(Probe(prompt=" a\nNegative prompt: b", negative_prompt="c ", seed=1, sampler="Euler"))
    assert text.endswith('RNG: CPU, Exact prompt: " a\\nNegative prompt: b", Exact negative prompt: "c "')


@pytest.mark.parametrize(
    ("extra", "field", "value"),
    [
        (", Schedule type: SGM Uniform", "schedule", "SGM Uniform"),
        (", Schedule type: karras", "schedule", "Karras"),
        (", Clip skip: 2", "clip_skip", 2),
        (", Clip skip: 0", "clip_skip", 1),
        (", ENSD: 31337", "ensd", 31337),
        (", Eta: 0.67", "eta", 0.67),
        (", CFG Rescale: 0.7", "cfg_rescale", 0.7),
        (", CFG Rescale φ: 0.7", "cfg_rescale", 0.7),
        (", RNG: NV", "rng", "NV"),
        (", RNG: GPU", "rng", "NV"),
        (", Variation seed: 3, Variation seed strength: 0.5", "variation_seed", 3),
        (", Variation seed: 3, Variation seed strength: 0.5", "variation_strength", 0.5),
        (", Dynamic thresholding enabled: False, Mimic scale: 1", "thresholding", None),
        (", Dynamic thresholding enabled: True", "thresholding", DynamicThresholding()),
        (
            ", Dynamic thresholding enabled: True, Mimic scale: 1, Threshold percentile: 99.5, "
            "Mimic mode: Cosine Up, Mimic scale minimum: 2, CFG mode: Power Down, "
            "CFG scale minimum: 3, Power scheduler value: 5",
            "thresholding",
            DynamicThresholding(
                mimic_scale=1,
                threshold_percentile=99.5,
                mimic_mode="Cosine Up",
                mimic_scale_min=2,
                cfg_mode="Power Down",
                cfg_scale_min=3,
                sched_value=5,
            ),
        ),
        (
            ', FreeU Stages: "[{\\"skip_threshold\\": 0.1}, {}]", FreeU Schedule: "5, 1.0, 0.5"',
            "freeu",
            FreeU(version=1, start=0.25, transition=0.5, stages=(FreeUStage(skip_cutoff=0.1), FreeUStage())),
        ),
        (
            ", Denoising strength: 0.5, Hires resize: 0x1024, Hires upscaler: Latent (bicubic), "
            "Hires sampler: Use same sampler, Hires CFG: 5",
            "hires",
            Hires(upscaler="Latent (bicubic)", resize_y=1024, denoising_strength=0.5, cfg_scale=5),
        ),
        (
            ", Denoising strength: 0.5, Hires upscale: 2, Hires sampler: DPM++ 2M Karras, "
            "Hires schedule type: Use same scheduler",
            "hires",
            Hires(denoising_strength=0.5, sampler="DPM++ 2M Karras"),
        ),
    ],
)
def test_a_setting_is_applied(extra: str, field: str, value: object) -> None:
    assert getattr(_probe(extra), field) == value


def test_eta_is_that_of_the_sampler() -> None:
    line = _line(", Eta: 0.9, Eta DDIM: 0.3")
    assert read_infotext(line).probes[0].eta == 0.9
    reading = read_infotext(line.replace("Euler", "DDIM"))
    assert reading.probes[0].eta == 0.3
    assert [note.text for note in reading.notes] == ["not applied: Eta: 0.9"]
    assert read_infotext(_line(", Eta: 0.9").replace("Euler", "DDIM")).probes[0].eta == 0.9, "before 1.6"


def test_the_first_pass_of_before_2023() -> None:
    """`Size` was that of the result; 0x0 was a first pass of about 512 x 512 in multiples of 64."""
    line = _line(", Denoising strength: 0.7, First pass size: {}").replace("512x512", "1344x768")
    given = read_infotext(line.format("672x384")).probes[0]
    assert (given.width, given.height) == (672, 384)
    assert given.hires == Hires(resize_x=1344, resize_y=768, denoising_strength=0.7)
    chosen = read_infotext(line.format("0x0")).probes[0]
    # sqrt(512 * 512 / (1344 * 768)) = 0.5039..: 677.3 and 387.03 pixels, up to multiples of 64.
    assert (chosen.width, chosen.height) == (704, 448)


def test_prompts_may_have_lines_and_be_missing() -> None:
    reading = read_infotext(_line(prompt="a\n\nb\nNegative prompt: c\nd, e"))
    assert (reading.probes[0].prompt, reading.probes[0].negative_prompt) == ("a\n\nb", "c\nd, e")
    alone = read_infotext("Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x512")
    assert (alone.probes[0].prompt, alone.probes[0].negative_prompt) == ("", "")
    windows = read_infotext(_line(prompt="a\r\nNegative prompt: b\r").replace("512x512", "512x512"))
    assert (windows.probes[0].prompt, windows.probes[0].negative_prompt) == ("a", "b")


def _notes(reading: Reading) -> list[str]:
    return [note.text for note in reading.notes]


def test_what_is_not_applied_and_what_is_unknown_is_told() -> None:
    reading = read_infotext(
        _line(
            ', Token merging ratio: 0.5, Tiling: False, Frobnicate: "a, b", NGMS: 1, Model: x, junk, User: me'
        )
    )
    assert _notes(reading) == [
        "not understood: 'junk'",
        "not applied: Token merging ratio: 0.5, NGMS: 1",
        "not understood, and so not applied: Frobnicate: a, b",
    ]
    assert reading.provenance == ({"Model": "x", "User": "me"},)
    assert _notes(read_infotext(_line(", Denoising strength: 0.7"))) == [
        "Denoising strength: 0.7 has no effect without hires fix; an image that A1111 made from another one "
        "(img2img) can't be made here"
    ]
    assert _notes(read_infotext(_line(", Hires upscale: 2"))) == [
        "hires fix without a denoising strength: 0.7 is taken"
    ]


@pytest.mark.parametrize(
    ("prompt", "version", "told"),
    [
        ("[a:b:8]", "v1.5.2", True),
        ("[a:b:8]", "v1.6.0", False),
        ("[a], b:1", "v1.5.2", False),
        ("[a:b:8]", "f2.0", False),
    ],
)
def test_prompt_editing_of_before_1_6_is_told(prompt: str, version: str, told: bool) -> None:
    reading = read_infotext(_line(f", Version: {version}", prompt=prompt))
    assert any("before A1111 1.6" in note for note in _notes(reading)) == told


def test_the_embeddings_are_listed() -> None:
    reading = read_infotext(
        _line(
            ', TI hashes: "easynegative: c74b4e810b03, bad-hands-5: aa7651be154c", '
            'Hashes: "{\\"embed:x\\": \\"1\\"}"'
        )
    )
    assert reading.embeddings == ("easynegative", "bad-hands-5", "x")


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (
            ', Lora hashes: "add: 123"',
            "Lora hashes: 'add: 123' can't be done: a LoRA would change the weights",
        ),
        (', Hashes: "{\\"lora:x\\": \\"1\\"}"', "Hashes names a LoRA"),
        (", Hypernet: x", "Hypernet: 'x' can't be done"),
        (", Face restoration: CodeFormer", "Face restoration: 'CodeFormer' can't be done"),
        (", Tiling: True", "Tiling: 'True' can't be done"),
        (", Refiner: x, Refiner switch at: 0.8", "Refiner: 'x' can't be done"),
        (", Hires upscale: 2, Hires checkpoint: x", "Hires checkpoint: 'x' can't be done"),
        (", Init image hash: 12", "the image was made from another one"),
        (", Seed resize from: 512x512", "noise is not resized here"),
        (', ControlNet 0: "preprocessor: canny"', "ControlNet 0: 'preprocessor: canny' can't be done"),
        (", RNG: TPU", "unknown RNG 'TPU'"),
        (", Schedule type: Turbo", "unknown schedule 'Turbo'"),
        (", Clip skip: two", "Clip skip: 'two' is not a whole number; correct it"),
        (", Hires upscale: x", "Hires upscale: 'x' is not a number"),
        (", Hires resize: 12", "Hires resize: '12' is not a size such as 512x512"),
        (
            ", Hires upscale: 2, Hires upscaler: R-ESRGAN 4x+",
            "hires.upscaler: unknown upscaler 'R-ESRGAN 4x+'",
        ),
        (", Dynamic thresholding enabled: perhaps", "'perhaps' is not True or False"),
        (", Dynamic thresholding enabled: True, CFG mode: Up", "CFG mode: 'Up' is not one of Constant"),
        (", Dynamic thresholding enabled: True, Variability Measure: X", "thresholding.variability"),
        (", FreeU Stages: x", "FreeU Stages: 'x' is not JSON"),
        (", FreeU Stages: 3", "the FreeU stages must be a list of mappings"),
        (', FreeU Stages: "[]", FreeU Schedule: "0.0, 1.0"', "'0.0, 1.0' is not three numbers"),
        (', FreeU Stages: "[]", FreeU Schedule: "a, 1.0, 0.0"', "'a', which is no number"),
        (', FreeU Stages: "[{\\"x\\": 1}]"', "unknown key 'freeu.stages.0.x'"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(extra: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_infotext(_line(extra), "x.txt")
    assert str(caught.value).startswith("x.txt: ")
    assert said in str(caught.value)


@pytest.mark.parametrize("setting", ["Steps", "Sampler", "CFG scale", "Seed", "Size"])
def test_what_a1111_always_writes_must_be_there(setting: str) -> None:
    line = re.sub(rf"{setting}: [^,]*(, )?", "", _line())
    with pytest.raises(InputError, match=f"the infotext lacks key '{setting}', which A1111 always writes"):
        read_infotext(line)


@pytest.mark.skipif(not ARTICLE.is_file(), reason="needs the article")
def test_an_infotext_that_was_cut_is_an_error_or_lost_whole_settings_alone() -> None:
    """Cut anywhere: an error, or the settings that are left are those that were there, the last one perhaps
    shorter. No cut makes another setting of one, or a default of what A1111 always writes."""
    block = _blocks()[0]
    whole = split_infotext(block, "whole").settings
    read = 0
    for end in range(len(block)):
        try:
            reading = read_infotext(block[:end], "cut")
        except InputError:
            continue
        read += 1
        settings = split_infotext(block[:end], "cut").settings
        *full, last = settings.items()
        assert all(whole[key] == value for key, value in full)
        assert whole[last[0]].startswith(last[1])
        assert (reading.probes[0].seed, reading.probes[0].width, reading.probes[0].steps) == (
            802596511,
            1024,
            256,
        )
        if "Model hash" in settings and "Version" not in settings:
            assert "ends without A1111's Version" in "".join(reading.lines())
    assert read < 150, "most of the cuts are found"


@pytest.mark.parametrize(
    "text",
    [
        "a cat\nNegative prompt: a dog\nSteps: 20, Sampl",
        "a cat\nNegative prompt: a d",
        "a cat\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x512, Model ha",
        "a cat\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x512,",
        'a cat\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x512, FreeU Stages: "[{\\"backb',
        "a cat\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1",
        "a cat",
        "",
    ],
)
def test_a_cut_is_named(text: str) -> None:
    with pytest.raises(InputError, match=r"^x\.txt: .*cut"):
        read_infotext(text, "x.txt")
