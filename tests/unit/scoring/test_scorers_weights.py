"""Cards, and where weights are found."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from huggingface_hub import constants

from scoring.errors import InputError
from scoring.scorers.base import ScorerSpec
from scoring.scorers.cards import OUR_CARDS, ScorerCard, card_of, is_guard
from scoring.scorers.registry import scorer_names
from scoring.scorers.weights import commands, located, where
from tests.unit.scoring.scorer_models import save_clip

REPO = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def scorers(tmp_path: Path) -> Path:
    folder = tmp_path / "scorers"
    folder.mkdir()
    return folder


def put(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def cached(hub: Path, model_id: str, *names: str) -> Path:
    """A model as `hf download` leaves it in the cache."""
    repository = hub / f"models--{model_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("abc123")
    return put(repository / "snapshots/abc123", *names)


def found(scorers: Path, name: str, *, anywhere: bool = False, **options: str) -> str | None:
    return located(ScorerSpec(scorer=name, **options), scorers, anywhere=anywhere).model  # type: ignore[arg-type]


VIT = ("config.json", "preprocessor_config.json", "model.safetensors")


# ---- where weights are found


def test_without_a_model_the_scorers_own_folder_is_meant(scorers: Path) -> None:
    folder = put(scorers / "cafe-aesthetic", *VIT)
    assert found(scorers, "cafe-aesthetic") == str(folder)


def test_a_model_is_named_relative_to_the_scorers_folder(scorers: Path) -> None:
    folder = put(scorers / "mine/shadow", "config.json", "preprocessor_config.json", "pytorch_model.bin")
    assert found(scorers, "aesthetic-shadow-v2", model="mine/shadow") == str(folder)


def test_a_head_is_named_itself_or_by_its_folder(scorers: Path) -> None:
    clip = save_clip(scorers / "l14")
    put(clip, "ava+logos-l14-linearMSE.pth", "own.pth")
    assert found(scorers, "laion-v2", model="l14") == str(clip)
    assert found(scorers, "laion-v2", model="l14/own.pth") == str(clip / "own.pth")
    with pytest.raises(InputError, match=r"l14 lacks sa_0_4_vit_l_14_linear.pth; get them with"):
        found(scorers, "laion-v1", model="l14")


def test_a_hub_id_is_resolved_from_the_cache(scorers: Path, hub: Path) -> None:
    snapshot = cached(hub, "shadowlilac/aesthetic-shadow-v2", *VIT)
    assert found(scorers, "aesthetic-shadow-v2", model="shadowlilac/aesthetic-shadow-v2") == str(snapshot)
    # a folder of that name comes first
    folder = put(scorers / "shadowlilac/aesthetic-shadow-v2", *VIT)
    assert found(scorers, "aesthetic-shadow-v2", model="shadowlilac/aesthetic-shadow-v2") == str(folder)


def test_a_hub_id_that_is_not_cached_gives_the_command(scorers: Path, hub: Path) -> None:
    with pytest.raises(
        InputError, match=r"get it with `hf download cafeai/cafe_waifu`, or put the files into"
    ):
        found(scorers, "cafe-waifu", model="cafeai/cafe_waifu")
    cached(hub, "cafeai/cafe_waifu", "config.json")
    with pytest.raises(
        InputError, match=r"abc123 lacks preprocessor_config.json, model.safetensors; .*hf download"
    ):
        found(scorers, "cafe-waifu", model="cafeai/cafe_waifu")


def test_missing_weights_give_the_commands_that_get_them(scorers: Path) -> None:
    place = scorers / "image-reward"
    with pytest.raises(InputError) as caught:
        found(scorers, "image-reward")
    for part in (
        f"scorers: model of 'image-reward': {place} does not exist; get them with `hf",
        f"hf download THUDM/ImageReward ImageReward.pt med_config.json --local-dir {place}",
        f"hf download google-bert/bert-base-uncased vocab.txt --local-dir {place}",
        "or give 'model'",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("model", ["../elsewhere", "/etc", "a/../../elsewhere"])
def test_a_path_that_leaves_the_folder_is_refused(scorers: Path, model: str) -> None:
    put(scorers.parent / "elsewhere", *VIT)
    with pytest.raises(InputError, match="lies outside"):
        found(scorers, "cafe-waifu", model=model)


def test_this_machines_user_may_name_any_place(scorers: Path) -> None:
    folder = put(scorers.parent / "elsewhere", *VIT)
    assert found(scorers, "cafe-waifu", anywhere=True, model=str(folder)) == str(folder)
    with pytest.raises(InputError, match="lies outside"):
        found(scorers, "cafe-waifu", model=str(folder))


def test_what_needs_no_weights_takes_none(scorers: Path) -> None:
    assert found(scorers, "sharpness") is None
    with pytest.raises(InputError, match="'sharpness' needs no weights; leave out 'model'"):
        found(scorers, "sharpness", model="x")


def test_a_file_is_no_folder(scorers: Path) -> None:
    put(scorers, "weights.pth")
    with pytest.raises(InputError, match="is a file, and this scorer takes a folder"):
        found(scorers, "pickscore", model="weights.pth")


def test_options_are_checked_too(scorers: Path) -> None:
    with pytest.raises(InputError, match="watch: unknown scorer 'x'; known scorers: aes"):
        located(ScorerSpec(scorer="x"), scorers, field="watch")
    with pytest.raises(InputError, match="needs `label`"):
        found(scorers, "image-classifier")
    with pytest.raises(InputError, match="'laion-v1' has no sigmoid form"):
        located(ScorerSpec(scorer="laion-v1", sigmoid=True), scorers)


def test_where_looks_into_the_own_folder_then_into_the_cache(scorers: Path, hub: Path) -> None:
    assert where("cafe-waifu", scorers) is None
    snapshot = cached(hub, "cafeai/cafe_waifu", *VIT)
    assert where("cafe-waifu", scorers) == str(snapshot)
    folder = put(scorers / "cafe-waifu", *VIT)
    assert where("cafe-waifu", scorers) == str(folder)
    assert where("image-classifier", scorers) is None
    generic = put(scorers / "image-classifier", *VIT)
    assert where("image-classifier", scorers) == str(generic)


# ---- cards


def test_every_scorer_of_ours_has_a_card_and_every_card_a_scorer() -> None:
    entries = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["entry-points"]
    assert set(entries["autombw.scorers"]) == set(OUR_CARDS)
    assert set(OUR_CARDS) <= set(scorer_names()), "install the package again: its entry points changed"


@pytest.mark.parametrize("card", OUR_CARDS.values(), ids=lambda card: card.name)
def test_a_card_says_all_that_is_asked(card: ScorerCard, scorers: Path) -> None:
    assert card.what
    assert card.number
    assert card.fooled_by
    assert card.licence
    assert bool(card.commands) == card.needs_weights
    for command in commands(card, scorers):
        assert str(scorers / card.name) in command
        assert not re.search(r"https?:|\.co\b|\.com\b", command)
    assert card.guard == is_guard(card.name)


def install_card(folder: Path, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    info = folder / "somebody-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[autombw.scorer_cards]\ntheirs = {value}\n")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])


THEIRS = ScorerCard(name="theirs", what="a test", number="0..1", fooled_by="everything", guard=True)


def test_another_package_gives_cards_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert card_of("theirs") is None
    install_card(tmp_path, f"{__name__}:THEIRS", monkeypatch)
    card = card_of("theirs")
    assert card is not None
    assert card.what == "a test"
    assert is_guard("theirs")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("nowhere_at_all:CARD", "card of scorer 'theirs' .* can't be loaded"),
        (f"{__name__}:REPO", "is no ScorerCard of that name"),
    ],
)
def test_a_broken_card_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, said: str
) -> None:
    install_card(tmp_path, value, monkeypatch)
    with pytest.raises(InputError, match=said):
        card_of("theirs")
    assert card_of("clip") is not None


def test_cards_are_read_without_torch() -> None:
    program = (
        "import sys, scoring.scorers.weights as w; from pathlib import Path;"
        "from scoring.scorers.registry import scorer_names;"
        "[w.where(name, Path('none')) for name in scorer_names()];"
        "print([name for name in ('torch', 'transformers', 'open_clip') if name in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout.strip() == "[]"
