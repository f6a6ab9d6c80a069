"""The next node's files are found and read into the page cache."""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import sys
from pathlib import Path

import pytest

from service.catalog import Catalog
from service.db.states import NodeState
from service.db.store import Store
from service.jobs import JobRequest
from service.planning import validate_job
from service.prefetch import next_files, read_ahead
from service.settings import load_settings
from tests.tiny_models import job, write_models

NAMES = ("left", "right", "third", "fourth")


def cached_share(path: Path) -> float:
    """The share of a file's pages that lie in the page cache (mincore)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    first = ctypes.c_char.from_buffer(pages)
    there = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    libc = ctypes.CDLL(None, use_errno=True)
    address, length = ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size)
    assert libc.mincore(address, length, there) == 0, os.strerror(ctypes.get_errno())
    return sum(page & 1 for page in there) / len(there)


def drop(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is in the page cache")
def test_files_and_folders_are_read_into_the_page_cache(tmp_path: Path) -> None:
    model, folder = tmp_path / "model.safetensors", tmp_path / "folder"
    part = folder / "unet" / "weights.safetensors"
    part.parent.mkdir(parents=True)
    for path in (model, part):
        path.write_bytes(os.urandom(20_000_000))
        drop(path)
    if cached_share(model) > 0.1:
        pytest.skip("this file system keeps what it is told to drop")
    read_ahead([model, folder]).join()
    assert cached_share(model) == cached_share(part) == 1


def test_what_cannot_be_read_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"no model")
    with caplog.at_level(logging.INFO):
        read_ahead([tmp_path / "gone", model], Catalog(tmp_path)).join()
    assert "model.safetensors is not read ahead" in caplog.text


def test_a_catalog_has_inspected_what_was_read_ahead(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog(tiny_models)
    path = catalog.path("left")
    read_ahead([path], catalog).join()
    monkeypatch.setattr("service.catalog.inspect_checkpoint", None)  # may not be called again
    assert catalog.inspect_file(path).sha256 is not None


def test_the_next_files_are_those_of_the_first_merge_that_can_begin(
    tmp_path: Path, tiny_scorers: Path
) -> None:
    models = tmp_path / "models"
    write_models(models, NAMES)
    settings = load_settings(models_dir=models, scorers_dir=tiny_scorers, data_dir=tmp_path / "data")
    store, catalog = Store(settings.database_url), Catalog(models)
    request = JobRequest.model_validate(job(leaves=list(NAMES), bracket={"kind": "balanced"}, average=False))
    queued = store.create_job(validate_job(request, settings, catalog))
    merges = {node.name: node for node in store.nodes(queued.id)}
    first, second, final = sorted(merges.values(), key=lambda node: node.position)[:3]
    lease = store.lease_node("worker", 60)
    assert lease is not None
    assert lease.node_id == first.id
    inputs = [second.a_input, second.b_input]
    assert sorted(path.stem for path in next_files(store, catalog, store.node(first.id))) == sorted(
        str(name) for name in inputs
    )
    other = store.lease_node("another", 60)
    assert other is not None
    assert other.node_id == second.id
    # What is left waits for files that nobody has made.
    assert store.node(final.id).state is NodeState.WAITING
    assert next_files(store, catalog, store.node(first.id)) == []
    (models / f"{inputs[0]}.safetensors").unlink()
    store.release(other)
    assert [path.stem for path in next_files(store, catalog, store.node(first.id))] == [inputs[1]]
    store.close()
