"""Maps and the Mantel test against points and matrices whose answer is known by hand."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

from optimizer.checkpoints import open_checkpoint, write_checkpoint
from optimizer.checkpoints.hashes import HashCache
from optimizer.component_recipes import component_metadata, describe
from optimizer.lineage import Known, parents_in
from optimizer.maps import Matrix, classical_mds, draw_map, mantel
from scoring.errors import InputError


def between(points: Matrix) -> Matrix:
    return np.asarray(np.linalg.norm(points[:, None] - points[None], axis=-1))


@pytest.mark.parametrize("count", [2, 3, 7])
def test_points_of_a_plane_come_back_up_to_rotation(count: int) -> None:
    points = np.random.default_rng(count).normal(size=(count, 2)) * [3, 1] + 5
    found = classical_mds(between(points))
    np.testing.assert_allclose(between(found.points), between(points), atol=1e-9)
    assert found.kept == pytest.approx(1.0)
    np.testing.assert_allclose(found.points.mean(axis=0), 0, atol=1e-9)
    # Procrustes: one rotation or reflection lays the one on the other.
    centred = points - points.mean(axis=0)
    u, _, v = np.linalg.svd(found.points.T @ centred)
    np.testing.assert_allclose(found.points @ (u @ v), centred, atol=1e-9)


def test_a_rectangle_by_hand() -> None:
    """Sides 4 and 2: the points are (±2, ±1) in the map's own axes."""
    diagonal = 20**0.5
    distances = np.array([[0, 4, diagonal, 2], [4, 0, 2, diagonal], [diagonal, 2, 0, 4], [2, diagonal, 4, 0]])
    found = np.abs(classical_mds(distances).points)
    np.testing.assert_allclose(found, [[2, 1]] * 4, atol=1e-9)


