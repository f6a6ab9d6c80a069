from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_quiet_thread() -> Iterator[None]:
    """Small models are no faster with more threads, and much slower where something else runs too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers on configs without steps_offset
        yield
    torch.set_num_threads(threads)
