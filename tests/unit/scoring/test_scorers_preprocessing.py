from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    BeitImageProcessor,
    CLIPImageProcessor,
    CLIPImageProcessorPil,
    SiglipImageProcessor,
    SiglipImageProcessorPil,
    ViTImageProcessor,
    ViTImageProcessorPil,
)

from scoring.errors import InputError
from scoring.rendering.images import to_pil
from scoring.scorers.preprocessing import as_transformers
from tests.unit.scoring.scorer_models import pictures

SQUARE = {"height": 16, "width": 16}


@pytest.mark.parametrize("size", [(24, 32), (33, 20), (16, 16), (8, 12), (100, 64)])
@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=SQUARE),
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=SQUARE),
        CLIPImageProcessor(size={"shortest_edge": 10}, crop_size={"height": 13, "width": 16}),
        ViTImageProcessor(size=SQUARE),
        ViTImageProcessorPil(size={"height": 12, "width": 20}, image_mean=[0.1, 0.2, 0.3]),
        BeitImageProcessor(size=SQUARE),
        BeitImageProcessor(size=SQUARE, do_center_crop=True, crop_size={"height": 9, "width": 12}),
        SiglipImageProcessor(size=SQUARE),
        SiglipImageProcessorPil(size=SQUARE),
        ViTImageProcessor(do_resize=False),
    ],
    ids=lambda processor: type(processor).__name__,
)
def test_preprocessing_is_that_of_transformers(processor: Any, size: tuple[int, int]) -> None:
    images = pictures(2, *size)
    ours = as_transformers(images, processor)
    theirs = torch.as_tensor(processor(images=to_pil(images), return_tensors="pt").pixel_values)
    assert ours.shape == theirs.shape
    # they round to 8 bits after each of the two passes of a resize
    rounding = 0 if not processor.do_resize or size == (processor.size.height, processor.size.width) else 2
    assert (ours - theirs).abs().max() <= rounding / 255 / min(processor.image_std) + 1e-5


def test_flags_of_a_processor_are_minded() -> None:
    images = pictures(1, 16, 16)
    raw = as_transformers(images, ViTImageProcessor(size=SQUARE, do_normalize=False, do_rescale=False))
    assert torch.allclose(raw, 255 * images)
    scaled = as_transformers(images, ViTImageProcessor(size=SQUARE, do_normalize=False))
    assert torch.allclose(scaled, images, atol=1e-6)


@pytest.mark.parametrize(
    ("processor", "said"),
    [
        (ViTImageProcessor(size=SQUARE, resample=1), "resampling 1 .* is not known"),
        (ViTImageProcessor(size={"shortest_edge": 8, "longest_edge": 20}), "size .* is not known"),
    ],
)
def test_a_way_of_resizing_without_a_counterpart_is_refused(processor: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        as_transformers(pictures(1), processor)
