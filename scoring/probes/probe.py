"""A probe: one image that every trial renders, with everything that decides how it looks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from scoring.errors import InputError
from scoring.rendering.sampling import check_sampler, check_schedule, unless_usual
from scoring.rendering.upscalers import check_upscaler

MAX_SEED = 2**32 - 1


def _multiple_of_8(size: int) -> int:
    if size % 8:
        raise InputError(f"{size} is not a multiple of 8; take {max(8, round(size / 8) * 8)}")
    return size


Pixels = Annotated[int, Field(ge=0, le=16384), AfterValidator(_multiple_of_8)]
Side = Annotated[int, Field(gt=0, le=16384), AfterValidator(_multiple_of_8)]
# Reading nested brackets takes the square of their number.
Prompt = Annotated[str, Field(max_length=10_000)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Sampler = Annotated[str, AfterValidator(check_sampler)]
Schedule = Literal[
    "Automatic",
    "Uniform",
    "Karras",
    "Exponential",
    "Polyexponential",
    "SGM Uniform",
    "KL Optimal",
    "Align Your Steps",
    "Simple",
    "Normal",
    "DDIM",
    "Beta",
]


class _Value(BaseModel):
    """Frozen, hashable, strict: a probe is a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Sampled(_Value):
    """What has a sampler and a schedule: one that the sampler runs with anyway is kept as None."""

    @field_validator("schedule", check_fields=False)
    @classmethod
    def _usual_is_none(cls, schedule: str | None, info: ValidationInfo) -> str | None:
        sampler = info.data.get("sampler")
        return schedule if sampler is None else unless_usual(sampler, schedule)


class Hires(_Sampled):
    """A1111's hires fix: the finished latents are enlarged, noised again and denoised once more.

    upscaler: a name of A1111's. scale: of both sides, unless resize_x or resize_y (pixels, multiples of 8) is
    not 0: then that side is made so long and the other follows, or, where both are given, the image is
    enlarged to cover them and cropped. steps: of the second pass; 0 = those of the first.
    denoising_strength: 0..1, how much of the image is made anew. sampler, schedule, cfg_scale, prompt,
    negative_prompt: of the second pass; those of the first where None.
    """

    upscaler: Annotated[str, AfterValidator(check_upscaler)] = "Latent"
    scale: float = Field(default=2.0, ge=1, le=8, allow_inf_nan=False)
    resize_x: Pixels = 0
    resize_y: Pixels = 0
    steps: int = Field(default=0, ge=0, le=1000)
    denoising_strength: float = Field(default=0.7, ge=0, le=1, allow_inf_nan=False)
    sampler: Sampler | None = None
    schedule: Schedule | None = None
    cfg_scale: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    prompt: Prompt | None = None
    negative_prompt: Prompt | None = None


class FreeUStage(_Value):
    """What FreeU does at one width of the UNet's decoder; the names are those of A1111's extension.

    backbone_factor: of the backbone's features, in the share `backbone_width` (0..1) of its channels that
    begins at the share `backbone_offset`. skip_factor: of the skip features' low frequencies, those below the
    share `skip_cutoff`; skip_high_end_factor: of the others.
    """

    backbone_factor: Finite = 1.0
    skip_factor: Finite = 1.0
    backbone_offset: float = Field(default=0.0, ge=0, le=1)
    backbone_width: float = Field(default=0.5, ge=0, le=1)
    skip_cutoff: float = Field(default=0.0, ge=0, le=1)
    skip_high_end_factor: Finite = 1.0


class FreeU(_Value):
    """FreeU (Si et al. 2023), as A1111's extension does it.

    stages: the first one for the widest features of the decoder, the next for those of half the width, …
    version: 1 scales the backbone by its factor, 2 by its structure. start, stop: shares of the steps between
    which it acts; transition: 0..1, how smoothly it comes and goes.
    """

    stages: tuple[FreeUStage, ...] = Field(
        default=(
            FreeUStage(backbone_factor=1.2, skip_factor=0.9),
            FreeUStage(backbone_factor=1.4, skip_factor=0.2),
        ),
        max_length=3,
        strict=False,  # JSON has lists for tuples
    )
    version: Literal[1, 2] = 1
    start: float = Field(default=0.0, ge=0, le=1)
    stop: float = Field(default=1.0, ge=0, le=1)
    transition: float = Field(default=0.0, ge=0, le=1)


