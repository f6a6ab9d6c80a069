"""sd-mecha's recipes: a merge of ours as a `.mecha` file (format 0.1.0) that gives the same tensors.

sd-mecha's own block weights cannot say ours: they move `time_embed` with BASE and `out` with OUT11. So every
UNet tensor gets its alpha by its full key, as a literal in the model's config. What has no alpha (text
encoder, VAE, EMA copies) is A's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimizer.blocks import UNET_PREFIX, check_weights
from optimizer.checkpoints import TITLES
from optimizer.elements import elements_in
from optimizer.merging import groups_of
from scoring.errors import InputError

CONFIGS: Mapping[str, str] = {"sd1": "sd1-ldm", "sdxl": "sdxl-sgm"}
"""Our architectures that sd-mecha knows -> its name for their tensors."""


def mecha_recipe(model_a: str, model_b: str, weights: Mapping[str, float], architecture: str) -> str:
    """The text of a `.mecha` recipe.

    model_a, model_b: paths as sd-mecha is to find them, from its model folders or absolute. weights: an alpha
    in [0, 1] for every block in which A and B differ, and for elements. Raises InputError where sd-mecha has
    no config of the architecture or is not installed, and for wrong weights.
    """
    config = CONFIGS.get(architecture)
    if config is None:
        raise InputError(
            f"sd-mecha has no config for {TITLES.get(architecture, architecture)}, so no .mecha file can say "
            f"this merge; it knows {' and '.join(TITLES[known] for known in CONFIGS)}; export a checkpoint"
        )
    alphas = alphas_by_key(weights, architecture)
    return recipe_of_alphas(model_a, model_b, alphas, config)


def alphas_by_key(weights: Mapping[str, float], architecture: str) -> dict[str, float]:
    """Full tensor key -> alpha, for every UNet tensor of what `weights` names. Raises InputError."""
    groups = groups_of(architecture, elements_in(weights))
    known = groups.names
    # Names first: a wrong one must not pass for a block that does not differ.
    checked = check_weights(weights, [block for block in known if block in weights] or known)
    return {key: checked[name] for key, name in groups.by_key().items() if name in checked}


def recipe_of_alphas(model_a: str, model_b: str, alphas: Mapping[str, float], config: str) -> str:
    """The text of a recipe: (1 - alpha) A + alpha B for each key of `alphas`, A for all else.

    alphas: UNet tensor key -> alpha in [0, 1]; config: sd-mecha's name of the tensors' layout.
    """
    sd_mecha = _sd_mecha()
    strange = [key for key in alphas if not key.startswith(UNET_PREFIX)]
    if strange:
        raise InputError(f"{strange[0]} is no tensor of a UNet; only these are merged")
    for path in (model_a, model_b):
        # Its reader takes a `=` in a quoted path for the name of an argument.
        if any(character in path for character in '="\n'):
            raise InputError(
                f"{path!r} can't be written into a .mecha file; rename the model without = and quotes"
            )
    a, b = (sd_mecha.model(path, config=config) for path in (model_a, model_b))
    # Python's floats alone can be written into a recipe, and they come back to the bit.
    literal = sd_mecha.literal({key: float(alpha) for key, alpha in alphas.items()}, config=config)
    merged = sd_mecha.weighted_sum(a, b, alpha=literal) | a
    return str(sd_mecha.serialize(merged, finalize=False))


def write_mecha(path: Path, text: str) -> None:
    """Write a recipe to a file that ends in `.mecha`. Raises InputError."""
    if path.suffix != ".mecha":
        raise InputError(f"{path}: sd-mecha reads recipes from files that end in .mecha; name it so")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _sd_mecha() -> Any:
    try:
        import sd_mecha
    except ImportError as error:
        raise InputError(
            "sd-mecha is not installed; install it with: pip install 'autombw[bench]'"
        ) from error
    return sd_mecha
