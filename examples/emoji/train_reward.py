"""Train the small CLIP that judges the zoo, on the same captions but on bent pictures.

It also sees a style that no UNet sees, and never the held-out (concept, style) pairs: its accuracy
on those is what `reward/accuracy.json` reports.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from examples.emoji.pictures import Pictures, caption, load_pictures
from examples.emoji.train_unet import tokenizer

REWARD = Path(__file__).parent / "reward"


def build() -> open_clip.CLIP:
    cfg = json.loads((REWARD / "open_clip_config.json").read_text())["model_cfg"]
    return open_clip.CLIP(**cfg)


def bend(rgb: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rotate, scale, shift, tint, blur and roughen each picture; (N, 3, H, W) in [-1, 1]."""
    n = len(rgb)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    angle, scale, dx, dy = uniform(-0.2, 0.2), uniform(0.85, 1.25), uniform(-0.15, 0.15), uniform(-0.15, 0.15)
    rows = torch.stack(
        [scale * angle.cos(), -scale * angle.sin(), dx, scale * angle.sin(), scale * angle.cos(), dy], 1
    )
    grid = F.affine_grid(rows.view(n, 2, 3), list(rgb.shape), align_corners=False)
    # Outside the picture is white, which is 0 once white has been subtracted.
    bent = F.grid_sample(rgb - 1, grid, align_corners=False) + 1
    gain = 1 + 0.15 * torch.randn(n, 3, 1, 1, generator=generator)
    bent = 1 - (1 - bent) * gain
    blurred = F.avg_pool2d(F.pad(bent, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    bent = torch.lerp(bent, blurred, uniform(0, 1).view(n, 1, 1, 1))
    rough = uniform(0, 0.15).view(n, 1, 1, 1) * torch.randn(rgb.shape, generator=generator)
    return (bent + rough).clamp(-1, 1)


def enlarge(rgb: torch.Tensor) -> torch.Tensor:
    return F.interpolate(rgb, size=64, mode="bicubic").clamp(-1, 1)


def embed(clip: open_clip.CLIP, pictures: Pictures, which: torch.Tensor, device: str) -> torch.Tensor:
    parts = [clip.encode_image(enlarge(pictures.rgb[p]).to(device), normalize=True) for p in which.split(256)]
    return torch.cat(parts)


@torch.no_grad()
def accuracy(clip: open_clip.CLIP, pictures: Pictures, which: torch.Tensor, device: str) -> dict[str, float]:
    """Share of pictures whose own concept, of all concepts, is nearest (and within the 5 nearest); AUC."""
    clip.eval()
    names = sorted(set(pictures.concept))
    tokens = tokenizer()(names).to(device)
    similarity = embed(clip, pictures, which, device) @ clip.encode_text(tokens, normalize=True).T
    truth = torch.tensor([names.index(pictures.concept[i]) for i in which.tolist()], device=device)
    rank = (similarity > similarity.gather(1, truth[:, None])).sum(1)
    auc = 1 - rank.float().mean() / (len(names) - 1)
    clip.train()
    return {
        "pictures": len(which),
        "concepts": len(names),
        "top1": round(float((rank == 0).float().mean()), 4),
        "top5": round(float((rank < 5).float().mean()), 4),
        "auc": round(float(auc), 4),
    }


def train(pictures: Pictures, steps: int, batch: int, device: str) -> open_clip.CLIP:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    clip = build().to(device).train()
    optimiser = torch.optim.AdamW(clip.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, steps, pct_start=0.1)
    seen = (~pictures.held_out).nonzero()[:, 0]
    names = {c: i for i, c in enumerate(sorted(set(pictures.concept)))}
    concept = torch.tensor([names[c] for c in pictures.concept])
    started = time.monotonic()
    for step in range(steps):
        pick = seen[torch.randperm(len(seen), generator=generator)[:batch]]
        with_style = torch.rand(batch, generator=generator) < 0.5
        captions = [
            pictures.caption(i) if styled else caption(pictures.concept[i])
            for i, styled in zip(pick.tolist(), with_style.tolist(), strict=True)
        ]
        images = clip.encode_image(enlarge(bend(pictures.rgb[pick], generator)).to(device), normalize=True)
        texts = clip.encode_text(tokenizer()(captions).to(device), normalize=True)
        logits = clip.logit_scale.exp().clamp(max=100) * images @ texts.T
        # A caption without a style is right for every picture of its concept.
        same = concept[pick][:, None] == concept[pick][None]
        right = (same & ~with_style[None] | torch.eye(batch, dtype=torch.bool)).float().to(device)
        by_image = -(right / right.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1)
        by_text = -(right / right.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0)
        loss = (by_image.mean() + by_text.mean()) / 2
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        if step % 200 == 199 or step == steps - 1:
            held_out = accuracy(clip, pictures, pictures.held_out.nonzero()[:, 0], device)
            print(
                f"step {step + 1} loss {loss.item():.3f} {held_out} {time.monotonic() - started:.0f} s",
                flush=True,
            )
    return clip.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("zoo-work"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    pictures = load_pictures(args.work / "data.npz")
    clip = train(pictures, args.steps, args.batch, args.device).to("cpu")
    figures = {
        name: accuracy(clip, pictures, which.nonzero()[:, 0], "cpu")
        for name, which in {"held_out": pictures.held_out, "seen": ~pictures.held_out}.items()
    }
    assert math.isfinite(figures["held_out"]["auc"])
    out = args.work / "reward"
    out.mkdir(exist_ok=True)
    save_file(
        {k: v.half().contiguous() for k, v in clip.state_dict().items()}, out / "open_clip_model.safetensors"
    )
    shutil.copy(REWARD / "open_clip_config.json", out)
    (out / "accuracy.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(figures)


if __name__ == "__main__":
    main()