ScaleMode = Literal[
    "Constant",
    "Linear Down",
    "Cosine Down",
    "Half Cosine Down",
    "Linear Up",
    "Cosine Up",
    "Half Cosine Up",
    "Power Up",
    "Power Down",
    "Linear Repeating",
    "Cosine Repeating",
    "Sawtooth",
]


class DynamicThresholding(_Value):
    """Dynamic thresholding (CFG scale fix) of A1111: guidance that looks as if its scale were `mimic_scale`.

    threshold_percentile: 0..100, of the values that the maximum is taken over. mimic_mode, cfg_mode: how the
    two scales change over the steps, down to their minima; sched_value: what the mode is tuned by.
    separate_feature_channels: whether every latent channel is scaled alone. scaling_startpoint, variability:
    around what, and by what spread. interpolate_phi: 0..1, the share of the thresholded result.
    """

    mimic_scale: Finite = 7.0
    threshold_percentile: float = Field(default=100.0, ge=0, le=100)
    mimic_mode: ScaleMode = "Constant"
    mimic_scale_min: Finite = 0.0
    cfg_mode: ScaleMode = "Constant"
    cfg_scale_min: Finite = 0.0
    sched_value: Finite = 4.0
    separate_feature_channels: bool = True
    scaling_startpoint: Literal["MEAN", "ZERO"] = "MEAN"
    variability: Literal["AD", "STD"] = "AD"
    interpolate_phi: float = Field(default=1.0, ge=0, le=1)


class Probe(_Sampled):
    """One image to render.

    prompt, negative_prompt: at most 10,000 characters. seed: 0..2**32-1. sampler: a name of A1111's.
    schedule: its noise levels; None = those the sampler's name ends with, or uniform (naming
    these gives None); "Automatic" = those
    that A1111 since 1.9 chooses for the sampler. steps: 1..1000. cfg_scale: >= 0; 1 follows the prompt
    alone, 0 the negative prompt alone. width, height: pixels, multiples of 8. clip_skip: which layer of the
    text encoder is read, counted from the last, 1 = the last. rng: whose random numbers the noise is, those
    of torch on a CPU or on an Nvidia GPU (which A1111 calls NV or, where there is one, GPU); both are the
    same on every device. eta: how much noise samplers add on the way, the sampler's own where None. ensd:
    what A1111 adds to the seed for that noise. variation_strength: 0..1, how far the noise lies towards that
    of variation_seed. cfg_rescale: 0..1.
    """

    prompt: Prompt
    negative_prompt: Prompt = ""
    seed: int = Field(ge=0, le=MAX_SEED)
    sampler: Sampler = "DPM++ 2M Karras"
    schedule: Schedule | None = None
    steps: int = Field(default=20, ge=1, le=1000)
    cfg_scale: float = Field(default=7.0, ge=0, allow_inf_nan=False)
    width: Side = 512
    height: Side = 512
    clip_skip: int = Field(default=1, ge=1)
    rng: Literal["CPU", "NV"] = "CPU"
    eta: float | None = Field(default=None, ge=0, le=1)
    ensd: int = 0
    variation_seed: int = Field(default=0, ge=0, le=MAX_SEED)
    variation_strength: float = Field(default=0.0, ge=0, le=1)
    cfg_rescale: float = Field(default=0.0, ge=0, le=1)
    thresholding: DynamicThresholding | None = None
    freeu: FreeU | None = None
    hires: Hires | None = None

    @property
    def second_sampler(self) -> tuple[str, str | None]:
        """Sampler and schedule of a second pass: a sampler of its own brings its own schedule, unless that is
        named too."""
        own = self.hires or Hires()
        return own.sampler or self.sampler, own.schedule or (None if own.sampler else self.schedule)

    @model_validator(mode="after")
    def _second_schedule_fits_sampler(self) -> Probe:
        check_schedule(*self.second_sampler)
        return self
