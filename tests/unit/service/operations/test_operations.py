"""Metrics, readiness and logs of a real installation."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session

from service.api.app import create_app
from service.db.models import WorkerRow
from service.logs import JsonLines, TextLines, _put_fields, about
from service.operations.reasons import reason_class
from service.settings import load_settings


def test_reasons_come_in_few_classes() -> None:
    assert reason_class("probe 3 is black") == "black_image"
    assert reason_class("CUDA out of memory. Tried to allocate 2 GiB") == "memory"
    assert reason_class("the scorer clip failed") == "scorer"
    assert reason_class(None) == reason_class("x" * 999) == "other"


def _record(message: str) -> logging.LogRecord:
    record = logging.LogRecord("service.x", logging.INFO, __file__, 1, message, (), None)
    _put_fields(record)
    return record


def test_a_name_forges_no_line_of_the_log() -> None:
    line = TextLines().format(_record("model 'a\n2026-01-01 INFO root: all is well\x1b[2J'"))
    assert "\n" not in line
    assert "\x1b" not in line


def test_json_lines_have_the_ids_as_fields() -> None:
    with about(job="j1", node=4), about(trial=7):
        told = json.loads(JsonLines().format(_record("hello\nworld")))
    assert told["message"] == "hello\nworld"
    assert (told["job"], told["node"], told["trial"], told["level"]) == ("j1", 4, 7, "info")
    assert "job" not in json.loads(JsonLines().format(_record("later")))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    (tmp_path / "models").mkdir()
    settings = load_settings(models_dir=tmp_path / "models", data_dir=tmp_path / "data", reserve_mb=0)
    with TestClient(create_app(settings), base_url="http://localhost") as opened:
        yield opened


def _context(client: TestClient) -> Any:
    app: Any = client.app
    return app.state.context


def _beat(client: TestClient, at: float) -> None:
    row = WorkerRow(
        owner="here:1:a",
        host="here",
        pid=1,
        device="cuda:0",
        device_name="a GPU",
        memory_used=3,
        memory_total=8,
        started_at=at,
        heartbeat_at=at,
    )
    with Session(_context(client).store.engine) as session, session.begin():
        session.merge(row)


def test_readiness_tells_what_is_missing(client: TestClient) -> None:
    app: Any = client.app
    app.state.readiness._kept_seconds = 0.0
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert [each["what"] for each in answer.json()["missing"]] == ["worker"]
    _beat(client, time.time() - 3_600)
    assert "3600 s ago" in client.get("/readyz").json()["missing"][0]["detail"]
    _beat(client, time.time())
    assert client.get("/readyz").json() == {"ready": True, "missing": []}
    _context(client).settings.models_dir.rmdir()
    assert [each["what"] for each in client.get("/readyz").json()["missing"]] == ["models"]


def test_metrics_tell_of_workers_and_requests(client: TestClient) -> None:
    _beat(client, time.time())
    client.get("/api/v1/jobs")
    client.get("/api/v1/jobs/nobody")
    text = client.get("/metrics").text
    assert 'autombw_jobs{state="queued"} 0.0' in text
    assert "autombw_database_up 1.0" in text
    assert 'autombw_worker_memory_used_bytes{device="cuda:0",worker="here:1:a"} 3.0' in text
    assert 'autombw_http_answers_total{method="GET",route="/api/v1/jobs/{job_id}",status="404"} 1.0' in text
