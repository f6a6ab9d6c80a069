"""What is said of a result beside its numbers."""

from __future__ import annotations

from service.results import beside_blocks


def test_elements_of_one_weight_are_named_together() -> None:
    weights = {"IN01": 0.5, "IN01/attn2": 0.25, "IN02/attn2": 0.25, "M00/ff": 1.0}
    said = "text encoder muse; IN01/attn2, IN02/attn2 0.25; M00/ff 1"
    assert beside_blocks(weights, {"text_encoder": "muse"}) == said
    assert beside_blocks({"IN01": 0.5}, None) == ""
