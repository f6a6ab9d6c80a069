"""JSON columns are read fast, and also where what another tool wrote is no strict JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

from service.db.store import Store
from tests.contract.store_contract import new_job


def test_what_is_no_strict_json_is_read_too(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'db.sqlite3'}")
    try:
        job_id = store.create_job(new_job()).id
        with store.engine.begin() as connection:
            said = json.dumps({"epoch": math.nan, "title": "half a pair: \ud83d", "steps": 20})
            connection.exec_driver_sql("UPDATE jobs SET request = ?", (said,))
        found = store.job(job_id).request
        assert math.isnan(found.pop("epoch"))
        assert found == {"title": "half a pair: \ud83d", "steps": 20}
    finally:
        store.close()
