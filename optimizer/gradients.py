"""The gradient of a UNet that lies flat by block, and the slopes of the block weights that follow from it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from optimizer.blocks import BlockWeights

# How many numbers are turned into float32 together, so that no copy of a block is made.
_AT_ONCE = 2**20


class BlockGradients:
    """What backward passes added up: by block, a flat gradient as its parameters lie, beside A and B.

    The merged parameters are W = (1 - alpha) A + alpha B, linear in alpha, so that by the chain rule
    d L / d alpha = <d L / d W, B - A> for every block.
    """

    def __init__(self, grads: Mapping[str, Tensor], a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
        self._grads, self._a, self._b = grads, a, b

    def clear(self) -> None:
        """Begin at 0 again."""
        for grad in self._grads.values():
            grad.zero_()

    @torch.no_grad()
    def slopes(self) -> BlockWeights:
        """d L / d alpha by block, summed in float32; not finite where the gradient is not."""
        return {block: self._slope(block) for block in self._grads}

    def _slope(self, block: str) -> float:
        parts = (torch.split(of[block], _AT_ONCE) for of in (self._grads, self._a, self._b))
        # B - A before the product: of models that are alike, <g, B> and <g, A> differ in their last digits.
        sums = [torch.dot(g.float(), b.float() - a.float()) for g, a, b in zip(*parts, strict=True)]
        return float(torch.stack(sums).sum())
