"""Writing a checkpoint whole or not at all, and naming models in their folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from optimizer.checkpoints import Entry, list_models, resolve_model, write_checkpoint, write_streamed
from scoring.errors import InputError


def test_the_safetensors_library_reads_every_dtype_and_the_metadata(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3, 5).half(),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "brain": torch.randn(4).bfloat16(),
        "single": torch.randn(2, 2).T,
        "index": torch.arange(3),
        "scalar": torch.tensor(3.5),
        "none": torch.zeros(0, 4),
    }
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, tensors, {"sd_merge_recipe": '{"type": "ü"}'})
    back = load_file(path)
    assert all(
        torch.equal(back[key], tensors[key]) and back[key].dtype == tensors[key].dtype for key in tensors
    )
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"sd_merge_recipe": '{"type": "ü"}'}


def test_metadata_must_be_strings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="metadata 'steps' is int"):
        write_checkpoint(tmp_path / "x.safetensors", {}, {"steps": 3})  # type: ignore[dict-item]


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file or directory; make room or choose another folder"):
        write_checkpoint(tmp_path / "gone" / "x.safetensors", {"a": torch.zeros(1)}, {})


def test_when_making_a_tensor_fails_the_old_file_stays_and_nothing_is_left(tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    out.write_text("old")

    def produce(key: str) -> torch.Tensor:
        raise KeyError(key)

    with pytest.raises(KeyError):
        write_streamed(out, {"a": Entry(torch.float32, (1,))}, produce, {})
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


_WRITE = """
import sys, torch
from optimizer.checkpoints import write_checkpoint
from scoring.errors import InputError
{setup}
try:
    write_checkpoint(sys.argv[1], {{"a": torch.zeros(1_000_000)}}, {{}})
except InputError as error:
    print("refused:", error)
"""
_LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB; only root may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount a small disk here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_disk_full_leaves_the_old_file_and_nothing_else(full_disk: Path) -> None:
    _check_failed_write(full_disk, "", "No space left on device")


def test_a_file_size_limit_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    _check_failed_write(tmp_path, _LIMIT, "File too large")


def _check_failed_write(folder: Path, setup: str, reason: str) -> None:
    out = folder / "result.safetensors"
    out.write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", _WRITE.format(setup=setup), str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith(f"refused: cannot write {out} (4000"), done.stderr
    assert f"{reason}; make room" in done.stdout
    assert out.read_text() == "old"
    assert list(folder.iterdir()) == [out]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in (
        "a.safetensors",
        "sd-v1.5.safetensors",
        "old.ckpt",
        "notes.txt",
        ".hidden.safetensors.partial",
    ):
        (folder / name).write_text("x")
    (folder / "folder").mkdir()
    (tmp_path / "secret.safetensors").write_text("x")
    (folder / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    return folder


def test_models_are_listed_by_name(models: Path) -> None:
    assert list_models(models) == ["a", "link", "old.ckpt", "sd-v1.5"]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a", "a.safetensors"),
        ("a.safetensors", "a.safetensors"),
        ("sd-v1.5", "sd-v1.5.safetensors"),
        ("old.ckpt", "old.ckpt"),
    ],
)
def test_a_model_is_found_with_or_without_its_suffix(models: Path, name: str, file: str) -> None:
    assert resolve_model(models, name) == models / file


@pytest.mark.parametrize(
    "name",
    ["../secret", "..", "", ".hidden", "/etc/passwd", "folder/../../secret", "..\\secret", "C:secret", "a\0"],
)
def test_a_name_that_climbs_out_of_the_models_folder_is_refused(models: Path, name: str) -> None:
    with pytest.raises(InputError, match="is no model name"):
        resolve_model(models, name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sd-v15", "no model 'sd-v15' in the models folder"),
        ("link", "leads out of the models folder"),
        ("folder", "folder is a directory"),
        ("notes.txt", "models end in .safetensors or .ckpt"),
    ],
)
def test_what_is_no_model_is_refused(models: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_model(models, name)


def test_a_models_folder_that_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the models folder .* does not exist"):
        list_models(tmp_path / "gone")
