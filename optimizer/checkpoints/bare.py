"""One component in a file of its own, as people share them: a VAE, a text encoder, a UNet.

Known are LDM's keys without the prefix of a whole checkpoint (`vae-ft-mse-840000-ema-pruned`, ComfyUI's
`diffusion_models`), the files of a diffusers folder taken alone, and what `components extract` writes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from optimizer.blocks import UNET_PREFIX
from optimizer.checkpoints.architectures import ARCHITECTURES, TITLES, Architecture, config, signatures
from optimizer.checkpoints.diffusers_folders import Origins, text_origins, unet_origins, vae_origins
from optimizer.checkpoints.names import VAE_PREFIX
from optimizer.checkpoints.opening import open_checkpoint
from optimizer.checkpoints.parts import component_of
from optimizer.checkpoints.reading import CheckpointFile
from optimizer.checkpoints.views import identity, view
from scoring.errors import InputError

_VAE_TOPS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_TOKENS = "embeddings.token_embedding.weight"


def open_component(path: Path) -> CheckpointFile:
    """Open a checkpoint, a diffusers folder, or one component in a file of its own, under LDM's keys.

    Raises InputError for what is none of these, and as `open_checkpoint`.
    """
    file = open_checkpoint(path)
    if any(component_of(key) for key in file.entries):
        return file
    with ExitStack() as opened:
        opened.enter_context(file)
        tensors = identity(file)
        for recognise in _RECOGNISED:
            found = recognise(file, tensors)
            if found is not None:
                opened.pop_all()
                return view(file.path, found, file.metadata, owned=[file])
        example = next(iter(file.entries), "no tensor at all")
        raise InputError(
            f"{file.path.name} is no checkpoint and no UNet, text encoder or VAE that is known (it has "
            f"{example}); give one of these"
        )


def _ldm_vae(_: CheckpointFile, tensors: Origins) -> Origins | None:
    if "decoder.mid.attn_1.q.weight" not in tensors:
        return None
    # Their training files hold a discriminator and EMA copies beside the model.
    return {VAE_PREFIX + key: origin for key, origin in tensors.items() if key.startswith(_VAE_TOPS)}


def _diffusers_vae(_: CheckpointFile, tensors: Origins) -> Origins | None:
    if "decoder.mid_block.resnets.0.norm1.weight" not in tensors:
        return None
    # SD1.x, SD2.x and SDXL name a VAE's tensors alike; the zoo has fewer levels.
    return max((vae_origins(tensors, architecture) for architecture in ARCHITECTURES), key=len)


def _text_encoder(file: CheckpointFile, tensors: Origins) -> Origins | None:
    table = next((origin for key, origin in tensors.items() if key.endswith(_TOKENS)), None)
    if table is None or len(table.entry().shape) != 2:
        return None
    by_width: dict[int, Architecture] = {
        config(architecture, "text_encoder")["hidden_size"]: architecture
        for architecture in ARCHITECTURES
        if architecture != "sdxl"
    }
    width = table.entry().shape[1]
    if width not in by_width:
        known = ", ".join(f"{TITLES[name]} {number}" for number, name in by_width.items())
        raise InputError(
            f"{file.path.name} is a text encoder {width} wide, which no architecture takes alone ({known}); "
            "choose another, for SDXL a whole model"
        )
    return text_origins(tensors, by_width[width])


def _ldm_unet(_: CheckpointFile, tensors: Origins) -> Origins | None:
    if "input_blocks.0.0.weight" not in tensors:
        return None
    return {UNET_PREFIX + key: origin for key, origin in tensors.items()}


def _diffusers_unet(_: CheckpointFile, tensors: Origins) -> Origins | None:
    first = tensors.get("conv_in.weight")
    cross = next((tensors[key] for key in sorted(tensors) if key.endswith(".attn2.to_k.weight")), None)
    if first is None or cross is None:
        return None
    architecture = signatures().get((first.entry().shape[0], cross.entry().shape[-1]))
    return None if architecture is None else unet_origins(tensors, architecture)


_RECOGNISED: tuple[Callable[[CheckpointFile, Origins], Origins | None], ...] = (
    _ldm_vae,
    _diffusers_vae,
    _text_encoder,
    _ldm_unet,
    _diffusers_unet,
)
