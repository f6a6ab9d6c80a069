"""Wildcards and variants: expanded when probes are read, by the probe's seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoring.errors import InputError
from scoring.probes import Hires, Places, Probe, read_probes
from scoring.probes.wildcards import Mode, expanded

COLOURS = ["blue", "green", "red"]


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "colour.txt").write_text("# hues\nred\ngreen # leafy\nblue\n")
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals/pet.txt").write_text("a __colour__ cat\n")
    (tmp_path / "syntax.txt").write_text("(hat:1.2)\n[a|b]\n")
    (tmp_path / "circle.txt").write_text("x __circle__\n")
    return Places(wildcards=tmp_path)


def _prompts(places: Places, prompt: str, mode: Any, seed: int = 1, **fields: Any) -> list[str]:
    spec = {"prompt": prompt, "seed": seed, "wildcards": mode, **fields}
    return [probe.prompt for probe in read_probes(spec, "p", places).probes]


def test_every_combination(places: Places) -> None:
    assert sorted(text.split()[0] for text in _prompts(places, "__colour__ cat", "combinatorial")) == COLOURS
    assert _prompts(places, "{a|b} {c|d}", "combinatorial") == ["a c", "a d", "b c", "b d"]
    assert sorted(text.strip() for text in _prompts(places, "{2$$ and $$x|y}", "combinatorial")) == [
        "x and y",
        "y and x",
    ]


def test_wildcards_lie_in_folders_and_in_each_other(places: Places) -> None:
    (text,) = _prompts(places, "__animals/pet__", "random")
    assert text.split()[1] in COLOURS


def test_a_random_choice_is_the_seeds(places: Places) -> None:
    drawn = [_prompts(places, "__colour__ {a|b|c|d}", "random", seed)[0] for seed in range(80)]
    assert drawn[:9] == [_prompts(places, "__colour__ {a|b|c|d}", "random", seed)[0] for seed in range(9)]
    assert len(set(drawn)) == 12, "all of them come up, and seed by seed another one"


def test_all_prompts_of_a_probe_are_expanded(places: Places) -> None:
    probe = Probe(
        prompt="{a|b}", negative_prompt="{c|d}", seed=1, hires=Hires(prompt="{e|f}", negative_prompt="g")
    )
    found = expanded(probe, "combinatorial", places.wildcards, "p")
    assert {(p.prompt, p.negative_prompt, p.hires and p.hires.prompt) for p in found} == {
        (one, two, three) for one in "ab" for two in "cd" for three in "ef"
    }
    assert all(p.hires and p.hires.negative_prompt == "g" and p.seed == 1 for p in found)
    second = expanded(probe.model_copy(update={"hires": Hires()}), "random", None, "p")[0].hires
    assert second == Hires(), "a second pass without prompts goes on with the first one's"


# What means something to A1111, or to dynamicprompts and not to A1111.
A1111 = [
    "[a|b]",
    "[from:to:0.5]",
    "[cat:[dog:fox:0.5]:0.25]",
    "(x:1.1)",
    "((x)), [[y]]",
    "\\(y\\)",
    "a AND b :0.5",
    "x BREAK y",
    "50% off, $5, #1, http://x /* y */ //",
    "tab\there,  two  blanks \n and lines ",
    "snake_case, a__b, _x_",
    "50%% $$ ::",
]


@pytest.mark.parametrize("text", A1111)
@pytest.mark.parametrize("mode", ["random", "combinatorial"])
def test_what_is_a1111s_is_left_alone(text: str, mode: Mode, places: Places) -> None:
    probe = Probe(prompt=f"{text}{{p}}", negative_prompt=text, seed=1)
    (found,) = expanded(probe, mode, places.wildcards, "p")
    assert found == probe.model_copy(update={"prompt": f"{text}p"})


def test_alternation_inside_a_variant_is_no_border_of_it(places: Places) -> None:
    assert _prompts(places, "{[a|b]|(c:1.1)}", "combinatorial") == ["[a|b]", "(c:1.1)"]
    assert _prompts(places, "[{a|b}|c]", "combinatorial") == ["[a|c]", "[b|c]"]
    assert sorted(_prompts(places, "__syntax__", "combinatorial")) == ["(hat:1.2)", "[a|b]"]


@given(
    st.text(alphabet=list("ab (),:;[]|\\.1\n\t%$#/*<>_"), max_size=30).filter(lambda text: "__" not in text)
)
@settings(max_examples=60, deadline=None)
def test_a_text_without_wildcards_is_never_changed(text: str) -> None:
    probe = Probe(prompt=f"{text} {{p}}{text}", seed=1)
    same = [probe.model_copy(update={"prompt": f"{text} p{text}"})]
    assert expanded(probe, "random", None, "p") == same
    assert expanded(probe, "combinatorial", None, "p") == same


def test_the_mode_must_be_said(places: Places) -> None:
    for prompt in ("a __colour__ cat", "a {red|blue} cat"):
        with pytest.raises(InputError, match="say what it is: wildcards: random, combinatorial, or none"):
            read_probes({"prompt": prompt, "seed": 1}, "p", places)
        assert _prompts(places, prompt, "none") == [prompt]
    # Braces as other programs' emphasis, and names with underscores, are text.
    for prompt in ("{{masterpiece}}", "a_b, _c_"):
        assert read_probes({"prompt": prompt, "seed": 1}, "p").probes[0].prompt == prompt


def test_defaults_may_say_it_for_all_prompts(places: Places) -> None:
    spec = {"defaults": {"wildcards": "combinatorial"}, "prompts": ["{a|b}", "c"], "seeds": [1, 2]}
    assert [(p.prompt, p.seed) for p in read_probes(spec, "p", places).probes] == [
        ("a", 1), ("b", 1), ("a", 2), ("b", 2), ("c", 1), ("c", 2)
    ]  # fmt: skip


def test_payloads_name_it_wildcard_type(places: Places) -> None:
    payload = {"prompt": "{a|b}", "seed": 1, "sampler_name": "Euler", "n_iter": 2}
    probes = read_probes({**payload, "wildcard_type": "combinatorial"}, "p", places)
    assert [(p.prompt, p.seed) for p in probes.probes] == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert probes.counted_by_a1111 == {0, 1, 2, 3}
    unexpanded = read_probes({**payload, "wildcard_type": "none"}, "p", places)
    assert [p.prompt for p in unexpanded.probes] == ["{a|b}"] * 2
    assert "p: wildcard_type is none: '{a|b}' in the prompt stays as it is" in unexpanded.lines()


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (
            "__hats__",
            r"there is no wildcard file for __hats__; put hats\.txt into the wildcards folder, .*test_",
        ),
        ("__../secret__", "there is no wildcard file for"),
        ("${a}", "can't be read: .*Variable a is not defined"),
        ("{a|b", "can't be read: .*close every brace"),
        ("__circle__", "a wildcard of '__circle__' leads to itself"),
        ("{a|b|c|d}" * 6, "more than 1000 combinations"),
    ],
)
def test_what_cannot_be_expanded_is_named(prompt: str, said: str, places: Places) -> None:
    with pytest.raises(InputError, match=said):
        _prompts(places, prompt, "combinatorial")


@pytest.mark.parametrize("folder", [None, Path("/nowhere")])
def test_a_folder_that_is_not_there_is_named(folder: Path | None) -> None:
    with pytest.raises(InputError, match=r"wildcards folder, (which is not set|/nowhere)"):
        expanded(Probe(prompt="__x__", seed=1), "random", folder, "p")
