"""Sites over the tiny models."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.storms.outcome import Outcome
from tests.storms.site import Site

MakeSite = Callable[..., Site]
Undisturbed = Callable[[dict[str, Any]], Outcome]


@pytest.fixture
def make_site(tmp_path: Path, tiny_models: Path, tiny_scorers: Path) -> Iterator[MakeSite]:
    """make_site(name, **settings): an installation of its own over `left` and `right`."""
    with ExitStack() as sites:

        def make(name: str = "site", **changes: Any) -> Site:
            folders = {"models_dir": tiny_models, "scorers_dir": tiny_scorers} | changes
            return sites.enter_context(Site(tmp_path / name, **folders))

        yield make


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """An installation of its own over `left` and `right`."""
    return make_site()


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, tiny_models: Path, tiny_scorers: Path
) -> Undisturbed:
    """undisturbed(search): the outcome of the job with this search when nothing happens to it."""
    known: dict[str, Outcome] = {}

    def outcome(search: dict[str, Any]) -> Outcome:
        key = json.dumps(search, sort_keys=True)
        if key not in known:
            with Site(tmp_path_factory.mktemp("undisturbed"), tiny_models, tiny_scorers) as site:
                known[key] = site.run(search=search)
        return known[key]

    return outcome


@pytest.fixture(scope="session")
def four_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with `ann`, `bob`, `cat` and `dan`; beside it lies one of scorers. Read only."""
    from tests.storms.kill_storm import four_models

    return four_models(tmp_path_factory.mktemp("four"))
