"""A probe as people render them (hires fix, FreeU, dynamic thresholding), by diffusers' pipelines.

The peer of `benchmarks.render`.
diffusers has FreeU and hires fix only in other forms, and no dynamic thresholding. So the same functions are
put where an extension would put them: around the UNet of a pipeline that is told there is no guidance.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from torch import Tensor

from scoring.probes import DynamicThresholding, FreeU, FreeUStage, Hires, Probe
from scoring.rendering.components import Components
from scoring.rendering.freeu import freeu
from scoring.rendering.hires import Size, enlarge
from scoring.rendering.thresholding import dynamic_thresholding

# The settings of AstolfoMix's log, apart from size and steps.
ARTICLE: dict[str, Any] = {
    "sampler": "Euler",
    "cfg_scale": 6.0,
    "thresholding": DynamicThresholding(
        mimic_scale=1, separate_feature_channels=False, interpolate_phi=0.3, variability="AD"
    ),
    "freeu": FreeU(
        version=2,
        stages=(
            FreeUStage(backbone_factor=1.1, skip_factor=0.9),
            FreeUStage(backbone_factor=1.2, skip_factor=0.2),
        ),
    ),
    "hires": Hires(scale=1.5, denoising_strength=0.7),
}


@dataclass
class ArticlePipelines:
    """diffusers' text-to-image and image-to-image pipelines for one checkpoint."""

    components: Components
    text_to_image: StableDiffusionPipeline
    image_to_image: StableDiffusionImg2ImgPipeline

    def render(self, probe: Probe) -> Tensor:
        """The image (3, H, W) in [0, 1] of a probe with the features of ARTICLE."""
        assert probe.hires is not None, "the article's probes have a second pass"
        factor = self.components.pixels_per_latent
        shape = (self.components.unet.config.in_channels, probe.height // factor, probe.width // factor)
        generator = torch.Generator("cpu").manual_seed(probe.seed)
        device = self.components.unet.device
        noise = torch.randn(shape, generator=generator)[None].to(device, self.components.unet.dtype)
        negative, positive = (self._encoded(text) for text in (probe.negative_prompt, probe.prompt))
        common = {"prompt_embeds": positive, "guidance_scale": 1.0}
        with self._guided(self.text_to_image, negative, probe, probe.steps):
            first = self.text_to_image(
                **common,
                latents=noise,
                height=probe.height,
                width=probe.width,
                num_inference_steps=probe.steps,
                output_type="latent",
            ).images
        larger = enlarge(first, Size(probe.width, probe.height), probe.hires, factor)
        steps = probe.hires.steps or probe.steps
        total = int(steps / probe.hires.denoising_strength)
        with self._guided(self.image_to_image, negative, probe, steps, earlier=probe.steps):
            images = self.image_to_image(
                **common,
                image=larger,
                strength=(steps + 0.5) / total,
                num_inference_steps=total,
                generator=torch.Generator("cpu").manual_seed(probe.seed),
                output_type="pt",
            ).images
        image: Tensor = images[0]
        return image

    def _encoded(self, text: str) -> Tensor:
        states, _ = self.text_to_image.encode_prompt(text, self.components.unet.device, 1, False)
        encoded: Tensor = states
        return encoded

    @contextmanager
    def _guided(
        self, pipeline: StableDiffusionPipeline, negative: Tensor, probe: Probe, steps: int, earlier: int = 0
    ) -> Iterator[None]:
        """The pipeline's UNet answers with guidance, thresholding and FreeU as `probe` wants them."""
        unet: Any = self.components.unet
        alone = unet.forward
        scale = torch.tensor([probe.cfg_scale], device=unet.device)
        ones = torch.ones(1, 1, device=unet.device)
        assert probe.thresholding is not None, "the article's probes are thresholded"
        thresholding = probe.thresholding
        step = 0

        def forward(scaled: Tensor, t: Tensor, encoder_hidden_states: Tensor, **_: Any) -> tuple[Tensor]:
            nonlocal step
            sigma = pipeline.scheduler.sigmas[pipeline.scheduler.step_index].to(scaled)
            spread = (sigma**2 + 1).sqrt()
            x = scaled * spread
            set_done((earlier + step) / steps)  # the extension counts on in the second pass
            texts = torch.cat([negative, encoder_hidden_states])
            answers = alone(scaled.repeat(2, 1, 1, 1), t, encoder_hidden_states=texts).sample
            if self.components.prediction_type == "epsilon":
                away, towards = (x - sigma * answers).chunk(2)
            else:
                away, towards = (x / spread**2 - sigma / spread * answers).chunk(2)
            guided = dynamic_thresholding(away, [towards], ones, scale, thresholding, step, steps)
            step += 1
            if self.components.prediction_type == "epsilon":
                return ((x - guided) / sigma,)
            return ((x / spread**2 - guided) * spread / sigma,)

        with freeu(unet, probe.freeu) as set_done:
            unet.forward = forward
            try:
                yield
            finally:
                del unet.forward


def article_pipelines(components: Components) -> ArticlePipelines:
    """diffusers' pipelines around the parts of a checkpoint."""
    config = components.scheduler_config
    scheduler = EulerDiscreteScheduler(
        beta_start=config["beta_start"],
        beta_end=config["beta_end"],
        beta_schedule=config["beta_schedule"],
        num_train_timesteps=config["num_train_timesteps"],
        prediction_type=components.prediction_type,
        timestep_spacing="linspace",
    )
    parts = {
        "vae": components.vae,
        "text_encoder": components.text_encoder,
        "tokenizer": components.tokenizer,
        "unet": components.unet,
        "scheduler": scheduler,
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    pipelines = StableDiffusionPipeline(**parts), StableDiffusionImg2ImgPipeline(**parts)
    for pipeline in pipelines:
        pipeline.set_progress_bar_config(disable=True)
    return ArticlePipelines(components, *pipelines)
