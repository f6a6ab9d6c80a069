"""The demo: a tree of real merges of zoo models, through the service and over HTTP, in some minutes.

In the middle it kills its own worker with SIGKILL, once, to show that nothing is lost. Writes
demo/result.json, demo/result.png (the same held-out probes by the leaves, their uniform merge and the
winner) and leaves every merged checkpoint with its recipe in demo/data/outputs.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from PIL import Image

from examples.emoji.assemble import assemble, assemble_reward
from optimizer.contact_sheet import contact_sheet
from service.api.views import Health

JOB = Path(__file__).parent / "job.yaml"
PHASES = ("search", "heldout")
COLUMNS = 12
END_STATES = {"done", "failed", "cancelled", "paused"}


@contextmanager
def service(folder: Path) -> Iterator[httpx.Client]:
    """`autombw serve` on a free port, with its data under `folder`; stopped at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    names = {"MODELS_DIR": "models", "SCORERS_DIR": "scorers", "DATA_DIR": "data"}
    places = {f"AUTOMBW_{key}": str(folder / name) for key, name in names.items()}
    # The pictures are small: larger batches keep two cores busier.
    places["AUTOMBW_MAX_BATCH"] = "48"
    command = [sys.executable, "-m", "service.cli", "serve", "--port", str(port)]
    with (folder / "service.log").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | places, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until_up(client, process, folder / "service.log")
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def wait_until_up(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        if process.poll() is not None:
            raise SystemExit(f"the service ended at once; its log says why: {log}\n{log.read_text()[-2000:]}")
        try:
            client.get("/healthz").raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.5)
        else:
            return
    raise SystemExit(f"the service did not answer in two minutes; see {log}")


def submit(client: httpx.Client, job: dict[str, Any]) -> str:
    answer = client.post("/api/v1/jobs", json=job)
    if answer.is_error:
        raise SystemExit(f"the job was refused: {answer.text}")
    return str(answer.json()["id"])


