"""The command as people type it, in processes of their own, against a service under uvicorn."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import httpx
import pytest

from tests.integration.conftest import Cli, free_port, healthy, wait_until
from tests.tiny_models import job, write_models

pytestmark = pytest.mark.slow


def test_a_job_file_is_submitted_watched_and_shown(cli: Cli) -> None:
    port = free_port()
    server = f"http://127.0.0.1:{port}"
    cli.start("serve", "--port", str(port))
    wait_until(lambda: healthy(server), "the service")

    submitted = cli.run("submit", cli.job_file(job()), "--server", server, "--json")
    assert submitted.returncode == 0, submitted.stderr
    job_id = json.loads(submitted.stdout)["id"]
    watched = cli.run("watch", job_id, "--server", server, "--json")
    assert watched.returncode == 0, watched.stderr
    states = [json.loads(line)["state"] for line in watched.stdout.splitlines()]
    assert states[-1] == "done"

    listed = json.loads(cli.run("status", "--server", server, "--json").stdout)
    assert [(found["id"], found["state"]) for found in listed] == [(job_id, "done")]
    shown = cli.run("status", job_id, "--server", server).stdout
    assert "all 4 trials are done" in shown
    assert "heldout" in shown

    bad = cli.run("submit", cli.job_file(job(leaves=["missing", "right"])), "--server", server)
    assert bad.returncode == 2
    assert bad.stderr.startswith("autombw: leaf 'missing': no model 'missing'"), bad.stderr
    again = cli.run("retry", job_id, "--server", server)
    assert (again.returncode, "nothing to retry" in again.stderr) == (2, True)


def test_nodes_of_one_level_run_at_once_on_two_workers(cli: Cli, tmp_path: Path) -> None:
    names = ["ann", "bob", "cat", "dan"]
    write_models(tmp_path / "four", tuple(names))
    cli.environment["AUTOMBW_MODELS_DIR"] = str(tmp_path / "four")
    port = free_port()
    server = f"http://127.0.0.1:{port}"
    cli.start("serve", "--port", str(port), "--workers", "2")
    wait_until(lambda: healthy(server), "the service")
    search = {"sampler": "random", "trials": 12}
    file = cli.job_file(job(leaves=names, search=search, average=False))
    job_id = json.loads(cli.run("submit", file, "--server", server, "--json").stdout)["id"]
    assert cli.run("watch", job_id, "--server", server, "--json").returncode == 0

    text = httpx.get(f"{server}/api/v1/jobs/{job_id}/events").text
    data = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data")]
    taken = {e["data"]["node"]: (e["id"], e["data"]["owner"]) for e in data if e["kind"] == "lease.taken"}
    done = {e["data"]["node"]: e["id"] for e in data if e["data"].get("to") == "done" and "node" in e["data"]}
    assert taken["01b"][1] != taken["02b"][1]
    assert taken["02b"][0] < done["01b"], "the second began before the first was done"
    assert taken["03b"][0] > max(done["01b"], done["02b"])
    shown = cli.run("status", job_id, "--server", server).stdout
    assert "01b" in shown
    assert "gain" in shown


def test_a_job_runs_without_a_service_and_goes_on_when_run_again(cli: Cli) -> None:
    file = cli.job_file(job(heldout=None, search={"sampler": "random", "trials": 2}))
    ran = cli.run("run", file, "--json")
    assert ran.returncode == 0, ran.stderr
    node = json.loads(ran.stdout.splitlines()[-1])["nodes"][0]
    assert Path(node["checkpoint"]["path"]).is_file()
    inspected = cli.run("inspect", node["checkpoint"]["path"], "--json")
    assert json.loads(inspected.stdout)["sha256"] == node["checkpoint"]["sha256"]
    again = cli.run("run", file)
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_models_are_named(cli: Cli) -> None:
    assert [model["name"] for model in json.loads(cli.run("models", "--json").stdout)] == ["left", "right"]
    assert "v_prediction" in cli.run("inspect", "left").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "none.yaml"), "none.yaml: no such file"),
        (("run", "."), "is a directory"),
        (("run", "list.yaml"), "a job file holds names and values"),
        (("run", "empty.yaml"), "name: Field required"),
        (("inspect", "nothing"), "no model 'nothing'"),
        (("models", "--settings", "none.toml"), "none.toml does not exist"),
    ],
)
def test_wrong_input_ends_with_code_2_and_one_line(arguments: tuple[str, ...], words: str, cli: Cli) -> None:
    (cli.folder / "list.yaml").write_text("[1, 2]")
    (cli.folder / "empty.yaml").write_text("{}")
    ended = cli.run(*arguments)
    assert ended.returncode == 2, ended.stderr
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_in_use_is_named(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = cli.run("serve", "--port", str(port))
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr


def test_no_service_is_said(cli: Cli) -> None:
    ended = cli.run("status", "--server", f"http://127.0.0.1:{free_port()}")
    assert ended.returncode == 1
    assert "start one with `autombw serve`" in ended.stderr
