"""Tensor names: a module's (diffusers, transformers) to the single file's (LDM), and the tensors with them.

diffusers converts from the single file only; this is the way back. `unet_names` and `vae_names` are checked
against diffusers' own converter each time they are made, so that a change there is an error here and never
a silently misplaced tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor, nn

from optimizer.blocks import UNET_PREFIX

VAE_PREFIX = "first_stage_model."
TEXT_PREFIXES = ("cond_stage_model.", "conditioner.")
EMA_PREFIX = "model_ema."
CLIP_PREFIX = "cond_stage_model.transformer.text_model."
"""SD1.x and zoo text encoder; `CLIPTextModel` itself has no `text_model.` in its keys."""

_UNET_TOP = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
}
_UNET_RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "time_emb_proj.": "emb_layers.1.",
    "conv_shortcut.": "skip_connection.",
}
_UNET_PART = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_VAE_PART = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)")
_VAE_ATTENTION = {
    "group_norm.": "norm.",
    "to_q.": "q.",
    "to_k.": "k.",
    "to_v.": "v.",
    "to_out.0.": "proj_out.",
}


def ema_name(unet_key: str) -> str:
    """The key of the EMA copy of a UNet tensor: LDM's LitEma drops all dots (ldm/modules/ema.py)."""
    return EMA_PREFIX + unet_key.removeprefix("model.").replace(".", "")


def unet_names(unet: nn.Module) -> dict[str, str]:
    """Parameter name of a `UNet2DConditionModel` -> its LDM key with prefix, in the module's order."""
    config = dict(unet.config)  # type: ignore[arg-type]
    names = {key: UNET_PREFIX + _unet_name(key, config) for key in unet.state_dict()}
    # The converter moves values without looking at them, so the LDM key itself can travel as the value.
    back = convert_ldm_unet_checkpoint({ldm: ldm for ldm in names.values()}, config)
    _check_round_trip("UNet", names, back)
    return names


def vae_names(vae: nn.Module) -> dict[str, str]:
    """Parameter name of an `AutoencoderKL` -> its LDM key with prefix, in the module's order."""
    config = dict(vae.config)  # type: ignore[arg-type]
    levels = len(config["up_block_types"])
    names = {key: VAE_PREFIX + _vae_name(key, levels) for key in vae.state_dict()}
    markers = {ldm: torch.full((1,), index) for index, ldm in enumerate(names.values())}
    keys = list(markers)
    back = {key: keys[int(marker)] for key, marker in convert_ldm_vae_checkpoint(markers, config).items()}
    _check_round_trip("VAE", names, back)
    return names


def clip_names(text_encoder: nn.Module, prefix: str = CLIP_PREFIX) -> dict[str, str]:
    """Parameter name of a `CLIPTextModel` -> its key in an SD1-style single file, in the module's order."""
    return {key: prefix + key.removeprefix("text_model.") for key in text_encoder.state_dict()}


def single_file_tensors(unet: nn.Module, vae: nn.Module, text_encoder: nn.Module) -> dict[str, Tensor]:
    """The tensors of a single-file checkpoint with SD1-style text encoder keys (SD1.x and the zoo).

    The exact inverse of loading: same values, same dtypes; VAE attention weights (c, c) become the 1x1
    convolutions (c, c, 1, 1) that LDM files hold. Tensors are those of the modules, not copies.
    """
    tensors = _renamed(unet.state_dict(), unet_names(unet))
    tensors |= {
        key: ldm_vae_tensor(key, tensor) for key, tensor in _renamed(vae.state_dict(), vae_names(vae)).items()
    }
    tensors |= _renamed(text_encoder.state_dict(), clip_names(text_encoder))
    return tensors


def ldm_vae_tensor(ldm_key: str, tensor: Tensor) -> Tensor:
    """The tensor in the shape that the LDM file has: attention projections as 1x1 convolutions."""
    return tensor[:, :, None, None] if ".attn_1." in ldm_key and tensor.ndim == 2 else tensor


def open_clip_shapes(shapes: Mapping[str, torch.Size]) -> dict[str, tuple[int, ...]]:
    """Shapes of open_clip's text tower from those of the transformers model: q, k and v lie in one tensor.

    Keys come without prefix and without the projection, which no rendering uses.
    """
    return {
        name: tuple(shapes[keys[0]]) if len(keys) == 1 else (3 * shapes[keys[0]][0], *shapes[keys[0]][1:])
        for name, keys in open_clip_names(shapes).items()
    }


