"""Servers that somebody set up, as playbooks/adopt.yml reads them: nothing is changed, and each change is announced."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from adopted import IMAGES, KINDS, adopt, connect, name_container
from backups import must
from clients import ROOT, name_of
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
SETTINGS, VAULT = "inventory/group_vars/orthanc/settings.yml", "inventory/group_vars/orthanc/vault.yml"
SECRETS = ["a-long-password-of-anna", "peer-password-of-1", "cron-secret-1", "change-this-password"]
# by hand: who is affected, and how; the same on each server, on those of the guide, and on each
PAGES = "open them from orthanc_admin_sources, as an admin"
EVERYWHERE = [
    ("Devices that are not in orthanc_modalities", "are refused, whatever they ask"),
    ("Clients of WADO-URI", "must use WADO-RS below /dicom-web/"),
    ("Whoever uses WebDAV", "is refused"),
    ("Users of Orthanc's own pages", PAGES),
]
OF_THE_GUIDE = [
    *EVERYWHERE,
    ("US1 at 198.51.100.11", "is refused: it is not in orthanc_modalities"),
    ("US2 at 198.51.100.11", "is refused: it is not in orthanc_modalities"),
    ("CT9 at 198.51.100.11", "is refused: it is not in orthanc_modalities"),
    ("User orthanc", "has the new password in vault.yml"),
    (
        "Applications that write worklists",
        "submit to /srv/worklists/incoming, where each item is checked (docs/worklists.md)",
    ),
    ("Devices that query a worklist", "see their own items"),
]
CHANGES = {
    "orthanc-adopt12": OF_THE_GUIDE,
    "orthanc-adoptc": [*OF_THE_GUIDE, ("Whoever reads from another machine", "use https://pacs.clinic.example/")],
    "orthanc-adopt13": [
        *EVERYWHERE,
        ("US2 at 198.51.100.11", "is refused: orthanc_modalities names 198.51.100.59 as its address"),
        ("CT9 at 198.51.100.11", "is refused: it is not in orthanc_modalities"),
        ("us1", "must keep its address 198.51.100.11"),
        ("Every device", "must have the address in orthanc_modalities"),
        ("Every device", "must call it ORTHANC"),
        ("User viewer", "has the new password in vault.yml"),
        ("User viewer", "has the role dicomweb_reader"),
        ("Whoever reaches Orthanc over HTTP", "needs a user and a password"),
        ("Users of the nginx site /etc/nginx/sites-enabled/clinic", "use https://pacs.clinic.example/; the site ends"),
    ],
}
LOSSES = {
    "orthanc-adopt12": [],
    "orthanc-adoptc": [],
    "orthanc-adopt13": [
        "DicomWeb.WadoRoot: WADO-URI is off: it is not DICOMweb, and it has no roles.",
        "IncomingHttpRequestFilter in /etc/orthanc/clinic.lua: the roles of orthanc_users decide instead (roles.lua).",
    ],
}
# what Orthanc adds by itself: the DICOMweb plugin keeps a file for each series that has not changed for a minute
CACHED = re.compile(r"/db(-v6)?(/\w\w){1,2}(/[0-9a-f-]{36})?( 755 \d+ \d+ | 644 \d+ \d+ |$)")
# what only the clinic knows
DECIDED = {
    "orthanc_hostname": "pacs.clinic.example",
    "orthanc_https_sources": ["198.51.100.64/26"],
    "orthanc_backup_repository": "/srv/repository",
}
ROLES = [{"name": "anna", "role": "admin"}, {"name": "viewer", "role": "dicomweb_reader"}]


def read(host: Host, directory: Path, *options: str) -> str:
    """What the playbook says, once everything is decided."""
    machine = name_of(host)
    decided = {**DECIDED, **({"orthanc_users": ROLES} if machine == "orthanc-adopt13" else {})}
    status, said = adopt(machine, directory, *options, settings=decided)
    assert status == 0, said
    return said


def list_rows(page: str, title: str) -> list[list[str]]:
    """The rows of the table under a heading, without those of its head."""
    section = page.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [
        [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines
    ]  # fmt: skip


@pytest.fixture(scope="module")
def page(host: Host, tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("clinic")
    read(host, directory)
    return (directory / "inventory/adoption.md").read_text()


def fingerprint(machine: str) -> set[str]:
    """Lines of each file with its hash, mode and owner, the archive included; of units, containers, rules, starts."""
    places = "/etc /home /opt /orthanc /root /srv /usr/local /var/lib/orthanc /var/spool/cron"
    # Orthanc itself writes into its index, about its jobs
    files = f"find {places} -xdev -type f ! -name 'index*' -exec sha256sum {{}} + | sort"
    modes = f"find {places} -xdev ! -name 'index*' -printf '%p %m %U %G %l\\n' | sort"
    started = "systemctl show --property ExecMainStartTimestampMonotonic orthanc nginx docker"
    units = "systemctl list-unit-files --no-legend; docker ps --all --format '{{.ID}} {{.State}}'"
    left = "ls -A /var/tmp /tmp; nft list ruleset | sed 's/packets [0-9]* bytes [0-9]*//'"
    return set(must(machine, f"({files}; {modes}; {started}; {units}; {left}) 2>/dev/null; true").splitlines())


def test_nothing_is_changed_and_no_secret_is_said(host: Host, tmp_path: Path) -> None:
    machine = name_of(host)
    before = fingerprint(machine)
    said = read(host, tmp_path, "-vvv", "--diff")
    after = fingerprint(machine)
    assert before - after == set()
    assert [line for line in after - before if not CACHED.search(line)] == []
    public = said + (tmp_path / SETTINGS).read_text() + (tmp_path / "inventory/adoption.md").read_text()
    assert [secret for secret in SECRETS if secret in public] == []
    assert (tmp_path / VAULT).stat().st_mode & 0o777 == 0o600
    if machine == "orthanc-adopt13":
        assert [secret for secret in SECRETS[:2] if secret not in (tmp_path / VAULT).read_text()] == []


def test_what_changes_is_exactly_what_is_announced(host: Host, page: str) -> None:
    rows = [(who, tomorrow) for who, _today, tomorrow in list_rows(page, "What changes for whom")]
    assert sorted(rows) == sorted(CHANGES[name_of(host)])
    lost = page.split("\n## What is lost, and why\n")[1].split("\n## ")[0]
    assert re.sub(r"\\(.)", r"\1", lost).strip().splitlines() == (
        [f"- {one}" for one in LOSSES[name_of(host)]] or ["Nothing."]
    )


def test_the_archive_is_described(host: Host, page: str) -> None:
    machine = name_of(host)
    said = {row[0]: row[1] for row in list_rows(f"\n## top\n{page}", "top")}
    assert said["archive"] == f"{IMAGES + 1} images, 7 studies, 4 patients; {len(KINDS)} kind(s) of images"
    assert said["labels"] == ("none" if machine == "orthanc-adopt12" else "teaching")
    assert said["own metadata, own attachments"].startswith("1024; 1025")
    assert said["protected patients"] == "1"
    assert said["devices that stored images"] == "CT9, US1, US2"
    # each image has two files; the DICOMweb plugin adds one to each series that has not changed for a minute
    compressed = re.search(r", (\d+) of them compressed", said["size"])
    least = 2 * (IMAGES + 1) if machine == "orthanc-adopt13" else 0
    assert int(compressed[1] if compressed else 0) >= least, said["size"]
    assert bool(compressed) == (machine == "orthanc-adopt13"), said["size"]


def test_every_option_is_accounted_for(host: Host, page: str) -> None:
    """Each quoted name before a colon that is not in a comment, in the files as they are, has one row."""
    machine = name_of(host)
    folder = "/orthanc/config" if machine == "orthanc-adoptc" else "/etc/orthanc"
    text = must(machine, f"cat {folder}/*.json")
    without = re.sub(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', lambda found: found[1] or "", text, flags=re.DOTALL)
    names = re.findall(r'"([^"]+)"\s*:(?!\s*\{\s*[^}\s])', without)
    rows = [row[0].rpartition(".")[2] for row in list_rows(page, "Every option of before")]
    assert sorted(rows) == sorted(names)


def test_a_deploy_accepts_it_as_it_is(host: Host, tmp_path: Path) -> None:
    said = read(host, tmp_path)
    decisions = re.findall(r"^  (orthanc_[\w.\[\]]+): ", said, re.MULTILINE)
    assert set(decisions) == {"orthanc_modalities"}, said
    machine = name_of(host)
    settings = (tmp_path / SETTINGS).read_text()
    if machine == "orthanc-adoptc":
        assert f"container: {name_container(machine)}" in settings
    unreachable = json.dumps(
        {**connect(machine), "ansible_ssh_common_args": "", "ansible_host": "127.0.0.1", "ansible_port": 1}
    )
    done = subprocess.run(
        ["ansible-playbook", "-i", "inventory", "--check", "-e", unreachable, "clinicops.orthanc.deploy"],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "to correct" not in done.stdout + done.stderr, done.stdout
    assert done.returncode == 4, done.stdout


def test_it_is_read_when_it_is_stopped(host: Host, tmp_path: Path) -> None:
    machine = name_of(host)
    box = name_container(machine) if machine == "orthanc-adoptc" else ""
    stop, start = (f"docker stop {box}", f"docker start {box}") if box else (
        "systemctl stop orthanc.service", "systemctl start orthanc.service",
    )  # fmt: skip
    must(machine, stop)
    try:
        read(host, tmp_path)
    finally:
        must(machine, start)
    page = (tmp_path / "inventory/adoption.md").read_text()
    assert ", stopped. Nothing was changed" in page
    assert f"{IMAGES + 1} images" in page
