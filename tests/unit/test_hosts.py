"""A playbook that finds no server, no task, or a file that it cannot read, says so at once, and does not succeed."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from terminal import ROOT, run_in_terminal

PLAYBOOKS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "playbooks").glob("*.yml"))}
SETTINGS = {
    "orthanc_hostname": "pacs.clinic.example",
    "orthanc_users": [{"name": "it", "role": "admin", "password": "a-password-of-this-test"}],
}
PASSWORD = "the password of the vault"


def write_inventory(directory: Path, content: dict[str, Any]) -> Path:
    group = directory / "group_vars/orthanc"
    group.mkdir(parents=True)
    (directory / "hosts.yml").write_text(json.dumps(content))
    (group / "settings.yml").write_text(yaml.safe_dump(SETTINGS))
    return directory


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    hosts: dict[str, Any] = {"orthanc": {"hosts": {"pacs": {}}}, "web": {"hosts": {"www": {}}}}
    return write_inventory(tmp_path / "inventory", hosts)


def run(playbook: str, *options: str) -> tuple[int, str]:
    """Exit code, and what the terminal shows."""
    status, lines = run_in_terminal(["ansible-playbook", *options, playbook])
    return status, " ".join(" ".join(lines).split())


@pytest.mark.parametrize("name", ["deploy", "verify", "backup", "adopt", "check_inventory"])
def test_an_inventory_that_does_not_exist(name: str, tmp_path: Path) -> None:
    status, said = run(f"clinicops.orthanc.{name}", "-i", str(tmp_path / "inventroy"))
    assert status not in (0, 2), said
    assert "inventroy, so nothing was done. Remedy: " in said


@pytest.mark.parametrize(
    "content",
    [
        {"orthnac": {"hosts": {"pacs": {}}}},
        {"orthanc": {"pacs": {}}},
        {"orthanc": {"hosts": {}}},
    ],
)
def test_an_inventory_without_a_server(content: dict[str, Any], tmp_path: Path) -> None:
    status, said = run("clinicops.orthanc.backup", "-i", str(write_inventory(tmp_path / "inventory", content)))
    assert status not in (0, 2), said
    assert "No server is in the group orthanc of " in said


def test_another_playbook_that_imports_a_deploy(inventory: Path, tmp_path: Path) -> None:
    """Its tags and its limit are for all of its plays."""
    site = tmp_path / "site.yml"
    site.write_text("- ansible.builtin.import_playbook: clinicops.orthanc.deploy\n")
    status, said = run(str(site), "-i", str(tmp_path / "inventroy"))
    assert status not in (0, 2), said
    assert "inventroy. Remedy: " in said
    for options in (["--tags", "web"], ["--limit", "www"]):
        status, said = run(str(site), "-i", str(inventory), *options)
        assert status == 0, said


def test_another_playbook_goes_on_where_the_inventory_has_other_servers_only(tmp_path: Path) -> None:
    site = tmp_path / "site.yml"
    tasks = [{"ansible.builtin.debug": {"msg": "the web server's turn"}}]
    after = {"hosts": "web", "gather_facts": False, "tasks": tasks}
    site.write_text(yaml.safe_dump([{"ansible.builtin.import_playbook": "clinicops.orthanc.deploy"}, after]))
    web: dict[str, Any] = {"web": {"hosts": {"www": {}}}}
    for number, content in enumerate([web, {**web, "orthanc": {"hosts": {}}}]):
        servers = write_inventory(tmp_path / str(number), content)
        status, said = run(str(site), "-i", str(servers))
        assert status == 0, said
        assert "the web server's turn" in said
        assert "No server is in the group orthanc of " in said
        assert "nothing was done" not in said


def test_a_limit_without_a_server(inventory: Path) -> None:
    status, said = run("clinicops.orthanc.backup", "-i", str(inventory), "--limit", "www")
    assert status not in (0, 2), said
    assert "No server of the group orthanc is in --limit www, so nothing was done." in said
    status, said = run("clinicops.orthanc.check_inventory", "-i", str(inventory), "--limit", "pacs,www")
    assert status == 0, said


@pytest.mark.parametrize("name", [name for name, plays in PLAYBOOKS.items() if plays[0]["hosts"] != "localhost"])
def test_a_tag_that_no_task_has(name: str, inventory: Path) -> None:
    status, said = run(str(ROOT / f"playbooks/{name}.yml"), "-i", str(inventory), "--tags", "plan,setle")
    assert status not in (0, 2), said
    assert "setle, so nothing was done. Remedy: " in said


@pytest.mark.parametrize(
    ("tags", "refused"),
    [
        ("untagged", ""),
        ("untagged,", ""),
        ("all", ""),
        ("always", "always"),
        ("tagged", "tagged"),
        ("", "''"),
        (",", "''"),
    ],
)
def test_the_words_of_ansible_where_no_task_has_a_tag(tags: str, refused: str, inventory: Path) -> None:
    status, said = run("clinicops.orthanc.check_inventory", "-i", str(inventory), "--tags", tags)
    if refused:
        assert status not in (0, 2), said
        assert f"No task has the tag {refused}, so nothing was done." in said
    else:
        assert status == 0, said


@pytest.mark.parametrize(
    ("tags", "refused"), [("always", ""), ("tagged", ""), ("plan,", ""), ("untagged", "untagged"), ("never", "never")]
)
def test_the_words_of_ansible_where_tasks_have_tags(tags: str, refused: str, tmp_path: Path) -> None:
    """The server is not there: the plan, which comes first, cannot reach it."""
    hosts = {"pacs": {"ansible_host": "127.0.0.1", "ansible_port": 1}}
    servers = write_inventory(tmp_path / "inventory", {"orthanc": {"hosts": hosts}})
    _status, said = run("clinicops.orthanc.upgrade", "-i", str(servers), "--tags", tags)
    expected = f"No task has the tag {refused}, so nothing was done." if refused else "Connection refused"
    assert expected in said
    assert ("No task" in said) == bool(refused)


def test_the_phases_of_an_upgrade_are_its_tags() -> None:
    [upgrade] = PLAYBOOKS["upgrade"]
    [named] = re.findall(r"tags=(\[.+?\])", upgrade["hosts"])
    known = set(yaml.safe_load(named))
    listed = subprocess.run(
        ["ansible-playbook", "-i", "inventories/single_clinic", "--list-tags", "clinicops.orthanc.upgrade"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    [tags] = re.findall(r"TASK TAGS: \[(.+)\]", listed)
    # the plan always comes first
    assert known == {*tags.split(", "), "plan"} - {"always", "never"}


@pytest.mark.parametrize("option", ["--syntax-check", "--list-tasks", "--list-tags"])
def test_what_only_reads_the_playbook_needs_no_server(option: str) -> None:
    status, said = run("clinicops.orthanc.upgrade", option)
    assert status == 0, said


# --- files that cannot be read ------------------------------------------------------------------
def encrypt(path: Path, directory: Path) -> list[str]:
    """The options with which the file can be read."""
    (directory / "password").write_text(PASSWORD)
    (directory / "other").write_text("another password")
    path.write_text(yaml.safe_dump({"vault_of_this_test": "a secret"}))
    own = ["--vault-password-file", str(directory / "password")]
    subprocess.run(["ansible-vault", "encrypt", *own, str(path)], capture_output=True, check=True)
    return own


@pytest.mark.parametrize("place", ["group_vars/orthanc/vault.yml", "group_vars/all.yml", "host_vars/pacs/vault.yml"])
def test_a_vault_without_its_password(place: str, inventory: Path, tmp_path: Path) -> None:
    path = inventory / place
    path.parent.mkdir(parents=True, exist_ok=True)
    own = encrypt(path, tmp_path)
    for options in ([], ["--vault-password-file", str(tmp_path / "other")]):
        status, said = run("clinicops.orthanc.check_inventory", "-i", str(inventory / "hosts.yml"), *options)
        assert status not in (0, 2), said
        assert f"{path} cannot be read" in said
        assert "Remedy: add --ask-vault-pass, and type the password with which the file was encrypted" in said
    status, said = run("clinicops.orthanc.check_inventory", "-i", str(inventory), *own)
    assert status == 0, said
    # the file of a server that is not asked
    if place.startswith("host_vars"):
        path.parent.rename(inventory / "host_vars/www")
        status, said = run("clinicops.orthanc.check_inventory", "-i", str(inventory))
        assert status == 0, said


def test_files_in_the_directory_of_the_command_are_not_those_of_a_server_without_an_inventory(tmp_path: Path) -> None:
    """`-i host,` has no directory."""
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all.yml").write_text("a: b: c")
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "-e", "ansible_port=1", "clinicops.orthanc.adopt"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={
            **os.environ,
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
        },
    )
    assert done.returncode == 4
    assert "unreachable" in done.stdout
    assert "cannot be read" not in done.stdout + done.stderr


def test_a_long_list_of_servers() -> None:
    servers = "".join(f"pacs{number}.clinic.example," for number in range(20))
    there = ["-e", "ansible_host=127.0.0.1", "-e", "ansible_port=1", "--limit", "pacs1.clinic.example"]
    _status, said = run("clinicops.orthanc.adopt", "-i", servers, *there)
    assert "The machine is unreachable" in said


def test_an_inventory_that_is_a_link(inventory: Path, tmp_path: Path) -> None:
    """Ansible reads the files beside the link, and not those beside the file."""
    (inventory / "group_vars/orthanc/more.yml").write_text("a: b: c")
    clinic = tmp_path / "clinic"
    (clinic / "group_vars").mkdir(parents=True)
    (clinic / "group_vars/orthanc.yml").write_text(yaml.safe_dump(SETTINGS))
    (clinic / "hosts.yml").symlink_to(inventory / "hosts.yml")
    status, said = run("clinicops.orthanc.check_inventory", "-i", str(clinic / "hosts.yml"))
    assert status == 0, said
    # and a directory that is a link
    (clinic / "group_vars").rename(tmp_path / "shared")
    (clinic / "group_vars").symlink_to(tmp_path / "shared")
    (tmp_path / "shared/orthanc.yml").write_text("a: b: c")
    status, said = run("clinicops.orthanc.check_inventory", "-i", str(clinic / "hosts.yml"))
    assert status not in (0, 2), said
    assert f"{tmp_path}/shared/orthanc.yml cannot be read" in said


@pytest.mark.parametrize("wrong", ["orthanc_name: a\n\torthanc_aet: B\n", "orthanc_name: a\n  orthanc_aet: B\n"])
def test_a_file_that_is_not_yaml(wrong: str, inventory: Path) -> None:
    path = inventory / "group_vars/orthanc/more.yml"
    path.write_text(wrong)
    status, said = run("clinicops.orthanc.deploy", "-i", str(inventory))
    assert status not in (0, 2), said
    assert f"{path} cannot be read" in said
    assert f"{path}:2:" in said, "its line"
