"""The contract's assertions tell what was compared, as those of test files do."""

import pytest

pytest.register_assert_rewrite(
    "tests.contract.store_contract", "tests.contract.concurrency_contract", "tests.contract.vote_contract"
)
