"""What two scenarios that run side by side have in common is made by one of them at a time."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import bed
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
# in a template, by what the machine offers
DOCKER = {12: {"docker.io", "iptables"}, 13: {"docker.io", "docker-cli", "iptables"}}
NGINX = {"nginx-light", "libnginx-mod-stream"}
# each adds one to a number in a file, a hundred times, in a way that another one at work would spoil
ADDS = """
import sys
from pathlib import Path
import bed
bed.LOCK = Path(sys.argv[1], "lock")
number = bed.LOCK.with_name("number")
for _ in range(100):
    with bed.alone():
        number.write_text(str(int(number.read_text()) + 1))
"""


def test_one_process_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    command = [sys.executable, "-c", ADDS, str(tmp_path)]
    running = [subprocess.Popen(command, cwd=ROOT / "tests/bed") for _ in range(4)]
    assert [process.wait(timeout=300) for process in running] == [0] * 4
    assert (tmp_path / "number").read_text() == "400"


def test_who_holds_it_may_take_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bed, "LOCK", tmp_path / "lock")
    with bed.alone(), bed.alone():
        assert bed.HELD == [True, True]
    assert bed.HELD == []


def test_an_image_is_built_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bed, "LOCK", tmp_path / "lock")
    held: list[int] = []

    def built(name: str) -> str:
        held.append(len(bed.HELD))
        return name

    monkeypatch.setattr(bed, "built", built)
    assert bed.image("client") == "client"
    assert held == [1]


def test_a_machine_of_another_checkout_is_neither_used_nor_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        asked.append(arguments[0])
        return subprocess.CompletedProcess(arguments, 0, f"{tmp_path}\n", "")

    monkeypatch.setattr(bed, "docker", docker)
    with pytest.raises(SystemExit, match=f"orthanc-a is a machine of {re.escape(str(tmp_path))}. Remedy"):
        bed.machine_up("orthanc-a", "debian13", ["198.51.100.20"])
    bed.machine_down("orthanc-a")
    assert set(asked) == {"inspect"}
    assert f"orthanc-a stays: it is a machine of {tmp_path}" in capsys.readouterr().err
    # its own is used and removed, and so is one whose checkout is gone
    monkeypatch.setattr(bed, "STATE", tmp_path)
    bed.machine_up("orthanc-a", "debian13", ["198.51.100.20"])
    assert set(asked) == {"inspect"}
    bed.machine_down("orthanc-a")
    assert {"rm", "volume"} <= set(asked)
    monkeypatch.undo()
    asked.clear()
    monkeypatch.setattr(bed, "docker", docker)
    tmp_path.rmdir()
    bed.machine_down("orthanc-a")
    assert {"rm", "volume"} <= set(asked)


def list_installed(version: int) -> set[str]:
    """What the roles install on this release of Debian."""
    named = {*DOCKER[version], *NGINX}
    for path in ROOT.glob("roles/*/tasks/*.yml"):
        for task in yaml.safe_load(path.read_text()):
            name = task.get("clinicops.orthanc.orthanc_packages", {}).get("name", [])
            # in a template, with what a role publishes
            named |= set(re.findall(r"'([a-z0-9.+-]+)'", name) if isinstance(name, str) else name)
    # what a role publishes, for the call in which the packages of all roles are installed
    for path in ROOT.glob("roles/*/vars/main.yml"):
        for key, value in yaml.safe_load(path.read_text()).items():
            named |= set(value) if key.endswith("_packages") and isinstance(value, list) else set()
    return named


@pytest.mark.parametrize("version", [12, 13])
def test_a_ready_machine_has_what_a_deploy_installs(version: int) -> None:
    base, fetched = bed.READY[f"ready{version}"]
    assert base == f"debian{version}"
    # certbot is for the scenario acme, which is the campaign's
    assert {*bed.INSTALLED, *fetched} == list_installed(version) - {"certbot"}
    assert {*bed.INSTALLED} & {*fetched} == set()
    # a deploy asks whether these are there, and some of them start a service
    assert {"orthanc", "docker.io", "systemd-timesyncd", "msmtp-mta", "nginx-light"} <= {*fetched}


def test_the_first_installation_is_tested_on_machines_without_packages() -> None:
    for scenario in ("default", "lived_in"):
        platforms = yaml.safe_load((ROOT / f"molecule/{scenario}/molecule.yml").read_text())["platforms"]
        assert [one["image"] for one in platforms if one["groups"] == ["orthanc"]] == ["debian12", "debian13"]


def test_the_way_to_a_machine_that_the_inventory_names_is_the_bed_s() -> None:
    hosts = yaml.safe_load((ROOT / ".config/molecule/hosts.yml").read_text())["orthanc"]["vars"]
    written = shlex.split(hosts["ansible_ssh_common_args"])
    options = dict(option.split("=", 1) for option in written if "=" in option)
    assert Path(options["IdentityFile"]).expanduser() == bed.KEY
    for environment in ({**os.environ, "MOLECULE_PROJECT_DIRECTORY": str(ROOT)}, None):
        command = ["sh", "-c", options["ProxyCommand"].replace("%h", "--help")]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert "connect" in done.stdout, done.stderr


def test_a_connection_goes_past_the_engine_where_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = subprocess.CompletedProcess([], 0, "0123abcd\n", "")
    monkeypatch.setattr(bed, "docker", lambda *_arguments: found)
    monkeypatch.setattr(bed, "ENGINE_PID", tmp_path / "docker.pid")
    monkeypatch.setattr(bed, "CONTAINERS", tmp_path / "moby")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    by_docker = ["docker", "exec", "-i", "--env=A=1", "orthanc-a"]
    # another engine's containers, or none that runs
    (tmp_path / "docker.pid").write_text("123")
    assert bed.enter("orthanc-a", "A=1") == by_docker
    (tmp_path / "moby" / "0123abcd").mkdir(parents=True)
    by_runc = bed.enter("orthanc-a", "A=1")
    assert by_runc[:3] == ["nsenter", "--target=123", "--mount"]
    assert by_runc[3:] == ["runc", f"--root={tmp_path}/moby", "exec", "--env=A=1", "0123abcd"]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert bed.enter("orthanc-a", "A=1") == by_docker


@pytest.mark.parametrize(("environment", "frozen"), [({"BED_QUICK": "1"}, True), ({}, False)])
def test_what_is_loaded_before_a_fork_is_no_garbage(environment: dict[str, str], frozen: bool) -> None:
    script = (
        "import gc, os, site, sys; site.addsitedir(sys.argv[1]); child = os.fork(); "
        "os.waitpid(child, 0) if child else print(gc.get_freeze_count() > 0)"
    )
    known = {name: value for name, value in os.environ.items() if name != "BED_QUICK"}
    command = [sys.executable, "-c", script, str(ROOT / "tests/bed")]
    done = subprocess.run(command, env={**known, **environment}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(frozen)]


def test_a_module_that_comes_again_is_compiled_once(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path[:0] = sys.argv[1:3]; import compiled; compiled.KEPT = sys.argv[3]; "
        "import sent; print(sent.__file__, sent.find.__code__.co_filename, sent.find())"
    )
    # Ansible sends each module in a directory of its own
    for number, text in enumerate(("def find(): return 1", "def find(): return 1", "def find(): return 2")):
        archive = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("sent.py", text)
        command = [sys.executable, "-c", script, str(ROOT / "tests/bed"), str(archive), str(tmp_path / "kept")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.split() == [f"{archive}/sent.py", f"{archive}/sent.py", text[-1]]
        assert len(list(tmp_path.glob("kept-*"))) == (1, 1, 2)[number]
    # what was kept is damaged, or may not be kept
    for path in tmp_path.glob("kept-*"):
        path.write_bytes(b"")
    for kept in (tmp_path / "kept", tmp_path / "nowhere/kept"):
        done = subprocess.run([*command[:-1], str(kept)], capture_output=True, text=True, check=True)
        assert done.stdout.endswith(" 2\n")
