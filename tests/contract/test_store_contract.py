"""Every database under the store keeps the contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service.db.store import Store
from tests.contract.concurrency_contract import ConcurrencyContract
from tests.contract.store_contract import StoreContract
from tests.contract.vote_contract import VoteContract
from tests.contract.worker_contract import WorkerContract


@pytest.fixture
def store(empty_url: str) -> Iterator[Store]:
    """An empty store; its test runs once on each kind of database."""
    store = Store(empty_url)
    yield store
    store.close()


class TestStore(StoreContract):
    """One client."""


class TestConcurrency(ConcurrencyContract):
    """Many clients at once."""


class TestVotes(VoteContract):
    """What people say."""


class TestWorkers(WorkerContract):
    """Workers and the gallery."""
