"""What a recipe says of the checkpoints that went in."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from optimizer.checkpoints import inspect_checkpoint
from service.recipe_of import parent_of
from service.sources import Source
from tests.unit.optimizer.checkpoint_files import write_random


def test_a_parent_carries_both_hashes_and_its_own_recipe_as_it_was(tmp_path: Path) -> None:
    recipe = json.dumps({"type": "weighted-sum", "multiplier": 0.3})
    path = write_random(
        tmp_path / "cats.safetensors", 1, metadata={"sd_merge_recipe": recipe, "note": "mine"}
    )
    content = path.read_bytes()
    parent = parent_of(Source("cats", path, inspect_checkpoint(path)))
    assert parent.name == "cats"
    assert parent.sha256 == hashlib.sha256(content).hexdigest()
    assert parent.legacy_hash == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
    assert parent.metadata == {"sd_merge_recipe": recipe, "note": "mine"}
