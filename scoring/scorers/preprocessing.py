"""Images made ready for a model: what open_clip and transformers do to a PIL image, on a batch of tensors and
differentiably.

Both resize 8-bit images and so round to 8 bits on the way; here nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from scoring.errors import InputError

# The numbers are those of PIL.Image.Resampling, which transformers writes into its files.
_RESAMPLING = {2: "bilinear", 3: "bicubic"}


def in_parts(images: Tensor, size: int, work: Callable[[Tensor], Tensor]) -> Tensor:
    """`work` on the images (N, …), `size` at a time; its results (n, …) one after the other."""
    return torch.cat([work(images[i : i + size]) for i in range(0, len(images), size)])


def as_open_clip(images: Tensor, config: Mapping[str, Any]) -> Tensor:
    """What open_clip's own transform does to a PIL image.

    images: (N, 3, H, W) in [0, 1]. config: open_clip's preprocess config (size, resize_mode, interpolation,
    mean, std, fill_color). Returns (N, 3, size, size), normalised.
    Raises InputError for a resize mode that open_clip does not have.
    """
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    resized = _fit(images, height, width, config)
    return _normalised(resized, config["mean"], config["std"])


def as_transformers(images: Tensor, processor: Any) -> Tensor:
    """What an image processor of transformers does to a PIL image: resize, crop in the centre, normalise.

    images: (N, 3, H, W) in [0, 1]. processor: one that does no more than that, as those of CLIP, ViT, BEiT
    and SigLIP. Returns (N, 3, height, width), normalised. Raises InputError for a way of resizing that has
    no counterpart on tensors.
    """
    if processor.do_resize:
        kind = _RESAMPLING.get(int(processor.resample))
        if kind is None:
            raise InputError(f"resampling {processor.resample} of the model's image processor is not known")
        images = _resize(images, *_resized_to(processor.size, *images.shape[-2:]), kind)
    if getattr(processor, "do_center_crop", None):
        images = _crop_as_transformers(images, processor.crop_size.height, processor.crop_size.width)
    images = images * (255 * processor.rescale_factor if processor.do_rescale else 255)
    if processor.do_normalize:
        images = _normalised(images, processor.image_mean, processor.image_std)
    return images


def _resized_to(size: Any, high: int, wide: int) -> tuple[int, int]:
    """The height and width after the resize that `size` asks for."""
    if size.height and size.width:
        return size.height, size.width
    if size.shortest_edge and not size.longest_edge:
        short = size.shortest_edge
        if wide <= high:
            return int(short * high / wide), short
        return short, int(short * wide / high)
    raise InputError(f"size {size} of the model's image processor is not known; wanted is a side or both")


def _crop_as_transformers(images: Tensor, height: int, width: int) -> Tensor:
    images = _padded(images, height, width, 0.0)
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]


def _fit(images: Tensor, height: int, width: int, config: Mapping[str, Any]) -> Tensor:
    mode, kind = config["resize_mode"], config["interpolation"]
    high, wide = images.shape[-2:]
    if mode == "squash":
        return _resize(images, height, width, kind)
    if mode not in ("shortest", "longest"):
        raise InputError(
            f"resize_mode {mode!r} of the CLIP model is unknown; give shortest, longest or squash"
        )
    ratios = (height / high, width / wide)
    scale = max(ratios) if mode == "shortest" else min(ratios)
    # torchvision truncates the longer side of "shortest", timm's "longest" rounds.
    whole = int if mode == "shortest" else round
    resized = _resize(images, max(1, whole(high * scale + 1e-6)), max(1, whole(wide * scale + 1e-6)), kind)
    return _crop_as_torchvision(resized, height, width, config.get("fill_color", 0) / 255)


def _resize(images: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    if images.shape[-2:] == (height, width):
        return images
    resized = interpolate(
        images,
        size=(height, width),
        mode="bilinear" if interpolation == "bilinear" else "bicubic",
        antialias=True,
        align_corners=False,
    )
    return resized.clamp(0, 1)


def _crop_as_torchvision(images: Tensor, height: int, width: int, fill: float) -> Tensor:
    images = _padded(images, height, width, fill)
    # as torchvision's center_crop: an odd remainder is rounded to even
    top, left = round((images.shape[-2] - height) / 2.0), round((images.shape[-1] - width) / 2.0)
    return images[..., top : top + height, left : left + width]


def _padded(images: Tensor, height: int, width: int, fill: float) -> Tensor:
    """`images` with `fill` around them where they are too small, an odd pixel on the right and below."""
    missing_y, missing_x = max(0, height - images.shape[-2]), max(0, width - images.shape[-1])
    if not missing_y and not missing_x:
        return images
    left, top = missing_x // 2, missing_y // 2
    return pad(images, (left, missing_x - left, top, missing_y - top), value=fill)


def _normalised(images: Tensor, mean: Any, std: Any) -> Tensor:
    centre, spread = (torch.tensor(value, device=images.device).view(-1, 1, 1) for value in (mean, std))
    return (images - centre) / spread
