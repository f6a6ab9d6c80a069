"""auto-MBW-rt's recipe.txt: its weights line is read in the order that is proven, or not at all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from optimizer.formats.mbwrt_history import History, read_history
from optimizer.formats.mbwrt_recipe import prove, read_mbwrt_recipe
from scoring.errors import InputError
from tests.unit.optimizer.formats.mbwrt_files import (
    HISTORIES,
    NAT,
    RECIPE,
    RUNTIME,
    history_text,
    recipe_text,
    weights_of,
    write,
)

BEST = weights_of(1)
GOOD = recipe_text(BEST, log=BEST)


def history_of(folder: Path, best: dict[str, float] = BEST, score: float = 0.5625) -> History:
    rows = [(weights_of(0), 0.25), (best, score), (weights_of(2), 0.5)]
    return read_history(write(folder / "h.csv", history_text(rows)))


def test_everything_in_the_file_is_read(tmp_path: Path) -> None:
    recipe = read_mbwrt_recipe(write(tmp_path / "r.txt", GOOD))
    assert (recipe.model_a, recipe.model_b, recipe.model_o) == (
        "one.safetensors",
        "two.safetensors",
        "three",
    )
    assert (recipe.position_id_fix, recipe.output_mode) == ("Keep Original", "Max Precision")
    assert recipe.line == tuple(BEST[block] for block in RECIPE)
    log = recipe.log
    assert log is not None
    assert (log.score, log.seed, log.weights) == (0.5625, 1201246259, BEST)
    assert (log.evaluation_seconds, log.optimization_seconds, log.iteration_seconds) == (50.5, 0.75, 51.25)


def test_line_and_numbered_set_prove_the_order(tmp_path: Path) -> None:
    proven = prove(read_mbwrt_recipe(write(tmp_path / "r.txt", GOOD)), history_of(tmp_path))
    assert proven.weights == BEST
    assert proven.by == (
        "recipe order (… OUT11, OUT, TIME_EMBED), by the numbered set of the log and the best row of h.csv"
    )


def test_a_line_in_another_order_is_proven_to_be_so(tmp_path: Path) -> None:
    for order, words in ((RUNTIME, "runtime-block-merge's order"), (NAT, "nat order")):
        text = recipe_text(BEST, order=order, log=BEST)
        proven = prove(read_mbwrt_recipe(write(tmp_path / "r.txt", text)))
        assert proven.weights == BEST
        assert proven.by.startswith(words)


def test_without_a_log_the_history_proves_it(tmp_path: Path) -> None:
    recipe = read_mbwrt_recipe(write(tmp_path / "r.txt", recipe_text(BEST, order=RUNTIME)))
    assert recipe.log is None
    assert prove(recipe, history_of(tmp_path)).weights == BEST


def test_an_order_that_nothing_shows_is_not_guessed(tmp_path: Path) -> None:
    recipe = read_mbwrt_recipe(write(tmp_path / "r.txt", recipe_text(BEST)))
    with pytest.raises(InputError, match=r"nothing shows the order of its weights line.*give the history"):
        prove(recipe)
    assert prove(recipe, order="recipe").weights == BEST
    assert prove(recipe, order="runtime").weights == {
        **BEST,
        "OUT": BEST["TIME_EMBED"],
        "TIME_EMBED": BEST["OUT"],
    }
    with pytest.raises(InputError, match="unknown 'alphabetical'; known: nat, recipe, runtime"):
        prove(recipe, order="alphabetical")


def test_an_order_that_is_told_must_agree_with_the_files(tmp_path: Path) -> None:
    recipe = read_mbwrt_recipe(write(tmp_path / "r.txt", GOOD))
    with pytest.raises(InputError, match=r"disagree under every order.*2 blocks differ \(OUT is"):
        prove(recipe, order="runtime")


def test_a_line_and_a_log_of_two_merges_are_refused(tmp_path: Path) -> None:
    changed = {**BEST, "OUT09": 0.99}
    recipe = read_mbwrt_recipe(write(tmp_path / "r.txt", recipe_text(BEST, log=changed)))
    with pytest.raises(InputError, match=r"r\.txt.*disagree.*1 blocks differ \(OUT09 is .* and 0\.99\)"):
        prove(recipe)


def test_another_pairs_recipe_is_refused(tmp_path: Path) -> None:
    recipe = read_mbwrt_recipe(write(tmp_path / "r.txt", GOOD))
    with pytest.raises(InputError, match=r"r\.txt has other weights than the best row of .*h\.csv \(line 3"):
        prove(recipe, history_of(tmp_path, best=weights_of(3)))
    with pytest.raises(InputError, match=r"its best score is 0\.5625, the history's is 0\.75 \(line 3\)"):
        prove(recipe, history_of(tmp_path, score=0.75))
    without_log = read_mbwrt_recipe(write(tmp_path / "s.txt", recipe_text(BEST)))
    with pytest.raises(InputError, match="has other weights than the best row"):
        prove(without_log, history_of(tmp_path, best=weights_of(3)))


def cut(text: str, pattern: str, replacement: str) -> str:
    changed, count = re.subn(pattern, replacement, text, count=1)
    assert count == 1
    return changed


LINE = ",".join(str(BEST[block]) for block in RECIPE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"r\.txt: has no line modelA=…"),
        (GOOD.replace("modelB=", "modelC="), r"r\.txt: has no line modelB=…"),
        (GOOD.replace(LINE, ""), r"r\.txt: has no weights line \(27 numbers with commas\)"),
        (GOOD.replace(LINE, LINE + ",0.5"), r"r\.txt, line 6: the weights line has 28 numbers and needs 27"),
        (GOOD.replace(LINE, LINE.rpartition(",")[0]), r"line 6: the weights line has 26 numbers"),
        (GOOD.replace(LINE, f"{LINE}\n{LINE}"), r"r\.txt, line 7: a second weights line"),
        (GOOD.replace(LINE, "2" + LINE), r"r\.txt, line 6: number 1 is 2\S*; it must lie from 0"),
        (GOOD.replace(LINE, cut(LINE, ",0", ",nan,0")), r"line 6: the weights line has 28 numbers"),
        (GOOD.replace(LINE, cut(LINE, r",[\d.]+,", ",half,")), r"line 6: number 2 is 'half'"),
        (cut(GOOD, r"\n +'7'.*", ""), r"its log numbers 26 weights, and 0 to 26 are needed \(7 is off\)"),
        (cut(GOOD, r"'7'", "'8'"), r"line \d+: '8' has two values; the log is of several searches"),
        (cut(GOOD, r"Best score: \S+", "Best score: -inf"), r"`Best score` of its log is -inf"),
        (GOOD + "modelA=four", r"r\.txt, line \d+: a second modelA="),
    ],
)
def test_bad_input_names_file_line_and_remedy(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_mbwrt_recipe(write(tmp_path / "r.txt", text))


@pytest.mark.skipif(not HISTORIES.exists(), reason="the shared histories are not here")
def test_the_best_weights_of_all_real_histories_are_what_their_recipe_says() -> None:
    files = sorted(HISTORIES.glob("*.csv"))
    assert len(files) == 18
    for file in files:
        history = read_history(file)
        recipe = read_mbwrt_recipe(next(HISTORIES.glob(f"{file.name.split('-0-')[0]}.recipe.txt")))
        assert prove(recipe, history).weights == history.best.weights
        assert prove(recipe).weights == history.best.weights
        # The numbered set, as a regular expression alone reads it.
        numbered = dict(re.findall(r"'(\d+)'\s*:\s*([\d.]+)", recipe.file.read_text()))
        assert history.best.weights == {block: float(numbered[str(i)]) for i, block in enumerate(NAT)}


@pytest.mark.skipif(not HISTORIES.exists(), reason="the shared histories are not here")
def test_no_real_recipe_passes_for_another_pairs() -> None:
    histories = [read_history(file) for file in sorted(HISTORIES.glob("*.csv"))]
    recipes = [read_mbwrt_recipe(file) for file in sorted(HISTORIES.glob("*.recipe.txt"))]
    for recipe, history in zip(recipes, histories[1:] + histories[:1], strict=True):
        with pytest.raises(InputError, match="of another search"):
            prove(recipe, history)
