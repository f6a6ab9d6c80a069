"""The demo: a real merge of two zoo models, through the service and over HTTP, in some minutes.

Writes demo/result.json, demo/result.png (the same held-out probes by both parents, the uniform merge
and the winner) and leaves the merged checkpoint with its recipe in demo/data/outputs.
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
from PIL import Image, ImageDraw

from examples.emoji.assemble import assemble, assemble_reward

JOB = Path(__file__).parent / "job.yaml"
ROWS = ("a", "b", "uniform", "winner")
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
    """Print a line per new trial until the job ends; return its last state."""
    shown = -1
    while True:
        job: dict[str, Any] = client.get(f"/api/v1/jobs/{job_id}").raise_for_status().json()
        node = job["nodes"][0]
        if node["trials_done"] != shown and node["best"]:
            shown = node["trials_done"]
            gain = "" if node["gain"] is None else f"  gain {node['gain']:+.4f}"
            left = "" if node["eta_seconds"] is None else f"  {node['eta_seconds']:.0f} s left"
            best = f"best {node['best']['score']:.4f}"
            print(f"  trial {shown}/{node['trials_planned']}  {best}{gain}{left}", flush=True)
        if job["state"] in END_STATES:
            return job
        time.sleep(0.5)


def held_out_images(client: httpx.Client, job_id: str, which: str) -> list[Image.Image]:
    trials = client.get(f"/api/v1/jobs/{job_id}/trials", params={"kind": f"heldout_{which}"}).json()
    renders = client.get(f"/api/v1/jobs/{job_id}/trials/{trials[0]['id']}").json()["renders"]
    ordered = sorted(renders, key=lambda r: r["probe"])
    return [Image.open(io.BytesIO(client.get(r["image"]).content)) for r in ordered]


def picture(client: httpx.Client, job_id: str, prompts: list[str], seeds: int, out: Path) -> None:
    """One column per prompt (every other one, with its first seed), one row per model."""
    prompts = prompts[::2]
    cell, left, top = 96, 84, 16
    sheet = Image.new("RGB", (left + cell * len(prompts), top + cell * len(ROWS)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, prompt in enumerate(prompts):
        draw.text((left + column * cell + 2, 2), prompt.split(",")[0], fill="black")
    for row, which in enumerate(ROWS):
        draw.text((4, top + row * cell + cell // 2), which, fill="black")
        for column, image in enumerate(held_out_images(client, job_id, which)[:: 2 * seeds]):
            big = image.resize((cell, cell), Image.Resampling.LANCZOS)
            sheet.paste(big, (left + column * cell, top + row * cell))
    sheet.save(out)


def report(job: dict[str, Any], seconds: float) -> dict[str, Any]:
    node = job["nodes"][0]
    result: dict[str, Any] = {
        phase: {which: node["scores"][f"{phase}/{which}"] for which in ROWS}
        for phase in ("search", "heldout")
    }
    return result | {
        "checkpoint": node["checkpoint"]["path"],
        "trials": node["trials_done"],
        "seconds": round(seconds, 1),
    }


def print_result(result: dict[str, Any]) -> None:
    print(f"\n{'':9}{'search probes':>14}{'held-out probes':>17}")
    for which in ROWS:
        print(f"{which:9}{result['search'][which]:14.4f}{result['heldout'][which]:17.4f}")
    heldout = result["heldout"]
    for rival in ("a", "b", "uniform"):
        verdict = "beats" if heldout["winner"] > heldout[rival] else "does NOT beat"
        print(f"on held-out probes the winner {verdict} {rival} ({heldout['winner'] - heldout[rival]:+.4f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--trials", type=int, help="fewer trials than the job file says, for a quick look")
    args = parser.parse_args()
    out: Path = args.out.absolute()
    job = yaml.safe_load(JOB.read_text())
    job["search"]["trials"] = args.trials or job["search"]["trials"]
    shutil.rmtree(out, ignore_errors=True)
    print("assembling the emoji zoo", flush=True)
    names = [job[side].removeprefix("emoji-") for side in ("a", "b")]
    assemble(out / "models", names)
    assemble_reward(out / "scorers/emoji-clip")
    started = time.monotonic()
    with service(out) as client:
        print(f"service at {client.base_url}; submitting {JOB.name} over HTTP", flush=True)
        job_id = submit(client, job)
        ended = watch(client, job_id)
        if ended["state"] != "done":
            raise SystemExit(f"the job is {ended['state']}: {ended['nodes'][0]['reason']}")
        result = report(ended, time.monotonic() - started)
        recipe = client.get(f"/api/v1/jobs/{job_id}/recipe").raise_for_status().json()
        picture(client, job_id, job["heldout"]["prompts"], len(job["heldout"]["seeds"]), out / "result.png")
    (out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print_result(result)
    print(
        f"\ncheckpoint  {result['checkpoint']}\nrecipe      {out / 'recipe.json'} (and inside the checkpoint)"
    )
    print(f"pictures    {out / 'result.png'}\nfigures     {out / 'result.json'}")
    places = f"AUTOMBW_DATA_DIR={out / 'data'} AUTOMBW_MODELS_DIR={out / 'models'}"
    print(f"dashboard   {places} AUTOMBW_SCORERS_DIR={out / 'scorers'} autombw serve")


if __name__ == "__main__":
    main()