def watch(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """Print a line per new trial until the job ends, and kill the worker once; return the job's end."""
    shown: dict[str, int] = {}
    killed = False
    while True:
        job: dict[str, Any] = client.get(f"/api/v1/jobs/{job_id}").raise_for_status().json()
        for node in job["nodes"]:
            if node["trials_done"] != shown.get(node["name"], 0) and node["best"]:
                shown[node["name"]] = node["trials_done"]
                print_trial(node)
        if job["state"] in END_STATES:
            return job
        final = next(node for node in job["nodes"] if node["final"])
        if not killed and final["trials_done"] * 2 >= final["trials_planned"]:
            kill_worker(client)
            killed = True
        time.sleep(0.5)


def print_trial(node: dict[str, Any]) -> None:
    best = f"best {node['best']['score']:.4f}"
    gain = "" if node["gain"] is None else f"  gain {node['gain']:+.4f}"
    left = "" if node["eta_seconds"] is None else f"  {node['eta_seconds']:.0f} s left in this node"
    merged = "all leaves, uniform" if node["kind"] == "average" else f"{node['a']} + {node['b']}"
    trial = f"trial {node['trials_done']}/{node['trials_planned']}"
    print(f"  {node['name']:8} {merged:32} {trial:12} {best}{gain}{left}", flush=True)


def kill_worker(client: httpx.Client) -> None:
    """SIGKILL to the worker, in the middle of a trial; the service starts another, which goes on."""
    health = Health.model_validate(client.get("/healthz").raise_for_status().json())
    for worker in health.workers or []:
        os.kill(worker.process, signal.SIGKILL)
        print(f"  kill -9 of the worker (process {worker.process}): see that nothing is lost", flush=True)


def held_out_images(client: httpx.Client, job_id: str, node: str, kind: str) -> list[Image.Image]:
    """The newest renders of one held-out trial, by probe."""
    path = f"/api/v1/jobs/{job_id}/trials"
    trials = client.get(path, params={"kind": kind, "node": node}).json()
    renders = client.get(f"{path}/{trials[-1]['id']}").json()["renders"]
    ordered = sorted(renders, key=lambda r: r["probe"])
    return [Image.open(io.BytesIO(client.get(r["image"]).content)) for r in ordered]


def picture(client: httpx.Client, ended: dict[str, Any], job: dict[str, Any], out: Path) -> None:
    """One column per prompt (some of all kinds, with their first seed); leaves, uniform merge, winner."""
    sources: dict[str, tuple[str, str]] = {}
    for node in ended["nodes"]:
        if node["kind"] == "average":
            sources["uniform merge"] = (node["name"], "heldout_winner")
        for side in ("a", "b"):
            if node[side] in ended["leaves"]:
                sources[node[side].removeprefix("emoji-")] = (node["name"], f"heldout_{side}")
        if node["final"]:
            sources["winner"] = (node["name"], "heldout_winner")
    order = [*(leaf.removeprefix("emoji-") for leaf in ended["leaves"]), "uniform merge", "winner"]
    prompts, seeds = job["heldout"]["prompts"], len(job["heldout"]["seeds"])
    step = max(1, len(prompts) // COLUMNS)
    rows = {name: held_out_images(client, ended["id"], *sources[name])[:: step * seeds] for name in order}
    prompts = [prompt.split(",")[0] for prompt in prompts[::step]]
    contact_sheet(rows, prompts, cell=96).save(out)


def report(ended: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The figures of demo/result.json; `a` and `b` are the two best leaves on the held-out probes."""
    result = ended["result"]
    leaves = sorted(result["leaves"], key=lambda leaf: -result["leaves"][leaf]["heldout"])
    rows = {
        "a": result["leaves"][leaves[0]],
        "b": result["leaves"][leaves[1]],
        "uniform": result["average"],
        "winner": result["winner"],
    }
    final = next(node for node in ended["nodes"] if node["final"])
    figures: dict[str, Any] = {phase: {name: rows[name][phase] for name in rows} for phase in PHASES}
    return figures | {
        "leaves": result["leaves"],
        "checkpoint": final["checkpoint"]["path"],
        "trials": sum(node["trials_done"] for node in ended["nodes"]),
        "seconds": round(seconds, 1),
        "nodes": [
            {name: node[name] for name in ("name", "kind", "level", "a", "b", "output", "trials_done")}
            | {"scores": node["scores"], "gain": node["gain"], "heldout_gain": node["heldout_gain"]}
            for node in ended["nodes"]
        ],
    }


def print_tree(ended: dict[str, Any]) -> None:
    """Every node below the one that takes its output, with what it gained over its own parents."""
    merges = {node["name"]: node for node in ended["nodes"] if node["kind"] == "merge"}

    def show(name: str, depth: int) -> None:
        indent = "   " * depth
        if name not in merges:
            scores = ended["result"]["leaves"][name]
            print(f"{indent + name:38} {scores['search']:8.4f} {scores['heldout']:9.4f}")
            return
        node = merges[name]
        scores = node["scores"]
        gains = f"{node['gain']:+8.4f} {node['heldout_gain']:+9.4f}"
        label = f"{indent}{name} -> {node['output']}"
        print(f"{label:38} {scores['search/winner']:8.4f} {scores['heldout/winner']:9.4f}  {gains}")
        show(node["a"], depth + 1)
        show(node["b"], depth + 1)

    print(f"\n{'tree':38} {'search':>8} {'held-out':>9}  {'gain':>8} {'held-out':>9}")
    show(next(name for name, node in merges.items() if node["final"]), 0)
    average = ended["result"]["average"]
    print(f"{'uniform merge of all leaves':38} {average['search']:8.4f} {average['heldout']:9.4f}")


def print_verdicts(result: dict[str, Any]) -> None:
    print()
    heldout = result["heldout"]
    for rival, what in (("a", "the best leaf"), ("uniform", "the uniform merge of all leaves")):
        verdict = "beats" if heldout["winner"] > heldout[rival] else "does NOT beat"
        print(f"on held-out probes the winner {verdict} {what} ({heldout['winner'] - heldout[rival]:+.4f})")


def make_quick(job: dict[str, Any]) -> None:
    job["search"]["trials"] = 5
    job.pop("nodes")
    for probes in (job["probes"], job["heldout"]):
        probes["prompts"], probes["seeds"] = probes["prompts"][::4], probes["seeds"][:1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--quick", action="store_true", help="few trials on few probes: only to see it work")
    args = parser.parse_args()
    out: Path = args.out.absolute()
    job = yaml.safe_load(JOB.read_text())
    if args.quick:
        make_quick(job)
    shutil.rmtree(out, ignore_errors=True)
    print("assembling the emoji zoo", flush=True)
    assemble(out / "models", [leaf.removeprefix("emoji-") for leaf in job["leaves"]])
    assemble_reward(out / "scorers/emoji-clip")
    started = time.monotonic()
    with service(out) as client:
        print(f"service at {client.base_url}; submitting {JOB.name} over HTTP", flush=True)
        job_id = submit(client, job)
        ended = watch(client, job_id)
        if ended["state"] != "done":
            reasons = "; ".join(node["reason"] for node in ended["nodes"] if node["reason"])
            raise SystemExit(f"the job is {ended['state']}: {reasons}")
        result = report(ended, time.monotonic() - started)
        recipe = client.get(f"/api/v1/jobs/{job_id}/recipe").raise_for_status().json()
        picture(client, ended, job, out / "result.png")
    (out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print_tree(ended)
    print_verdicts(result)
    print(
        f"\ncheckpoint  {result['checkpoint']}\nrecipe      {out / 'recipe.json'} (and inside the checkpoint)"
    )
    print(f"pictures    {out / 'result.png'}\nfigures     {out / 'result.json'}")
    places = f"AUTOMBW_DATA_DIR={out / 'data'} AUTOMBW_MODELS_DIR={out / 'models'}"
    print(f"dashboard   {places} AUTOMBW_SCORERS_DIR={out / 'scorers'} autombw serve")


if __name__ == "__main__":
    main()
