"""Train the VAE of the zoo: 32 x 32 pictures to 8 x 8 x 4 latents and back."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from examples.emoji.pictures import Pictures, load_pictures
from optimizer.checkpoints import config_folder


def jitter(rgb: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror, shift by up to 2 px and permute colour channels, so that no picture is learnt by heart."""
    if torch.rand((), generator=generator) < 0.5:
        rgb = rgb.flip(-1)
    dx, dy = torch.randint(-2, 3, (2,), generator=generator).tolist()
    padded = F.pad(rgb, (2, 2, 2, 2), value=1.0)
    rgb = padded[:, :, 2 + dy : 2 + dy + rgb.shape[2], 2 + dx : 2 + dx + rgb.shape[3]]
    if torch.rand((), generator=generator) < 0.25:
        rgb = rgb[:, torch.randperm(3, generator=generator)]
    return rgb


def psnr(vae: AutoencoderKL, rgb: torch.Tensor) -> float:
    """Mean PSNR in dB of pictures in [-1, 1] against their reconstruction."""
    with torch.no_grad():
        out = vae.decode(vae.encode(rgb).latent_dist.mode()).sample.clamp(-1, 1)
    mse = (out - rgb).square().mean(dim=(1, 2, 3)) / 4
    return float((-10 * mse.log10()).mean())


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def train(pictures: Pictures, steps: int, batch: int, device: str) -> AutoencoderKL:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(config_folder("emoji") / "vae"))
    vae.to(device, memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(vae.parameters(), 2e-3, betas=(0.9, 0.98), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, steps, pct_start=0.05)
    seen = (~pictures.held_out).nonzero()[:, 0]
    unseen = pictures.rgb[pictures.held_out].to(device)
    started = time.monotonic()
    for step in range(steps):
        pick = seen[torch.randint(len(seen), (batch,), generator=generator)]
        rgb = jitter(pictures.rgb[pick], generator).to(device)
        posterior = vae.encode(rgb).latent_dist
        out = vae.decode(posterior.mode() + 0.03 * torch.randn_like(posterior.mean)).sample
        sharp = sum(F.l1_loss(a, b) for a, b in zip(edges(out), edges(rgb), strict=True))
        loss = F.l1_loss(out, rgb) + 2 * F.mse_loss(out, rgb) + 0.5 * sharp
        # Keeps the latents near unit variance without the posterior noise drowning them.
        loss = loss + 1e-3 * posterior.mean.square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        if step % 200 == 199 or step == steps - 1:
            seconds = time.monotonic() - started
            print(
                f"step {step + 1} loss {loss.item():.4f} unseen {psnr(vae, unseen):.2f} dB {seconds:.0f} s",
                flush=True,
            )
    with torch.no_grad():
        latents = vae.encode(pictures.rgb[seen].to(device)).latent_dist.mode()
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    return vae.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("zoo-work"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    vae = train(load_pictures(args.work / "data.npz"), args.steps, args.batch, args.device)
    vae.to("cpu", memory_format=torch.contiguous_format).save_pretrained(args.work / "vae")
    assert math.isfinite(vae.config.scaling_factor)


if __name__ == "__main__":
    main()
