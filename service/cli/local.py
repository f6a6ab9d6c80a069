"""Commands that need no service: models, inspect, run, worker."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from scoring.errors import InputError
from service.cli.live import follow
from service.cli.output import AsJson, console, print_json
from service.cli.plan import DryRun, show_plan
from service.cli.setup import Config
from service.cli.stopping import UntilGain, with_stop_rule
from service.cli.worker_processes import WorkerProcesses, run_until_told
from service.jobfile import read_job_file
from service.logs import configure_logging
from service.settings import Settings, load_settings

DATABASE_SECONDS = 1.0

# torch and diffusers take seconds to import: only the commands that compute may pay for them.
if TYPE_CHECKING:
    from optimizer.checkpoints import Inspection
    from service.db.store import Store
    from service.worker import Worker


def models(config: Config = None, as_json: AsJson = False) -> None:
    """List the models of the models folder."""
    from optimizer.checkpoints import size_of
    from service.catalog import Catalog

    settings = load_settings(config)
    catalog = Catalog(settings.models_dir)
    found = {name: size_of(catalog.path(name)) for name in catalog.names()}
    if as_json:
        print_json([{"name": name, "size": size} for name, size in found.items()])
        return
    table = Table("model", "MB", box=None)
    for name, size in found.items():
        table.add_row(name, f"{size / 1e6:.1f}")
    console.print(
        table if found else f"{settings.models_dir} holds no models yet; put .safetensors files there"
    )


def inspect(
    model: Annotated[str, typer.Argument(help="A file, or the name of a model of the models folder.")],
    config: Config = None,
    as_json: AsJson = False,
    detect: Annotated[
        bool, typer.Option("--detect-prediction", help="Find the prediction type by one step of the UNet.")
    ] = False,
) -> None:
    """Tell what a checkpoint is: architecture, prediction type, keys, NaN and Inf, hashes, recipe."""
    from optimizer.checkpoints import inspect_checkpoint, resolve_model

    # Who can type a path here can read the file anyway; a name means the models folder.
    path = Path(model) if Path(model).exists() else resolve_model(load_settings(config).models_dir, model)
    found = inspect_checkpoint(path)
    if detect:
        from optimizer.checkpoints.detection import detect_prediction

        told = detect_prediction(path)
        found = found.model_copy(
            update={
                "prediction_type": told.type,
                "prediction_known_by": told.known_by,
                "prediction_assumed": False,
            }
        )
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        console.print(_inspection_table(found))


def run(
    file: Annotated[Path, typer.Argument(help="A job file, YAML or JSON.")],
    config: Config = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    until_gain_per_hour: UntilGain = None,
) -> None:
    """Run a job here, without a service. Run again after an interruption, it goes on where it was."""
    from service.db.store import Store
    from service.worker import Worker, stop_on_signals

    settings = load_settings(config)
    configure_logging(settings, quiet=True)
    data = with_stop_rule(read_job_file(file), until_gain_per_hour)
    store = Store(settings.database_url)
    try:
        if dry_run:
            show_plan(_explained(data, file, settings, store), as_json)
            return
        worker = Worker(settings, store)
        job_id = _queue(data, file, settings, store, as_json)
        stop_on_signals(worker.stop)
        job = _work_and_show(worker, store, job_id, as_json)
    finally:
        store.close()
    raise typer.Exit(0 if job["state"] == "done" else 1)


def worker(
    config: Config = None,
    count: Annotated[
        int,
        typer.Option(
            min=1, help="How many, each in a process of its own; with several GPUs each takes the next one."
        ),
    ] = 1,
    parent: Annotated[int | None, typer.Option(hidden=True, help="Stop when this process is gone.")] = None,
) -> None:
    """Run a worker alone, or several, beside a service that shares its database."""
    from service.db.store import Store
    from service.worker import Worker, stop_on_signals

    settings = load_settings(config)
    configure_logging(settings)
    if count > 1:
        run_until_told(WorkerProcesses(config, settings, count))
        return
    store = Store(settings.database_url)
    working = Worker(settings, store, parent=parent)
    stop_on_signals(working.stop)
    working.run()
    store.close()


def _explained(data: dict[str, Any], file: Path, settings: Settings, store: Store) -> dict[str, Any]:
    from service.catalog import Catalog
    from service.explaining import explain_job
    from service.jobs import parse_request

    request = parse_request(data, str(file))
    catalog = Catalog(settings.models_dir)
    return explain_job(request, settings, catalog, store, local=True).model_dump(mode="json")


def _queue(data: dict[str, Any], file: Path, settings: Settings, store: Store, as_json: bool) -> str:
    from service.catalog import Catalog
    from service.jobs import parse_request
    from service.planning import validate_job

    request = parse_request(data, str(file))
    stored = request.model_dump(mode="json")
    unfinished = store.unfinished_job(stored)
    if unfinished is not None:
        if unfinished.state in ("failed", "paused"):
            store.retry_job(unfinished.id)
        if not as_json:
            console.print(f"going on with job {unfinished.id}, which asks for the same", highlight=False)
        return unfinished.id
    return store.create_job(validate_job(request, settings, Catalog(settings.models_dir), local=True)).id


def _work_and_show(worker: Worker, store: Store, job_id: str, as_json: bool) -> dict[str, Any]:
    """Work in a thread, show in this one: signals arrive here."""
    thread = threading.Thread(target=worker.run_job, args=(job_id,), name="worker")
    thread.start()

    def fetch() -> dict[str, Any]:
        progress = _progress(worker, store, job_id)
        if worker.stop.is_set() and progress["state"] not in ("done", "failed", "cancelled"):
            thread.join()
            progress["state"] = "paused"
        return progress

    try:
        return follow(fetch, as_json)
    finally:
        worker.stop.set()
        thread.join()


def _progress(worker: Worker, store: Store, job_id: str) -> dict[str, Any]:
    from sqlalchemy.exc import OperationalError

    from service.progress import job_progress

    while True:
        try:
            return job_progress(store, job_id).model_dump(mode="json")
        except OperationalError as error:
            # The worker waits for its database too, unless it was told to stop.
            if worker.stop.wait(DATABASE_SECONDS):
                raise InputError(f"the database does not answer: {error.args[0]}") from error


def _inspection_table(found: Inspection) -> Table:
    bad = found.bad_values or {}
    rows = {
        "file": found.name,
        "architecture": found.architecture,
        "prediction": f"{found.prediction_type} ({found.prediction_known_by})",
        "size": f"{found.size / 1e6:.1f} MB",
        "tensors": f"{found.tensors}, {found.parameters / 1e6:.1f} M parameters",
        "dtypes": ", ".join(f"{count} x {dtype}" for dtype, count in found.dtypes.items()),
        "EMA keys": "the UNet is one" if found.unet_from_ema else str(found.ema_keys),
        "missing keys": ", ".join(found.missing_keys[:5]) or "none",
        "extra keys": ", ".join(found.extra_keys[:5]) or "none",
        "NaN and Inf": ", ".join(f"{part}: {b.nan} NaN, {b.inf} Inf" for part, b in bad.items()) or "none",
        "sha256": f"{found.sha256} (short {found.short_hash})",
        "metadata": ", ".join(found.metadata) or "none",
    }
    table = Table(box=None, show_header=False)
    for name, value in rows.items():
        table.add_row(f"[dim]{name}", value)
    return table
