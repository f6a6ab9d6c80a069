"""Train the base UNet with its text encoder, and the fine-tunes from it.

`torchrun --nproc-per-node 2 -m examples.emoji.train_unet base` shares each batch between two
processes of one thread, which on two cores is faster by half than one process of two threads.

v-prediction on scaled-linear betas (Salimans & Ho 2022; Rombach et al. 2022), one caption in ten
empty for classifier-free guidance, weights averaged (EMA). The fine-tunes leave the text encoder
alone, as the block weights do.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import open_clip
import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from examples.emoji.pictures import Pictures, caption, load_pictures
from optimizer.checkpoints import config_folder

CONFIG = config_folder("emoji")
FINETUNES: dict[str, dict[str, str]] = {
    **{style: {"style": style} for style in ("noto", "twemoji", "flat", "3d")},
    **{category: {"category": category} for category in ("animals", "food", "faces", "outdoors")},
}
END_OF_TEXT = 49407
RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@dataclass
class Zoo:
    """What is trained; `unet` and `text` live on `device`."""

    unet: UNet2DConditionModel
    text: CLIPTextModel
    device: str


def new_zoo(device: str) -> Zoo:
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(CONFIG / "unet"))
    text = CLIPTextModel(CLIPTextConfig.from_pretrained(CONFIG / "text_encoder"))
    return Zoo(unet.to(device), text.to(device), device)


@dataclass(frozen=True)
class Schedule:
    """`rate`: highest learning rate; `no_style`: share of captions that do not name the style."""

    steps: int
    rate: float
    no_style: float
    train_text: bool


def tokens(captions: list[str]) -> torch.Tensor:
    """CLIP token ids (N, 77), padded with the end of text as Stable Diffusion 1 does."""
    ids: torch.Tensor = tokenizer()(captions)
    return ids.masked_fill(ids == 0, END_OF_TEXT)


@cache
def tokenizer() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer()


def encode(vae: AutoencoderKL, pictures: Pictures) -> torch.Tensor:
    with torch.no_grad():
        parts = [vae.encode(part).latent_dist.mode() for part in pictures.rgb.split(64)]
    scale: float = vae.config.scaling_factor
    return torch.cat(parts) * scale


class Average:
    """Exponential moving average of a module's parameters, warmed up so that early steps count less."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.module, self.decay, self.steps = copy.deepcopy(module).requires_grad_(False).eval(), decay, 0

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), 1 - decay)


def train(
    zoo: Zoo,
    pictures: Pictures,
    latents: torch.Tensor,
    which: torch.Tensor,
    schedule: Schedule,
    *,
    batch: int,
    out: Path,
    snapshot: int = 500,
) -> None:
    """Learn the pictures `which`; the averages are written to `out`."""
    generator = torch.Generator().manual_seed(0)
    noise_schedule = DDPMScheduler.from_config(DDPMScheduler.load_config(CONFIG / "scheduler"))
    trained: list[torch.nn.Module] = [zoo.unet, zoo.text] if schedule.train_text else [zoo.unet]
    averages = [Average(module, 0.998 if schedule.train_text else 0.99) for module in trained]
    parameters = [p for module in trained for p in module.parameters()]
    optimiser = torch.optim.AdamW(parameters, schedule.rate, betas=(0.9, 0.98), weight_decay=1e-3, fused=True)
    decay = torch.optim.lr_scheduler.OneCycleLR(optimiser, schedule.rate, schedule.steps, pct_start=0.05)
    order = torch.empty(0, dtype=torch.long)
    started, total = time.monotonic(), 0.0
    for step in range(1, schedule.steps + 1):
        while len(order) < batch:
            order = torch.cat([order, which[torch.randperm(len(which), generator=generator)]])
        pick, order = order[:batch], order[batch:]
        mine = slice(RANK, None, WORLD)
        chance = torch.rand(batch, generator=generator).tolist()
        captions = [
            ""
            if c < 0.1
            else caption(pictures.concept[i])
            if c < 0.1 + schedule.no_style
            else pictures.caption(i)
            for i, c in zip(pick.tolist(), chance, strict=True)
        ]
        clean = latents[pick][mine].to(zoo.device)
        noise = torch.randn(batch, *clean.shape[1:], generator=generator)[mine].to(zoo.device)
        t = torch.randint(0, 1000, (batch,), generator=generator)[mine].to(zoo.device)
        with torch.set_grad_enabled(schedule.train_text):
            context = zoo.text(tokens(captions[mine]).to(zoo.device)).last_hidden_state
        noisy = noise_schedule.add_noise(clean, noise, t)
        guess = zoo.unet(noisy, t, context, return_dict=False)[0]
        loss = F.mse_loss(guess, noise_schedule.get_velocity(clean, noise, t))
        loss.backward()
        average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        decay.step()
        for average, module in zip(averages, trained, strict=True):
            average.update(module)
        total += loss.item()
        if step % 50 == 0 and RANK == 0:
            print(f"step {step} loss {total / 50:.4f} {time.monotonic() - started:.0f} s", flush=True)
            total = 0.0
        if RANK == 0 and (step % snapshot == 0 or step == schedule.steps):
            save(out / "unet.safetensors", averages[0].module)
            if schedule.train_text:
                save(out / "text.safetensors", averages[1].module)


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """The mean over all processes, in one message."""
    if WORLD == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients]) / WORLD
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def save(file: Path, module: torch.nn.Module) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    save_file({k: v.cpu().contiguous().clone() for k, v in module.state_dict().items()}, temporary)
    temporary.replace(file)


def load_base(zoo: Zoo, folder: Path) -> None:
    zoo.unet.load_state_dict(load_file(folder / "unet.safetensors"))
    zoo.text.load_state_dict(load_file(folder / "text.safetensors"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=["base", *FINETUNES])
    parser.add_argument("--work", type=Path, default=Path("zoo-work"))
    parser.add_argument("--steps", type=int, help="default: 3000 for the base, 220 for a fine-tune")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if WORLD > 1:
        dist.init_process_group("gloo")
    pictures = load_pictures(args.work / "data.npz")
    latents = encode(AutoencoderKL.from_pretrained(args.work / "vae"), pictures)
    for name in args.names:
        zoo = new_zoo(args.device)
        if name == "base":
            schedule = Schedule(args.steps or 3000, 1.2e-3, no_style=0.15, train_text=True)
            which = pictures.where()
        else:
            load_base(zoo, args.work / "base")
            schedule = Schedule(args.steps or 220, 4e-4, no_style=0.4, train_text=False)
            which = pictures.where(**FINETUNES[name])
        print(f"{name}: {len(which)} pictures, {schedule}", flush=True)
        train(zoo, pictures, latents, which, schedule, batch=args.batch, out=args.work / name)


if __name__ == "__main__":
    main()