def open_clip_names(keys: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """open_clip's key -> the keys of the transformers model that it holds: one, or those of q, k and v.

    Keys come without prefix and without the projection.
    """
    found: dict[str, dict[str, str]] = {}
    for key in keys:
        name = _open_clip_name(key.removeprefix("text_model."))
        if name.startswith("text_projection"):
            continue
        part = re.fullmatch(r"(.+\.attn\.)([qkv])_proj\.(weight|bias)", name)
        joined, place = (f"{part[1]}in_proj_{part[3]}", part[2]) if part else (name, "q")
        found.setdefault(joined, {})[place] = key
    return {name: tuple(parts[place] for place in "qkv" if place in parts) for name, parts in found.items()}


def _unet_name(key: str, config: Mapping[str, Any]) -> str:
    for name, ldm in _UNET_TOP.items():
        if key.startswith(name):
            inner = key.removeprefix(name)
            return ldm + (_replace_start(inner, _UNET_RESNET) if "resnets" in name else inner)
    part = _UNET_PART.fullmatch(key)
    if part is None:
        raise ValueError(f"no single-file name is known for the UNet tensor {key!r}")
    side, level, kind, index, inner = part[1], int(part[2]), part[3], int(part[4]), part[5]
    layers = int(config["layers_per_block"])
    if kind == "downsamplers":
        return f"input_blocks.{(level + 1) * (layers + 1)}.0.op.{inner.removeprefix('conv.')}"
    if kind == "upsamplers":
        # The up-sampler comes after the attention where the level has one.
        place = 2 if "CrossAttn" in config["up_block_types"][level] else 1
        return f"output_blocks.{level * (layers + 1) + layers}.{place}.{inner}"
    number = level * (layers + 1) + index + (1 if side == "down" else 0)
    block = f"{'input' if side == 'down' else 'output'}_blocks.{number}"
    if kind == "attentions":
        return f"{block}.1.{inner}"
    return f"{block}.0.{_replace_start(inner, _UNET_RESNET)}"


def _vae_name(key: str, levels: int) -> str:
    half, _, rest = key.partition(".")
    if half not in ("encoder", "decoder"):
        return key
    if rest.startswith("conv_norm_out."):
        return f"{half}.norm_out.{rest.removeprefix('conv_norm_out.')}"
    if rest.startswith("mid_block."):
        return f"{half}.mid.{_vae_middle_name(rest.removeprefix('mid_block.'))}"
    part = _VAE_PART.fullmatch(rest)
    if part is None:
        return key
    side, level, kind, index, inner = part[1], int(part[2]), part[3], part[4], part[5]
    if side == "up":
        # LDM counts the decoder's levels from the output.
        level = levels - 1 - level
    if kind == "resnets":
        return f"{half}.{side}.{level}.block.{index}.{_vae_resnet(inner)}"
    return f"{half}.{side}.{level}.{side}sample.{inner}"


def _vae_middle_name(rest: str) -> str:
    kind, index, inner = rest.split(".", 2)
    if kind == "attentions":
        return f"attn_1.{_replace_start(inner, _VAE_ATTENTION)}"
    return f"block_{int(index) + 1}.{_vae_resnet(inner)}"


def _vae_resnet(inner: str) -> str:
    return inner.replace("conv_shortcut.", "nin_shortcut.")


def _open_clip_name(key: str) -> str:
    for name, ldm in (
        ("embeddings.position_embedding.weight", "positional_embedding"),
        ("embeddings.token_embedding", "token_embedding"),
        ("encoder.layers.", "transformer.resblocks."),
        ("final_layer_norm", "ln_final"),
        ("layer_norm1", "ln_1"),
        ("layer_norm2", "ln_2"),
        (".fc1.", ".c_fc."),
        (".fc2.", ".c_proj."),
        (".self_attn.", ".attn."),
    ):
        key = key.replace(name, ldm)
    return key


def _replace_start(name: str, table: Mapping[str, str]) -> str:
    for start, other in table.items():
        if name.startswith(start):
            return other + name.removeprefix(start)
    return name


def _renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    return {names[key]: tensor for key, tensor in tensors.items()}


def _check_round_trip(part: str, names: Mapping[str, str], back: Mapping[str, str]) -> None:
    wrong = _first_difference(names, back, {*names, *back})
    if wrong is not None:
        raise RuntimeError(
            f"diffusers' {part} converter and ours disagree about {wrong!r} (ours "
            f"{names.get(wrong)!r}, theirs {back.get(wrong)!r}); this version of diffusers is not supported"
        )


def _first_difference(ours: Mapping[str, str], theirs: Mapping[str, str], keys: Iterable[str]) -> str | None:
    return next((key for key in sorted(keys) if ours.get(key) != theirs.get(key)), None)
