"""A repository from which this machine can delete nothing."""

from __future__ import annotations

import os

import pytest
from backups import REST, STORE, STORE_ADDRESS, configured, done, must, restic
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
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
    for path in sorted(files):
        kind, _, name = path.rpartition("/")
        name = f"{kind.partition('/')[0]}/{name}".lstrip("/")  # data has directories by the first two digits
        for method in ("DELETE", "POST"):
            assert asked(machine, method, name) in ("403", "405"), (method, name)
    assert inside(machine) >= files
    assert restic(machine, "check", config=config)[0] == 0
    must(machine, "rm -rf /var/lib/orthanc-backup-append")
    must(STORE, f"rm -rf /srv/append/{machine}")


def inside(machine: str) -> set[str]:
    """Path and size of what the server has, on its own disk."""
    return set(must(STORE, f"cd /srv/append/{machine} && find . -type f ! -path './locks/*' -printf '%P\\n'").split())


def asked(machine: str, method: str, name: str) -> str:
    ask = "import sys, urllib.request as u, urllib.error as e, base64\n"
    ask += f"r = u.Request('{URL}/{machine}/{name}', data=b'x' if '{method}' == 'POST' else None, method='{method}')\n"
    ask += f"r.add_header('Authorization', 'Basic ' + base64.b64encode(b'{USER}:{SECRET}').decode())\n"
    ask += "try: print(u.urlopen(r).status)\nexcept e.HTTPError as error: print(error.code)\n"
    return must(machine, "python3 -", ask.encode()).strip()
