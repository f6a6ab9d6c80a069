"""Requests of all kinds that the OpenAPI description allows, and of those that it does not.

No answer is a server error, and every answer is as described.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.access.roles import Role
from service.settings import Settings
from service.worker import Worker
from tests.integration.services import Running, running
from tests.tiny_models import job

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
ENDLESS = r".*/events$"
"""Ends with the job only; the client's tests follow it."""
_served: dict[str, Any] = {}


@pytest.fixture(scope="module")
def service(tiny_settings: Callable[..., Settings]) -> Iterator[Running]:
    """A service with a job that is done and one that is queued."""
    installed = tiny_settings(request_rate=0)
    with running(installed, tokens=True) as service:
        for output in ("done", "queued"):
            made = httpx.post(
                f"{service.url}/api/v1/jobs", json=job(output=output), headers=service.bearer(Role.ADMIN)
            )
            _served[output] = made.json()["id"]
        Worker(installed, service.store).run_job(_served["done"])
        best = service.store.best_trial(service.store.nodes(_served["done"])[0].id)
        assert best is not None
        _served["trial"] = best.id
        _served["image"] = service.store.renders(best.id)[0].sha256
        yield service


@pytest.mark.parametrize("examples", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_nothing_that_is_asked_is_a_server_error(service: Running, examples: int) -> None:
    bearer = service.bearer(Role.ADMIN)
    described = schemathesis.openapi.from_url(f"{service.url}/openapi.json", headers=bearer)
    asked = set()
    for found in described.exclude(path_regex=ENDLESS).get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        for mode in schemathesis.GenerationMode:
            asked.add(operation.label)
            # Where everything is allowed, there is nothing wrong to ask.
            with suppress(Unsatisfiable):
                _ask(operation.as_strategy(generation_mode=mode), bearer, examples)
    assert len(asked) > 30, "the description misses routes"


def _ask(cases: SearchStrategy[schemathesis.Case], bearer: dict[str, str], examples: int) -> None:
    @given(case=cases)
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    def ask(case: schemathesis.Case) -> None:
        for parameters in (case.path_parameters, named(case)):
            case.path_parameters = parameters
            # Not to be ready is what it says with 503.
            checks = CHECKS[1:] if case.path == "/readyz" else CHECKS
            case.call_and_validate(headers=bearer, checks=list(checks), timeout=60)

    ask()


def named(case: schemathesis.Case) -> dict[str, Any]:
    """The same request of something that is there."""
    there = {
        "job_id": _served["done" if len(str(case.body)) % 2 else "queued"],
        "trial_id": _served["trial"],
        "node": "01b",
        "sha256": _served["image"],
    }
    # Not the token that asks.
    there |= {"name": "left"} if "/models/" in case.path else {}
    return {name: there.get(name, value) for name, value in (case.path_parameters or {}).items()}
