"""Jobs that people judge, and a person who votes on them."""

from __future__ import annotations

from typing import Any

import httpx
from fastapi.testclient import TestClient

from tests.tiny_models import job

HUMAN = {"scorer": "human"}


def voted(**changes: Any) -> dict[str, Any]:
    """A job of five trials in rounds of four, which need three votes each."""
    votes = {"trials": 4, "votes": 3, "heldout": 2}
    search = {"sampler": "random", "trials": 5, "seed": 1}
    return job(**{"scorers": [HUMAN], "votes": votes, "search": search, "watch": [], **changes})


def submit(client: TestClient | httpx.Client, request: dict[str, Any]) -> str:
    """Queue it over HTTP; its id."""
    response = client.post("/api/v1/jobs", json=request)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def vote(client: TestClient | httpx.Client, base: str, *, voter: str = "anna") -> dict[str, Any]:
    """Compare the next pair: the image whose hash comes first is the better one."""
    (pair,) = client.get(f"{base}/next", params={"voter": voter}).json()["pairs"]
    body = {name: pair[name] for name in ("key", "probe", "left", "right")}
    outcome = "left" if pair["left"] < pair["right"] else "right"
    response = client.post(base, json={**body, "outcome": outcome, "voter": voter})
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    return found
