"""Pack the trained zoo small enough for a repository: `weights/*.safetensors.xz`.

The base, the VAE, the text encoder and the reward are kept in fp16; a fine-tune is kept as its
difference from the base in 5 bits, one scale per output row. Rows of tokens that no caption holds are
zero, so a word the zoo never learnt says nothing.
"""

from __future__ import annotations

import argparse
import json
import lzma
import shutil
from pathlib import Path

import torch
from safetensors.torch import load, load_file, save

from examples.emoji.pictures import caption, load_pictures
from examples.emoji.styles import STYLES
from examples.emoji.train_unet import FINETUNES, tokenizer

WEIGHTS = Path(__file__).parent / "weights"
LEVELS = 15
# Clipping the rare far values makes the steps between the others finer.
CLIP_AT_RMS = 3.0


def compress(difference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (levels int8 in [-15, 15], scale fp16 per output row) of a weight's difference."""
    rows = difference.reshape(len(difference), -1)
    scale = (rows.square().mean(1).sqrt() * CLIP_AT_RMS / LEVELS).clamp(min=1e-7).half()
    levels = (rows / scale.float()[:, None]).round().clamp(-LEVELS, LEVELS).to(torch.int8)
    return levels.reshape(difference.shape), scale


def expand(levels: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The difference that `compress` kept, fp32."""
    return levels.float() * scale.float().reshape(-1, *[1] * (levels.dim() - 1))


def pack_finetune(base: dict[str, torch.Tensor], tuned: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    packed: dict[str, torch.Tensor] = {}
    for key, value in tuned.items():
        packed[f"{key}:levels"], packed[f"{key}:scale"] = compress(value.float() - base[key].half().float())
    return packed


def unpack_finetune(
    base: dict[str, torch.Tensor], packed: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    return {key: base[key].float() + expand(packed[f"{key}:levels"], packed[f"{key}:scale"]) for key in base}


def write(name: str, tensors: dict[str, torch.Tensor]) -> None:
    WEIGHTS.mkdir(exist_ok=True)
    data = lzma.compress(save({k: v.contiguous() for k, v in tensors.items()}), preset=9)
    (WEIGHTS / f"{name}.safetensors.xz").write_bytes(data)
    print(f"{name}: {len(data) / 1e6:.2f} MB")


def read(name: str) -> dict[str, torch.Tensor]:
    """The tensors that `write` kept under this name."""
    return load(lzma.decompress((WEIGHTS / f"{name}.safetensors.xz").read_bytes()))


def known_tokens(work: Path) -> torch.Tensor:
    """True for the token ids that some caption holds, (49408,)."""
    concepts = set(load_pictures(work / "data.npz").concept)
    captions = ["", *concepts, *(caption(c, s) for c in concepts for s in STYLES)]
    known = torch.zeros(49408, dtype=torch.bool)
    known[tokenizer()(captions).unique()] = True
    known[49407] = True
    return known


def half(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("zoo-work"))
    work: Path = parser.parse_args().work
    known = known_tokens(work)
    base = load_file(work / "base/unet.safetensors")
    text = load_file(work / "base/text.safetensors")
    text["embeddings.token_embedding.weight"][~known] = 0
    reward = load_file(work / "reward/open_clip_model.safetensors")
    reward["token_embedding.weight"][~known] = 0
    write("base", half(base))
    write("text", half(text))
    write("vae", half(load_file(work / "vae/diffusion_pytorch_model.safetensors")))
    write("reward", half(reward))
    for name in FINETUNES:
        tuned = work / name / "unet.safetensors"
        if tuned.exists():
            write(name, pack_finetune(base, load_file(tuned)))
    shutil.copy(work / "reward/accuracy.json", WEIGHTS.parent / "reward/accuracy.json")
    scaling = json.loads((work / "vae/config.json").read_text())["scaling_factor"]
    print(f"scaling_factor of the VAE: {scaling} (stands in optimizer/architectures/emoji/vae/config.json)")


if __name__ == "__main__":
    main()
