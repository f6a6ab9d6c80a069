"""A search as an Optuna study in a SQLite file, for optuna-dashboard and every tool that reads studies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL

from optimizer.formats.trials_table import TrialRow, TrialTable
from scoring.errors import InputError


def write_study(path: Path, table: TrialTable) -> str:
    """Write the search trials of a node as a study; returns the study's name, job/node.

    Each block is a parameter of [0, 1], the score is maximised, failed trials are FAIL with their reason in
    the user attributes. The file appears whole or not at all. Raises InputError when it exists, when it can't
    be written, and when no search trial has ended.
    """
    if path.exists():
        raise InputError(f"{path} exists already; give another name or remove it")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: cannot be written: there is no folder {path.absolute().parent}")
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        storage = RDBStorage(storage_url(partial))
        try:
            name = create_study(storage, table)
        finally:
            storage.engine.dispose()
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return name


def create_study(storage: RDBStorage, table: TrialTable) -> str:
    """Make the study of `write_study` in a storage. Raises InputError when no search trial has ended."""
    trials = search_trials(table)
    if not trials:
        raise InputError(f"node {table.node} has no search trial that ended yet; wait for the first")
    study = optuna.create_study(storage=storage, study_name=_name(table), direction="maximize")
    for key in ("a", "b", "tally", "scorers"):
        study.set_user_attr(key, getattr(table, key))
    add_trials(storage, table, trials)
    return study.study_name


def add_trials(storage: RDBStorage, table: TrialTable, trials: Sequence[TrialRow]) -> None:
    """Add trials of a table to the study that was made of an earlier state of it."""
    space: dict[str, BaseDistribution] = {block: FloatDistribution(0.0, 1.0) for block in table.blocks}
    space |= {choice: CategoricalDistribution(tuple(options)) for choice, options in table.options.items()}
    study = optuna.load_study(storage=storage, study_name=_name(table))
    study.add_trials(_frozen(trial, space) for trial in trials)


def search_trials(table: TrialTable) -> list[TrialRow]:
    """The trials of a table that a study holds."""
    return [trial for trial in table.trials if trial.kind == "search"]


def storage_url(path: Path) -> str:
    """How Optuna names a SQLite file."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def _name(table: TrialTable) -> str:
    return f"{table.job}/{table.node}"


_STATES = {"done": TrialState.COMPLETE, "stopped": TrialState.PRUNED}


def _frozen(trial: TrialRow, space: dict[str, BaseDistribution]) -> FrozenTrial:
    params = {**trial.weights, **trial.choices}
    attributes: dict[str, Any] = {"number": trial.number, "seconds": trial.seconds}
    told = {"reason": trial.reason, "estimate": trial.estimate, "standard_error": trial.standard_error}
    attributes |= {name: value for name, value in told.items() if value is not None}
    return FrozenTrial(
        number=trial.number,
        trial_id=trial.number,
        state=_STATES.get(trial.state, TrialState.FAIL),
        value=trial.score,
        # Optuna shows and sorts by these; it keeps them without a time zone.
        datetime_start=_local(trial.began),
        datetime_complete=_local(trial.ended),
        params=params,
        distributions={name: space[name] for name in params},
        user_attrs=attributes,
        system_attrs={},
        intermediate_values={},
    )


def _local(time: datetime | None) -> datetime:
    return (time or datetime.now().astimezone()).astimezone().replace(tzinfo=None)
