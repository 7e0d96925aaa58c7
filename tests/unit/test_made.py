"""What the tasks of a role write is what it lists as made, which an uninstall removes: file by file, unit by unit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import evaluate

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.parents[1].name for path in ROOT.glob("roles/*/tasks/uninstall.yml"))
SYSTEMD = "/etc/systemd/system"
# what a role writes and an uninstall leaves
STAYS = {
    "orthanc_firewall": {},
    "orthanc_install": {f"{SYSTEMD}/orthanc.service": "Orthanc stays masked"},
    "orthanc_proxy": {f"/var/log/nginx/orthanc_{name}.log": "logs" for name in ("access", "error", "dicom")},
    "orthanc_worklist": {"/run/sshd": "sshd's own, in memory"},
    "orthanc_monitor": {"/etc/msmtprc": "removed by remove.yml, where it is a deploy's"},
}
# what the programs of a role write, or what is made without a path in a task
BY_PROGRAMS = {
    "orthanc_backup": ["/var/lib/orthanc-backup/orthanc-restore-check"],
    "orthanc_config": ["/etc/orthanc/site/orthanc.json.before"],
    "orthanc_install": [
        *("/run/orthanc-adoption.lock", "/run/orthanc-upgrade.lock"),
        *(f"/var/lib/orthanc-upgrade/{name}.json" for name in ("upgrade", "history")),
        *("/var/lib/orthanc-upgrade/etc", "/var/lib/orthanc-previous"),
    ],
    "orthanc_monitor": [
        *("/var/lib/orthanc/db/.orthanc-disk-guard", "/var/lib/orthanc/db/.orthanc-reserve"),
        *("/run/orthanc-monitor.lock", "/run/orthanc-monitor.json"),
    ],
    "orthanc_proxy": ["/etc/letsencrypt/orthanc-acme-ca.crt"],
    "orthanc_verify": ["/run/orthanc-verify.lock"],
    "orthanc_worklist": [
        f"/var/lib/orthanc/worklists/.spool/{name}" for name in ("lock", "past", "taken", "unfinished")
    ],
}
WRITERS = {
    "ansible.builtin.copy": "dest",
    "ansible.builtin.template": "dest",
    "ansible.builtin.file": "path",
    "clinicops.orthanc.orthanc_configuration": "path",
    "clinicops.orthanc.orthanc_tools": "path",
    "community.crypto.openssl_csr": "path",
    "community.crypto.openssl_privatekey": "path",
    "community.crypto.x509_certificate": "path",
    "community.crypto.x509_crl": "path",
}


def build_templar() -> Templar:
    below, above = evaluate.read_layers(DataLoader())
    return Templar(DataLoader(), variables={**below, **above, "inventory_hostname": "clinic"})


TEMPLAR = build_templar()


def resolve(text: str) -> str:
    """A path of a task; what differs in a loop is `x`."""
    known = re.sub(r"\{\{ item\b[^}]*\}\}", "x", text)
    if "{{" not in known:
        return known
    return str(TEMPLAR.template(trust_as_template(known)))


def read_tasks(content: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for task in content:
        yield task
        for part in ("block", "rescue", "always"):
            yield from read_tasks(task.get(part, []))


def list_written(role: str) -> set[str]:
    """Every path that a task of the role writes on the server."""
    found = set()
    for file in (ROOT / "roles" / role / "tasks").glob("*.yml"):
        for task in read_tasks(yaml.safe_load(file.read_text())):
            if task.get("delegate_to") == "localhost":
                continue
            for one in (task.get("clinicops.orthanc.orthanc_files") or {}).get("files", []):
                if one.get("state", "file") != "absent":
                    found.add(resolve(one["path"]))
            for module, option in WRITERS.items():
                arguments = task.get(module, {})
                if option in arguments and arguments.get("state") != "absent":
                    found.add(resolve(arguments[option]))
            if creates := (task.get("ansible.builtin.command") or {}).get("creates"):
                found.add(resolve(creates))
    return found - {"/var/tmp/orthanc-image.tar"}  # a moment later it is gone


def read_made(role: str) -> dict[str, list[str]]:
    made: dict[str, list[str]] = evaluate.copy_plain(TEMPLAR.resolve_variable_expression(f"{role}_made"))
    return {**made, "units": [f"{SYSTEMD}/{name}" for name in made["units"]]}


def is_below(path: str, others: list[str]) -> bool:
    return any(Path(path).is_relative_to(one) for one in others)


def test_every_role_of_a_deploy_can_be_uninstalled() -> None:
    play = yaml.safe_load((ROOT / "playbooks/deploy.yml").read_text())[1]
    deployed = [name.rpartition(".")[2] for name in [*play["roles"], "clinicops.orthanc.orthanc_verify"]]
    assert sorted(deployed) == ROLES
    wired = yaml.safe_load((ROOT / "playbooks/vars/wiring.yml").read_text())["orthanc_install_made_by_roles"]
    assert sorted(wired) == [f"{{{{ {role}_made }}}}" for role in ROLES]
    removed = re.findall(r"orthanc\.(\w+)\n *tasks_from: uninstall\n", (ROOT / "playbooks/uninstall.yml").read_text())
    assert sorted(removed) == ROLES


@pytest.mark.parametrize("role", ROLES)
def test_what_the_tasks_write_is_listed(role: str) -> None:
    made = read_made(role)
    whole = [*made["units"], *made["acting"], *made["files"]]
    written = list_written(role)
    assert len(written) > 0
    stays = STAYS.get(role, {})
    left = {path for path in written if not is_below(path, whole) and path not in made["empty"]}
    assert sorted(left) == sorted(stays)


@pytest.mark.parametrize("role", ROLES)
def test_what_is_listed_is_written(role: str) -> None:
    made = read_made(role)
    written = list_written(role)
    known = [*written, *BY_PROGRAMS.get(role, [])]
    # a directory that goes when it is empty, and that holds something of ours
    held = {str(parent) for path in known for parent in Path(path).parents}
    listed = [*made["units"], *made["acting"], *made["files"]]
    assert [path for path in listed if path not in known] == []
    assert [path for path in made["empty"] if path not in held | {*known}] == []


def test_adoption_and_uninstall_read_the_same_lists() -> None:
    """An adoption that is brought back removes the cron files, sites and drop-ins that act on the old server."""
    acting = {path for role in ROLES for path in read_made(role)["acting"]}
    assert acting >= {"/etc/cron.d/orthanc-backup", "/etc/nginx/conf.d/orthanc.conf"}
    assert f"{SYSTEMD}/orthanc.service.d/clinicops.conf" in acting
    text = (ROOT / "roles/orthanc_install/tasks/adopt.yml").read_text()
    assert "orthanc_install_made_by_roles | map(attribute='acting')" in text


def test_a_backup_that_the_inventory_no_longer_has_leaves_the_ledger_alone() -> None:
    """And the file that tells the next deploy of a backup goes last: an interrupted removal is completed."""
    made = read_made("orthanc_backup")
    tasks = yaml.safe_load((ROOT / "roles/orthanc_backup/tasks/remove.yml").read_text())
    [removed] = [
        task["clinicops.orthanc.orthanc_remove"] for task in tasks if "clinicops.orthanc.orthanc_remove" in task
    ]
    assert removed["units"] == "{{ orthanc_backup_made.units }}"
    files, kept = (
        evaluate.copy_plain(TEMPLAR.template(trust_as_template(text))) for text in (removed["files"], *removed["keep"])
    )
    assert kept == "/var/lib/orthanc-backup"
    assert {*files} == {*made["acting"], *made["files"]} - {kept}
    assert files[-1] == "/etc/orthanc-backup.json"
    # before anything goes, it is asked whether a restore or a backup is unfinished
    assert [next(one for one in task if "." in one) for task in tasks] == [
        *("ansible.builtin.find", "ansible.builtin.assert", "clinicops.orthanc.orthanc_remove")
    ]
