"""A repository from which this machine can delete nothing."""

from __future__ import annotations

import json
import os
import shlex

import pytest
from backups import REST, STORE, STORE_ADDRESS, configured, done, must, restic
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
USER, SECRET = REST.values()
URL = f"http://{STORE_ADDRESS}:8001"


# restic of Debian 12 reads the server's password from the URL alone
@pytest.mark.parametrize(
    ("number", "environment"),
    [(1, REST), pytest.param(0, {}, marks=pytest.mark.campaign)],
    ids=["environment", "url"],
)
def test_nothing_can_be_deleted(number: int, environment: dict[str, str]) -> None:
    machine = testinfra_hosts[number]
    url = URL if environment else URL.replace("://", f"://{USER}:{SECRET}@")
    config = configured(
        machine,
        repository=f"rest:{url}/{machine}/",
        environment=environment,
        append_only=True,
        directory="/var/lib/orthanc-backup-append",
    )
    assert done(machine, "init", config=config)["repository"] == "made"
    first = done(machine, "run", config=config)["snapshot"]
    for _ in range(2):
        done(machine, "run", config=config)
    done(machine, "check", config=config)
    files = inside(machine)

    for arguments in (("forget", first), ("forget", "--keep-last=1", "--prune")):
        status, said = restic(machine, *arguments, config=config)
        assert "403" in said, (status, said)
    assert inside(machine) >= files
    ids = [one["id"] for one in done(machine, "list", config=config)["snapshots"]]
    assert (len(ids), first in ids) == (3, True)
    # not by HTTP either
    wanted = []
    for path in sorted(files):
        kind, _, name = path.rpartition("/")
        name = f"{kind.partition('/')[0]}/{name}".lstrip("/")  # data has directories by the first two digits
        wanted += [(method, name) for method in ("DELETE", "POST")]
    answers = ask(machine, wanted)
    assert len(answers) == 2 * len(files)
    for asked, status in zip(wanted, answers, strict=True):
        assert status in (403, 405), asked
    assert inside(machine) >= files
    assert restic(machine, "check", config=config)[0] == 0
    must(machine, "rm -rf /var/lib/orthanc-backup-append")
    must(STORE, f"rm -rf /srv/append/{machine}")


def inside(machine: str) -> set[str]:
    """Path and size of what the server has, on its own disk."""
    return set(must(STORE, f"cd /srv/append/{machine} && find . -type f ! -path './locks/*' -printf '%P\\n'").split())


ASK = """
import base64, json, sys, urllib.error, urllib.request
plan, answers = json.load(sys.stdin), []
for method, name in plan["wanted"]:
    body = b"x" if method == "POST" else None
    request = urllib.request.Request(f"{plan['url']}/{name}", data=body, method=method)
    request.add_header("Authorization", "Basic " + base64.b64encode(plan["user"].encode()).decode())
    try:
        answers.append(urllib.request.urlopen(request).status)
    except urllib.error.HTTPError as error:
        answers.append(error.code)
print(json.dumps(answers))
"""


def ask(machine: str, wanted: list[tuple[str, str]]) -> list[int]:
    """The server's status for each request (method and file), as the machine sends it."""
    plan = {"url": f"{URL}/{machine}", "user": f"{USER}:{SECRET}", "wanted": wanted}
    answers: list[int] = json.loads(must(machine, f"python3 -c {shlex.quote(ASK)}", json.dumps(plan).encode()))
    return answers
