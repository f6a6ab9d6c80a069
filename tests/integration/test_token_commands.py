"""The commands of tokens, and a service that a network reaches only with one."""

from __future__ import annotations

import json

import pytest

from tests.integration.conftest import Cli, free_port, healthy, wait_until
from tests.tiny_models import job


@pytest.mark.slow
def test_a_network_is_served_only_with_a_token_which_the_commands_show(cli: Cli) -> None:
    port = str(free_port())
    refused = cli.run("serve", "--host", "0.0.0.0", "--port", port)
    assert refused.returncode == 2
    assert "autombw token create --role admin --name NAME" in refused.stderr
    made = cli.run("token", "create", "--role", "submitter", "--name", "anna", "--expires", "2d")
    token = made.stdout.strip()
    assert token.startswith("ambw_")
    assert "not shown again" in made.stderr
    assert cli.run("token", "create", "--role", "viewer", "--name", "x", "--expires", "soon").returncode == 2

    cli.start("serve", "--host", "0.0.0.0", "--port", port, "--workers", "0")
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: healthy(url), "the service")
    stranger = cli.run("status", "--url", url)
    assert stranger.returncode == 2
    assert "show a token" in stranger.stderr
    cli.environment |= {"AUTOMBW_TOKEN": token, "AUTOMBW_URL": url}
    submitted = json.loads(cli.run("submit", cli.job_file(job()), "--json").stdout)
    assert cli.run("cancel", submitted["id"]).stdout.strip() == f"job {submitted['id']} is cancelled"

    assert token.rsplit("_", 1)[1] not in cli.run("token", "list").stdout
    (listed,) = json.loads(cli.run("token", "list", "--json").stdout)
    assert (listed["name"], listed["role"]) == ("anna", "submitter")
    assert cli.run("token", "revoke", "anna").returncode == 0
    wait_until(lambda: cli.run("status").returncode == 2, "the token to be refused", 20)
    told = json.loads(cli.run("audit", "--json").stdout)
    assert [entry["action"].split(" (")[0] for entry in told] == [
        f"token revoke {listed['id']}",
        f"POST /api/v1/jobs/{submitted['id']}/cancel",
        "POST /api/v1/jobs",
        f"token create {listed['id']}",
    ]
