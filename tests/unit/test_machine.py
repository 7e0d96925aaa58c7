"""What a deploy asks about a machine in one module run, and that it asks once in a play."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible_collections.clinicops.orthanc.plugins.modules import orthanc_machine
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import inspected

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.parents[1].name for path in ROOT.glob("roles/*/vars/main.yml") if "_inspected:" in path.read_text())


def inspect(**asked: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "ansible_collections.clinicops.orthanc.plugins.modules.orthanc_machine"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": asked}), capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": ".collections"}, cwd=ROOT,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_packages_that_wait_for_their_configuration_are_not_installed() -> None:
    status = (
        "Package: nginx\nStatus: install ok installed\nPriority: optional\n\n"
        "Package: cron\nEssential: yes\nStatus: hold ok installed\n\n"
        "Package: acl\nStatus: deinstall ok config-files\n\n"
        "Package: restic\nStatus: install ok half-configured\n"
    )
    assert orthanc_machine.list_packages(status) == ["cron", "nginx"]


def test_packages_that_another_one_brought_are_told_apart() -> None:
    """The deploy has to name them to apt, or cloud-init's removal would take the acceptance test's Jinja with it."""
    states = (
        "Package: python3-jinja2\nArchitecture: amd64\nAuto-Installed: 1\n\n"
        "Package: cron\nArchitecture: amd64\nAuto-Installed: 0\n\n"
        "Package: dcmtk\nAuto-Installed: 1\n"
    )
    assert orthanc_machine.list_automatic(states) == {"dcmtk", "python3-jinja2"}
    found = inspect()
    marked = subprocess.run(["apt-mark", "showauto"], check=True, capture_output=True, text=True).stdout.split()
    assert set(found["automatic"]) == {name.partition(":")[0] for name in marked}
    assert set(found["packages"]).isdisjoint(found["automatic"])
    assert "base-files" in found["packages"]


def test_links_that_lead_to_each_other_are_described(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.symlink_to(other)
    other.symlink_to(one)
    (found,) = inspect(paths=[str(one)], texts=[str(one)])["paths"].values()
    assert (found["kind"], found["target"]) == ("link", str(other))


def test_a_mount_point_is_found_also_for_what_is_not_there_yet(tmp_path: Path) -> None:
    mounts = orthanc_machine.list_mounts(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"23 22 8:2 / {tmp_path}/my\\040disk rw - ext4 /dev/sdb1 rw\n"
        f"24 22 8:3 / {tmp_path}/my rw - ext4 /dev/sdc1 rw\n"
    )
    assert mounts == ["/", f"{tmp_path}/my disk", f"{tmp_path}/my"]
    assert orthanc_machine.find_mount(tmp_path / "my disk" / "new" / "db", mounts) == f"{tmp_path}/my disk"
    assert orthanc_machine.find_mount(tmp_path / "other", mounts) == "/"
    (tmp_path / "link").symlink_to(tmp_path / "my")
    assert orthanc_machine.find_mount(tmp_path / "link" / "db", mounts) == f"{tmp_path}/my"


def test_paths_are_described(tmp_path: Path) -> None:
    ours, theirs, link, gone = (tmp_path / name for name in ("ours", "theirs", "link", "gone"))
    ours.write_text("# clinicops.orthanc\n")
    ours.chmod(0o640)
    theirs.mkdir()
    link.symlink_to("theirs")
    found = inspect(paths=[*map(str, (ours, theirs, link, gone)), f"{ours}/below"], texts=[str(ours), str(gone)])
    me = pwd.getpwuid(os.geteuid()).pw_name
    paths = [found["paths"][str(path)] for path in (ours, theirs, link, gone)]
    assert [one["kind"] for one in paths] == ["file", "directory", "link", ""]
    assert [one["exists"] for one in paths] == [True, True, True, False]
    assert (paths[0]["owner"], paths[0]["mode"], paths[0]["ours"]) == (me, "0640", True)
    assert [one["ours"] for one in paths[1:]] == [False, False, False]
    assert (paths[2]["target"], paths[2]["inode"]) == ("theirs", paths[1]["inode"])
    assert paths[3]["mount"] == paths[0]["mount"] != ""
    assert not found["paths"][f"{ours}/below"]["exists"]
    assert found["texts"] == {str(ours): "# clinicops.orthanc\n", str(gone): ""}


def test_of_a_link_the_owner_is_that_of_what_it_leads_to(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/")
    if os.geteuid() == 0:
        os.chown(link, 1, 1, follow_symlinks=False)
    assert inspect(paths=[str(link)])["paths"][str(link)]["owner"] == "root"


@pytest.mark.parametrize(("tasks", "owner"), [("directories", "orthanc:orthanc"), ("uninstall", "root:root")])
def test_images_behind_a_link_change_their_owner_and_nothing_else_does(tmp_path: Path, tasks: str, owner: str) -> None:
    """The command of the role itself; without the rights of root it says at least what it would have changed."""
    listed = yaml.safe_load((ROOT / f"roles/orthanc_install/tasks/{tasks}.yml").read_text())
    [argv] = [one["ansible.builtin.command"]["argv"] for one in listed if "chown" in str(one)]
    (tmp_path / "disk/ab").mkdir(parents=True)
    (tmp_path / "disk/ab/image").touch()
    (tmp_path / "elsewhere").touch()
    (tmp_path / "disk/out").symlink_to("../elsewhere")
    (tmp_path / "link").symlink_to("disk")
    me = os.geteuid()
    command = [re.sub(r"{{ \w+ }}", str(tmp_path / "link"), word) for word in argv]
    command[command.index(owner)] = str(me or 1)
    done = subprocess.run([*command, "--verbose"], check=True, capture_output=True, text=True)
    seen = {Path(name) for name in re.findall(r"ownership of '(\S+)'", done.stdout)}
    assert seen == {tmp_path / "link" / name for name in ("", "ab", "ab/image", "out")}
    assert (tmp_path / "disk").stat().st_uid == (me or 1)
    assert (tmp_path / "elsewhere").stat().st_uid == me


def test_accounts_and_groups_are_found() -> None:
    found = inspect(accounts=["root", "nobody-of-this-name"], groups=["root", "none-of-this-name"])
    listed = subprocess.run(["getent", "passwd"], check=True, capture_output=True, text=True).stdout.splitlines()
    assert found["accounts"] == listed
    assert list(found["groups"]) == ["root"]


@pytest.mark.parametrize("role", ROLES)
def test_a_playbook_asks_all_that_its_roles_ask(role: str) -> None:
    asked = yaml.safe_load((ROOT / "roles" / role / "vars/main.yml").read_text())[f"{role}_inspected"]
    text = (ROOT / "playbooks/tasks/checks.yml").read_text()
    used = "".join(path.read_text() for path in (ROOT / "roles" / role / "tasks").glob("*.yml"))
    for kind in asked:
        assert f"{role}_inspected.{kind} }}}}" in used
        assert f"{role}_inspected{'' if kind == 'paths' else '.' + kind} }}}}" in text


def test_what_a_play_has_installed_it_does_not_install_again() -> None:
    one, other = (SimpleNamespace(get_play=lambda name=name: SimpleNamespace(_uuid=name)) for name in "ab")
    variables: dict[str, Any] = {"__orthanc_machine": {"play": "a", "packages": ["cron"]}}
    assert inspected.list_installed(one, variables) == {"cron"}
    for names in (["acl"], ["restic", "cron"]):
        variables["ansible_facts"] = inspected.note_installed(one, variables, names)
    assert inspected.list_installed(one, variables) == {"acl", "cron", "restic"}
    assert inspected.list_installed(other, variables) == set()
    assert inspected.note_installed(other, variables, ["acl"])[inspected.FACT]["names"] == ["acl"]


def test_packages_that_start_a_service_are_not_installed_for_all_roles_at_once() -> None:
    """nginx would serve its welcome page, and node_exporter listen for everybody, before their roles configure them."""
    wired = yaml.safe_load((ROOT / "playbooks/vars/wiring.yml").read_text())["orthanc_install_more_packages"]
    lists = [
        yaml.safe_load((ROOT / "roles" / role / "vars/main.yml").read_text())
        for role in re.findall(r"(orthanc_[a-z]+)_packages", wired)
    ]
    # server_packages are what a role installs by itself, when it is its turn
    own = [one for vars in lists for one in vars.items() if re.search("(?<!_server)_packages$", one[0])]
    names = [name for _key, value in own for name in value]
    assert len(lists) == 5
    assert {"restic", "dcmtk", "acl"} < set(names)
    assert [name for name in names if re.search("nginx|exporter|sshd|openssh-server|docker|msmtp", name)] == []


def test_a_play_inspects_the_machine_once(tmp_path: Path) -> None:
    """A role asks again what the play has asked; another play, or one that asks for more, inspects the machine."""
    path = tmp_path / "here"

    def ask(register: str, *paths: Path) -> dict[str, Any]:
        return {"clinicops.orthanc.orthanc_machine": {"paths": [*map(str, paths)]}, "register": register}

    def claim(claim: str) -> dict[str, Any]:
        return {"ansible.builtin.assert": {"that": claim}}

    install = {"clinicops.orthanc.orthanc_packages": {"name": ["base-files"]}}
    made = {"ansible.builtin.copy": {"content": "", "dest": str(path), "mode": "0600"}}
    key = f"paths['{path}'].exists"
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False}
    plays = [
        {**play, "tasks": [
            ask("__orthanc_machine", path), made, ask("__a", path), claim(f"not __a.{key}"), install,
            ask("__b", path, tmp_path), claim(f"__b.{key}"),
        ]},
        {**play, "tasks": [ask("__a", path), claim(f"__a.{key}")]},
    ]  # fmt: skip
    playbook = tmp_path / "play.yml"
    playbook.write_text(json.dumps(plays))
    settings = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_PYTHON_INTERPRETER": sys.executable}
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "-vvv", playbook],
        cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    runs = [line for line in done.stdout.splitlines() if "Using module file" in line]
    assert [Path(line.split()[-1]).stem for line in runs if "copy" not in line and "stat" not in line] == [
        "orthanc_machine",
        "orthanc_machine",
        "orthanc_machine",
    ]
