"""What is known of each scorer: what its number means, what it needs, what fools it.

Data alone, so that scorers are listed without importing what they compute with. A package gives the cards of
its own scorers through the entry points `autombw.scorer_cards`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from scoring.errors import InputError

CARD_GROUP = "autombw.scorer_cards"


@dataclass(frozen=True)
class ScorerCard:
    """The description of one scorer.

    what: what it is, in one line. number: the range of its score and its unit.
    head: names of the one file that `model` may also name directly, in the order they are looked for.
    files: what must lie in its folder, each under any of the names given.
    hub: the id under which folder and files are published as they are needed here.
    commands: what puts everything into a folder, which stands as `{folder}`.
    prompts: whether it reads the prompt. differentiable: whether gradients reach the image.
    guard: only watched, never optimised. voted: people judge, by comparing (human.py).
    classifier: it gives the probability of a label; label: which one unless the user names another.
    sigmoid_middle: x0 in 1 / (1 + exp(x0 - x)), as auto-MBW-rt has it.
    """

    name: str
    what: str
    number: str
    fooled_by: str
    licence: str = "none needed"
    head: tuple[str, ...] = ()
    files: tuple[tuple[str, ...], ...] = ()
    hub: str | None = None
    commands: tuple[str, ...] = ()
    prompts: bool = False
    differentiable: bool = True
    guard: bool = False
    voted: bool = False
    classifier: bool = False
    label: str | None = None
    sigmoid_middle: float | None = None

    @property
    def needs_weights(self) -> bool:
        return bool(self.head or self.files)


_OPEN_CLIP = (
    ("open_clip_config.json",),
    ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
)
_TRANSFORMERS = (
    ("config.json",),
    ("preprocessor_config.json",),
    ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"),
)
_VIT_L_14 = (
    "hf download timm/vit_large_patch14_clip_224.openai open_clip_config.json open_clip_model.safetensors "
    "--local-dir {folder}"
)
_VIT_B_32 = (
    "hf download timm/vit_base_patch32_clip_224.openai open_clip_config.json open_clip_model.safetensors "
    "--local-dir {folder}"
)
_V2_REPOSITORY = "christophschuhmann/improved-aesthetic-predictor"
_LOOKS_ALONE = "it never reads the prompt: driven far enough, any pretty picture will do; "
_MIDDLE = "it sees the middle square, at 224 pixels in most models: fine detail does not count"
_SATURATES = "a probability: where it nears 1, good and better look alike"


def _download(hub: str, *files: str) -> str:
    return " ".join(["hf download", hub, *files, "--local-dir {folder}"])


_CARDS = (
    ScorerCard(
        name="clip",
        what="CLIP score: how well the image shows its prompt, by any open_clip model",
        number="cosine, -1..1; about 0.2..0.35 for images that fit",
        fooled_by="words of the prompt written into the image (Goh et al., 2021); " + _MIDDLE,
        licence="that of the model, such as MIT for laion's",
        files=_OPEN_CLIP,
        hub="laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        commands=(
            _download(
                "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
                "open_clip_config.json",
                "open_clip_model.safetensors",
            ),
        ),
        prompts=True,
    ),
    ScorerCard(
        name="laion-v1",
        what="LAION's first aesthetic predictor: one linear layer over CLIP ViT-L/14",
        number="raw, about 1..10",
        fooled_by=_LOOKS_ALONE + _MIDDLE,
        licence="MIT",
        head=("sa_0_4_vit_l_14_linear.pth",),
        files=_OPEN_CLIP,
        commands=(
            _VIT_L_14,
            "gh repo clone LAION-AI/aesthetic-predictor {folder}/head",
            "mv {folder}/head/sa_0_4_vit_l_14_linear.pth {folder}",
        ),
    ),
    ScorerCard(
        name="laion-v2",
        what="LAION's improved aesthetic predictor: five linear layers over CLIP ViT-L/14",
        number="raw, about 1..10; with `sigmoid` 1 / (1 + exp(5.6 - x))",
        fooled_by=_LOOKS_ALONE + "blurred backgrounds, as users report; " + _MIDDLE,
        licence="Apache-2.0",
        head=("sac+logos+ava1-l14-linearMSE.pth", "ava+logos-l14-linearMSE.pth"),
        files=_OPEN_CLIP,
        commands=(
            _VIT_L_14,
            f"gh repo clone {_V2_REPOSITORY} {{folder}}/head",
            "mv {folder}/head/sac+logos+ava1-l14-linearMSE.pth {folder}",
        ),
        sigmoid_middle=5.6,
    ),
    ScorerCard(
        name="laion-chad",
        what="the chad scorer: the head of laion-v2 trained on other ratings",
        number="raw, about 1..10; with `sigmoid` 1 / (1 + exp(6.2 - x))",
        fooled_by=_LOOKS_ALONE + _MIDDLE,
        licence="not stated",
        head=("chadscorer.pth",),
        files=_OPEN_CLIP,
        commands=(
            _VIT_L_14,
            _download("primerecomfydev/chadscorer", "chadscorer.pth"),
        ),
        sigmoid_middle=6.2,
    ),
    ScorerCard(
        name="aes-b32-v0",
        what="Waifu Diffusion's aesthetic predictor for anime: three layers over CLIP ViT-B/32",
        number="0..1",
        fooled_by=_LOOKS_ALONE + _MIDDLE,
        licence="CreativeML OpenRAIL-M",
        head=("aes-B32-v0.safetensors", "aes-B32-v0.pth"),
        files=_OPEN_CLIP,
        commands=(
            _VIT_B_32,
            _download("hakurei/waifu-diffusion-v1-4", "models/aes-B32-v0.pth"),
            "mv {folder}/models/aes-B32-v0.pth {folder}",
        ),
    ),
    ScorerCard(
        name="cafe-aesthetic",
        what="cafeai's BEiT classifier of anime and photographs, label `aesthetic`",
        number="probability, 0..1",
        fooled_by=_LOOKS_ALONE + _SATURATES,
        licence="AGPL-3.0",
        files=_TRANSFORMERS,
        hub="cafeai/cafe_aesthetic",
        commands=(_download("cafeai/cafe_aesthetic"),),
        classifier=True,
        label="aesthetic",
    ),
    ScorerCard(
        name="cafe-waifu",
        what="cafeai's BEiT classifier of anime portraits, label `waifu`",
        number="probability, 0..1",
        fooled_by="its label is a subject, not a quality: it pulls every prompt there; " + _SATURATES,
        licence="AGPL-3.0",
        files=_TRANSFORMERS,
        hub="cafeai/cafe_waifu",
        commands=(_download("cafeai/cafe_waifu"),),
        classifier=True,
        label="waifu",
    ),
    ScorerCard(
        name="aesthetic-shadow-v2",
        what="shadowlilac's ViT classifier of anime at 1024 pixels, label `hq`",
        number="probability, 0..1",
        fooled_by="version 1 gives 0.99 to 80 % noise, of version 2 nothing is known; " + _SATURATES,
        licence="CC-BY-NC-4.0",
        files=_TRANSFORMERS,
        hub="shadowlilac/aesthetic-shadow-v2",
        commands=(_download("shadowlilac/aesthetic-shadow-v2"),),
        classifier=True,
        label="hq",
    ),
    ScorerCard(
        name="image-classifier",
        what="any transformers image classifier; `label` says whose probability is the score",
        number="probability, 0..1",
        fooled_by="whatever the classifier was never shown; " + _SATURATES,
        licence="that of the model",
        files=_TRANSFORMERS,
        commands=("hf download OWNER/NAME --local-dir {folder}",),
        classifier=True,
    ),
    ScorerCard(
        name="pickscore",
        what="PickScore v1: what people pick for a prompt, a fine-tuned CLIP ViT-H/14",
        number="100 x cosine (the model's own scale), about 15..25",
        fooled_by="little is known; " + _MIDDLE,
        licence="not stated; the code is MIT",
        files=(*_TRANSFORMERS, ("tokenizer.json", "vocab.json")),
        hub="yuvalkirstain/PickScore_v1",
        commands=(
            'hf download yuvalkirstain/PickScore_v1 --include "*.json" --include "*.txt" '
            '--include "*.safetensors" --local-dir {folder}',
        ),
        prompts=True,
    ),
    ScorerCard(
        name="hps-v2.1",
        what="Human Preference Score v2.1: a fine-tuned open_clip ViT-H/14",
        number="cosine, -1..1; about 0.2..0.35",
        fooled_by="little is known; " + _MIDDLE,
        licence="Apache-2.0",
        head=("HPS_v2.1_compressed.pt",),
        hub="xswu/HPSv2",
        commands=(_download("xswu/HPSv2", "HPS_v2.1_compressed.pt"),),
        prompts=True,
    ),
    ScorerCard(
        name="image-reward",
        what="ImageReward v1.0: BLIP ViT-L and a head, trained on ranked pairs",
        number="raw, mean 0 and deviation 1 on its own data; with `sigmoid` 1 / (1 + exp(-x))",
        fooled_by="what stands behind the first 35 tokens of a prompt does not count; " + _MIDDLE,
        licence="Apache-2.0",
        files=(("ImageReward.pt",), ("med_config.json",), ("vocab.txt",)),
        commands=(
            _download("THUDM/ImageReward", "ImageReward.pt", "med_config.json"),
            _download("google-bert/bert-base-uncased", "vocab.txt"),
        ),
        prompts=True,
        sigmoid_middle=0.0,
    ),
    ScorerCard(
        name="aesthetic-v2-5",
        what="Aesthetic Predictor V2.5: five linear layers over SigLIP so400m at 384 pixels",
        number="raw, about 1..10; its author calls 5.5 and above great",
        fooled_by=_LOOKS_ALONE + "it sees the picture squeezed into a square of 384 pixels",
        licence="AGPL-3.0 (head), Apache-2.0 (SigLIP)",
        head=("aesthetic_predictor_v2_5.pth",),
        files=_TRANSFORMERS,
        commands=(
            _download(
                "google/siglip-so400m-patch14-384",
                "config.json",
                "preprocessor_config.json",
                "model.safetensors",
            ),
            "gh repo clone discus0434/aesthetic-predictor-v2-5 {folder}/head",
            "mv {folder}/head/models/aesthetic_predictor_v2_5.pth {folder}",
        ),
    ),
    ScorerCard(
        name="human",
        what="people, who are shown two images of the same probe and say which is better",
        number="logits above the uniform merge: 0 as good, 1 preferred by 73 %, 2 by 88 %",
        fooled_by="tiredness, habit, and whoever votes without looking",
        prompts=True,
        differentiable=False,
        voted=True,
    ),
    ScorerCard(
        name="sharpness",
        what="variance of the Laplacian of the luma",
        number="grey levels (of 255) squared, 0 and up; below 100 often means blurred",
        fooled_by="noise, which is the sharpest picture there is",
        differentiable=False,
        guard=True,
    ),
    ScorerCard(
        name="contrast",
        what="RMS contrast: the standard deviation of the luma",
        number="0..0.5 of the range from black to white",
        fooled_by="any black and white surface",
        differentiable=False,
        guard=True,
    ),
    ScorerCard(
        name="colourfulness",
        what="Hasler and Süsstrunk's colourfulness",
        number="0 (grey) and up; 33 moderately, 59 quite, 109 extremely colourful",
        fooled_by="coloured noise",
        differentiable=False,
        guard=True,
    ),
    ScorerCard(
        name="brightness",
        what="the mean of the luma",
        number="0 (black)..1 (white)",
        fooled_by="an empty white image",
        differentiable=False,
        guard=True,
    ),
)


OUR_CARDS = {card.name: card for card in _CARDS}
"""The cards of the scorers that come with autombw, by name."""


def card_of(name: str) -> ScorerCard | None:
    """The card of a scorer, or none where its package gives none.

    Raises InputError for an entry point that can't be loaded or is no card of that name.
    """
    if name in OUR_CARDS:
        return OUR_CARDS[name]
    entry = next(iter(entry_points(group=CARD_GROUP, name=name)), None)
    return None if entry is None else _loaded(entry)


def is_guard(name: str) -> bool:
    """Whether the scorer is only to be watched, never optimised."""
    card = card_of(name)
    return card is not None and card.guard


def is_voted(name: str) -> bool:
    """Whether people judge by votes, and no image has a number before."""
    card = card_of(name)
    return card is not None and card.voted


def check_optimised(name: str) -> str:
    """`name` when it may be optimised; raises InputError, with the remedy, for a guard."""
    if is_guard(name):
        raise InputError(
            f"scorers: {name!r} is a guard: it is only watched, since its best image is no good image; "
            "name it under `watch:`"
        )
    return name


def _loaded(entry: EntryPoint) -> ScorerCard:
    try:
        card = entry.load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"card of scorer {entry.name!r} ({entry.value}) can't be loaded: {error}") from error
    if not isinstance(card, ScorerCard) or card.name != entry.name:
        raise InputError(f"card of scorer {entry.name!r}: {entry.value} is no ScorerCard of that name")
    return card