def test_what_two_dimensions_do_not_show_is_said() -> None:
    """The corners of a regular tetrahedron: three equal axes, of which two are shown."""
    found = classical_mds(np.ones((4, 4)) - np.eye(4))
    assert found.kept == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0, 1], [2, 0]], "is symmetric"),
        ([[1, 1], [1, 0]], "0 on its diagonal"),
        ([[0, -1], [-1, 0]], "finite distances from 0 up"),
        ([[0, float("nan")], [float("nan"), 0]], "finite distances"),
        ([[0, 1, 2]], "is square"),
        ([[0]], "two or more"),
    ],
)
def test_what_is_no_distance_matrix_is_refused(matrix: list[list[float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        classical_mds(np.array(matrix, dtype=float))


# --- Mantel ---


def symmetric(upper: list[float], count: int) -> Matrix:
    found = np.zeros((count, count))
    found[np.triu_indices(count, k=1)] = upper
    return found + found.T


def test_the_correlation_is_spearman_s_of_the_upper_triangles() -> None:
    generator = np.random.default_rng(1)
    a, b = (generator.integers(1, 6, 15).astype(float) for _ in range(2))
    found = mantel(symmetric(list(a), 6), symmetric(list(b), 6), 99)
    assert found.correlation == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_the_p_value_is_the_share_of_all_orders_that_reach_it() -> None:
    """Four things have 24 orders: all of them, against many drawn ones."""
    a, b = symmetric([1, 2, 3, 4, 5, 6], 4), symmetric([2, 5, 1, 4, 3, 6], 4)
    upper = np.triu_indices(4, k=1)
    observed = spearmanr(a[upper], b[upper]).statistic
    reached = [
        spearmanr(a[upper], b[np.ix_(order, order)][upper]).statistic >= observed - 1e-12
        for order in itertools.permutations(range(4))
    ]
    assert sum(reached) == 6
    found = mantel(a, b, 20_000, seed=3)
    assert found.p_value == pytest.approx(np.mean(reached), abs=0.01)
    assert mantel(a, b, 500, seed=3) == mantel(a, b, 500, seed=3)


def test_equal_matrices_agree_and_turned_ones_do_not() -> None:
    points = np.random.default_rng(4).normal(size=(9, 2))
    a = between(points)
    same, turned = mantel(a, a**2, 999), mantel(a, (a.max() + 1 - a) * (1 - np.eye(9)), 999)
    assert same.correlation == pytest.approx(1.0)
    assert same.p_value == 1 / 1000
    assert turned.correlation == pytest.approx(-1.0)
    assert turned.p_value == 1.0


def test_what_cannot_be_compared_is_refused() -> None:
    three, equal = between(np.arange(6.0).reshape(3, 2) ** 2), np.ones((3, 3)) - np.eye(3)
    with pytest.raises(InputError, match="3 and 2 things cannot be compared"):
        mantel(three, between(np.eye(2)))
    with pytest.raises(InputError, match="all distances of a matrix are equal"):
        mantel(three, equal)
    with pytest.raises(InputError, match="0 permutations tell nothing"):
        mantel(three, three, 0)


# --- the picture and its arrows ---


def test_the_map_is_drawn_with_an_arrow_for_each_parent(tmp_path: Path) -> None:
    found = classical_mds(between(np.array([[0.0, 0], [4, 0], [2, 3]])))
    plain, arrowed = tmp_path / "plain.png", tmp_path / "arrowed.png"
    draw_map(plain, found, ["a", "b", "c"])
    draw_map(arrowed, found, ["a", "b", "c"], [(0, 2), (1, 2)], title="three")
    with Image.open(plain) as one, Image.open(arrowed) as two:
        assert one.size == two.size
        assert min(one.size) > 800
        assert one.tobytes() != two.tobytes()
    with pytest.raises(InputError, match="cannot write the map"):
        draw_map(tmp_path / "gone" / "map.png", found, ["a", "b", "c"])


def test_parents_are_found_by_every_recipe(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    paths = [tmp_path / f"{name}.safetensors" for name in names]
    for number, path in enumerate(paths):
        write_checkpoint(path, {"model.diffusion_model.x": torch.full((3,), float(number))}, {})
    hashes = HashCache(None)
    known = [Known(path.name, hashes.sha256(path)) for path in paths]
    a1111 = {"type": "webui", "primary_model_hash": known[2].sha256, "secondary_model_hash": "0" * 64}
    mbwrt = {"modelA": "C:\\models\\B.safetensors", "modelB": "a", "type": "auto-mbw-rt"}
    average = {"parents": [{"name": "x", "sha256": known[1].sha256}], "name": "m", "architecture": "sd1",
               "prediction_type": "epsilon"}  # fmt: skip
    written = {
        "a1111": ({"sd_merge_recipe": json.dumps(a1111)}, (2,)),
        "mbwrt": ({"sd_mbwrt_recipe": json.dumps(mbwrt)}, (1, 0)),
        "average": ({"autombw_average": json.dumps(average)}, (1,)),
        "none": ({}, ()),
        "damaged": ({"sd_merge_recipe": "{", "autombw_components": "{"}, ()),
    }
    for name, (metadata, wanted) in written.items():
        write_checkpoint(tmp_path / f"{name}.out", {"x": torch.zeros(1)}, metadata)
        with open_checkpoint(tmp_path / f"{name}.out") as file:
            assert parents_in(file, known) == wanted, name


def test_parents_of_a_uniform_merge_of_many_are_all_found(tmp_path: Path) -> None:
    from tests.unit.optimizer.checkpoint_files import write_random

    paths = [write_random(tmp_path / f"{seed}.safetensors", seed) for seed in range(4)]
    hashes = HashCache(None)
    metadata = component_metadata(describe("uniform", "mean", {"unet": paths}, hashes))
    write_checkpoint(tmp_path / "mean.safetensors", {"x": torch.zeros(1)}, metadata)
    with open_checkpoint(tmp_path / "mean.safetensors") as file:
        known = [Known(path.name, hashes.sha256(path)) for path in paths]
        assert parents_in(file, known) == (0, 1, 2, 3)
