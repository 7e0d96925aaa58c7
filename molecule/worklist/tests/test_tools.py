"""The package that the programs share: whole, and nothing in it that the collection does not have."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from clients import ROOT, name_of
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1:]
LIBRARY = "/usr/local/lib/clinicops-orthanc"
PACKAGE = f"{LIBRARY}/server"


def install(host: Host, *more: str) -> str:
    """One run of the module; what Ansible says of it."""
    inventory = str(Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent)
    command = ["ansible", name_of(host), "--inventory", inventory, "--module-name", "clinicops.orthanc.orthanc_tools"]
    colours = {"ANSIBLE_FORCE_COLOR": "false", "ANSIBLE_NOCOLOR": "true"}
    done = subprocess.run(
        [*command, *more], cwd=ROOT, env={**os.environ, **colours}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def installed(host: Host) -> None:
    install(host)


def test_a_second_run_changes_nothing(host: Host) -> None:
    before = host.check_output(f"readlink {PACKAGE}; stat --format %Y {PACKAGE}/")
    assert "| SUCCESS =>" in install(host)
    assert host.check_output(f"readlink {PACKAGE}; stat --format %Y {PACKAGE}/") == before
    wrong = "! -user root -o ! -group root -o -type f -name '*.py' ! -perm 644 -o -type d ! -perm 755"
    assert host.check_output(f"find {PACKAGE}/ {wrong}") == ""
    source = Path(ROOT) / "plugins/module_utils/server"
    own = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.py"))
    assert sorted(host.check_output(f"cd {PACKAGE}/ && find . -name '*.py' -printf '%P\\n'").split()) == own


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (f"echo 'x = 1' >> {PACKAGE}/core/escaping.py", "core/escaping.py"),
        (f"rm {PACKAGE}/core/journal.py", "core/journal.py"),
        (f"touch {PACKAGE}/core/former.py", "core/former.py"),
        (f"chmod 600 {PACKAGE}/core/journal.py", "core/journal.py"),
        (f"mkdir {LIBRARY}/server-interrupted", ""),
        (f"rm {PACKAGE}", ""),
    ],
)
def test_what_differs_is_named_and_mended(host: Host, damage: str, named: str) -> None:
    whole = f"cd {PACKAGE}/ && find . -name '*.py' -printf '%p %m %U\\n' -exec sha256sum {{}} + | sort"
    before = host.check_output(whole)
    host.check_output(damage)
    tried = install(host, "--check", "--diff")
    assert "| CHANGED =>" in tried
    assert named in "\n".join(line for line in tried.splitlines() if line.startswith(("+", "-")))
    assert "| CHANGED =>" in install(host)
    assert "| SUCCESS =>" in install(host)
    assert host.check_output(whole) == before
    # the package and the link to it, and nothing that was left behind; the guard is of the role that installs Orthanc
    left = sorted(name.partition("-")[0] for name in host.check_output(f"ls {LIBRARY}").split())
    assert left == ["purge_guard", "server", "server"]


def test_no_older_bytecode_is_read(host: Host) -> None:
    ask = f"PYTHONPATH={LIBRARY} python3 -c 'from server.core import escaping; print(escaping.__dict__.get(\"x\"))'"
    assert host.check_output(ask) == "None"
    host.check_output(f"touch -r {PACKAGE}/core/escaping.py /tmp/time; echo 'x = 1' >> {PACKAGE}/core/escaping.py")
    host.check_output(f"touch -r /tmp/time {PACKAGE}/core/escaping.py")
    assert host.check_output(ask) == "1"
    install(host)
    assert host.check_output(ask) == "None"
