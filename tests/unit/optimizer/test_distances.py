"""Distances between UNets against what numpy says of the whole vectors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

import optimizer.distances
from optimizer.blocks import BLOCKS, block_of
from optimizer.bracket import seeded_by_distance
from optimizer.checkpoints import expected_tensors
from optimizer.distances import distances_between, unet_distances
from scoring.errors import InputError
from tests.unit.optimizer.checkpoint_files import random_tensors, write_header_only, write_random

UNET = expected_tensors("emoji").unet
# A bias of four numbers, the last tensor of the UNet.
ONE_WEIGHT = "model.diffusion_model.out.2.bias"


def whole_unet(path: Path) -> NDArray[np.float64]:
    tensors = load_file(path)
    return np.concatenate([tensors[key].double().flatten().numpy() for key in UNET])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_distances_are_the_norms_of_the_differences(dtype: torch.dtype, tmp_path: Path) -> None:
    paths = [write_random(tmp_path / f"{seed}.safetensors", seed, dtype) for seed in range(3)]
    found = unet_distances(paths)
    vectors = [whole_unet(path) for path in paths]
    naive = np.array([[np.linalg.norm(x - y) for x in vectors] for y in vectors])
    np.testing.assert_allclose(found, naive, rtol=1e-12)
    assert np.array_equal(found, found.T)
    assert np.array_equal(np.diag(found), np.zeros(3))


def test_near_identical_models_are_told_apart_exactly(tmp_path: Path) -> None:
    """Out of a matrix of products, whose entries are near 14,000, a square of 1e-14 could not be read."""
    near = random_tensors(1)[ONE_WEIGHT].clone()
    near[0] += 1e-7
    a = write_random(tmp_path / "a.safetensors", 1)
    b = write_random(tmp_path / "b.safetensors", 1, changes={ONE_WEIGHT: near})
    step = float(near[0].double() - random_tensors(1)[ONE_WEIGHT][0].double())
    assert unet_distances([a, b, a])[0].tolist() == [0.0, pytest.approx(step, rel=1e-12), 0.0]


def test_only_the_unet_counts_and_dtypes_may_differ(tmp_path: Path) -> None:
    halves = {key: tensor.half() for key, tensor in random_tensors(1).items()}
    changes = {key: tensor if key in UNET else tensor + 1 for key, tensor in halves.items()}
    a = write_random(tmp_path / "a.safetensors", 1, torch.float16)
    b = write_random(tmp_path / "b.safetensors", 1, changes={k: t.float() for k, t in changes.items()})
    assert unet_distances([a, b]).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_they_seed_a_bracket(tmp_path: Path) -> None:
    """Two families: a and c, b and d."""
    changed = random_tensors(1)[ONE_WEIGHT] + 1e-4
    paths = [
        write_random(tmp_path / "a.safetensors", 1),
        write_random(tmp_path / "b.safetensors", 2),
        write_random(tmp_path / "c.safetensors", 1, changes={ONE_WEIGHT: changed}),
        write_random(tmp_path / "d.safetensors", 2, changes={ONE_WEIGHT: changed}),
    ]
    assert seeded_by_distance("abcd", unet_distances(paths)) == ("a", "c", "b", "d")


def test_mixed_architectures_are_refused_and_both_named(tmp_path: Path) -> None:
    small = write_random(tmp_path / "small.safetensors", 1)
    big = write_header_only(tmp_path / "big.safetensors", "sd1")
    with pytest.raises(InputError, match=r"small\.safetensors is the emoji zoo and big\.safetensors is SD1"):
        unet_distances([small, big])


def test_one_file_has_no_distance(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two or more checkpoints are needed, not 1"):
        unet_distances([write_random(tmp_path / "a.safetensors", 1)])


# --- by block and component, cached ---


def whole(path: Path, keys: Iterable[str]) -> NDArray[np.float64]:
    tensors = load_file(path)
    return np.concatenate([tensors[key].double().flatten().numpy() for key in keys])


def parts_of_the_zoo() -> dict[str, list[str]]:
    expected = expected_tensors("emoji")
    blocks: dict[str, list[str]] = {block: [] for block in BLOCKS}
    for key in expected.unet:
        blocks[str(block_of(key))].append(key)
    return {
        **blocks,
        "unet": list(expected.unet),
        "text_encoder": list(expected.text),
        "vae": list(expected.vae),
    }


def test_l2_and_cosine_of_every_part_are_numpy_s(tmp_path: Path) -> None:
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    paths = [write_random(tmp_path / f"{n}.safetensors", n, dtype) for n, dtype in enumerate(dtypes)]
    found = distances_between(paths)
    parts = parts_of_the_zoo()
    assert found.parts() == tuple(parts)
    for part, keys in parts.items():
        x, y, z = (whole(path, keys) for path in paths)
        l2, cosine = found.l2(part), found.cosine(part)
        assert l2[0, 1] == pytest.approx(np.linalg.norm(x - y), rel=1e-12), part
        assert l2[2, 1] == pytest.approx(np.linalg.norm(y - z), rel=1e-12), part
        assert cosine[0, 2] == pytest.approx(x @ z / np.linalg.norm(x) / np.linalg.norm(z), rel=1e-9), part
        assert (np.diag(l2).tolist(), np.diag(cosine).tolist()) == ([0.0] * 3, [1.0] * 3)
        assert np.array_equal(l2, l2.T)


def test_a_pair_is_computed_once_and_read_in_either_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = (write_random(tmp_path / f"{seed}.safetensors", seed) for seed in range(3))
    fresh, cache = distances_between([a, b, c]), tmp_path / "cache"
    distances_between([a, b], cache)
    assert len(list((cache / "distances").iterdir())) == 1
    compared: list[object] = []
    real = optimizer.distances._compare

    def noted(*args: Any, **named: Any) -> Any:
        compared.append(args[2])
        return real(*args, **named)

    monkeypatch.setattr(optimizer.distances, "_compare", noted)
    turned = distances_between([b, a, c], cache)
    assert compared == [[(0, 2), (1, 2)]]
    again = distances_between([b, a, c], cache)
    assert compared[1] == []
    for part in fresh.parts():
        order = np.ix_([1, 0, 2], [1, 0, 2])
        for found in (turned, again):
            np.testing.assert_allclose(found.l2(part), fresh.l2(part)[order], rtol=1e-12)
            np.testing.assert_allclose(found.cosine(part), fresh.cosine(part)[order], rtol=1e-12)


@pytest.mark.parametrize(
    "damage", ["", "{", '{"version": 0, "parts": {}}', '{"version": 1, "parts": {"OUT": [1]}}']
)
def test_a_damaged_cache_is_as_good_as_none(tmp_path: Path, damage: str) -> None:
    paths = [write_random(tmp_path / f"{seed}.safetensors", seed) for seed in range(2)]
    wanted = distances_between(paths, tmp_path / "cache").l2("unet")
    (file,) = (tmp_path / "cache" / "distances").iterdir()
    file.write_text(damage)
    assert np.array_equal(distances_between(paths, tmp_path / "cache").l2("unet"), wanted)


def test_it_tells_how_far_it_is(tmp_path: Path) -> None:
    paths = [write_random(tmp_path / f"{seed}.safetensors", seed) for seed in range(2)]
    told: list[tuple[str, float]] = []
    distances_between(paths, tmp_path / "cache", lambda words, share: told.append((words, share)))
    assert told[:2] == [("hashes the files", 0.0), ("hashes the files", 0.5)]
    shares = [share for words, share in told if words == "compares the weights"]
    assert shares == sorted(set(shares))
    assert (len(shares), shares[0]) == (len(BLOCKS) + 2, 0.0)


def test_a_part_that_a_file_lacks_is_left_out_and_said(tmp_path: Path) -> None:
    no_vae = dict.fromkeys(expected_tensors("emoji").vae)
    paths = [
        write_random(tmp_path / "a.safetensors", 1),
        write_random(tmp_path / "b.safetensors", 2, changes=no_vae),
    ]
    found = distances_between(paths)
    assert found.parts()[-2:] == ("unet", "text_encoder")
    with pytest.raises(InputError, match="no distance in 'vae'; there are IN00"):
        found.l2("vae")
