"""What an Orthanc of somebody else's reads, found on the machine."""

from __future__ import annotations

import pwd
import subprocess
from pathlib import Path

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils import present, uninstall, upgrade
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.errors import Refused
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.orthanc import runtime
from ansible_collections.clinicops.orthanc.plugins.modules import orthanc_configuration
from test_files_and_units import call


def test_a_directory_is_read_as_orthanc_reads_it(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for name in ("b.json", "a.json", "roles.lua", "a.json.before", "deeper/c.json"):
        (tmp_path / name).write_text(name)
    (tmp_path / "latin1.json").write_bytes('{"Name": "Müller"}'.encode("latin-1"))
    found = present.read_present(str(tmp_path), "")
    assert found["files"] == {
        str(tmp_path / "a.json"): "a.json",
        str(tmp_path / "b.json"): "b.json",
        str(tmp_path / "latin1.json"): '{"Name": "Müller"}',
    }
    assert (found["environment"], found["image"]) == (None, False)
    assert list(present.read_present(str(tmp_path / "b.json"), "")["files"].values()) == ["b.json"]
    assert present.read_present(str(tmp_path / "nothing"), "")["files"] == {}


def play_docker(patch: pytest.MonkeyPatch, directory: Path, output: str = "", errors: str = "") -> None:
    """A command `docker` that says this, and fails if it says an error; as the real one does, with an empty list."""
    said = f"printf '%s' '{output or '[]'}'; " + (f"echo '{errors}' >&2; exit 1" if errors else "exit 0")
    (directory / "docker").write_text(f"#!/bin/sh\n{said}\n")
    (directory / "docker").chmod(0o755)
    patch.setenv("PATH", str(directory), prepend=":")


# what Docker 20.10, 28.2 and 29 say, and podman as docker
ABSENT = [
    "Error: No such container: orthanc",
    "Error response from daemon: No such container: orthanc",
    "error: no such object: orthanc",
    'Error: no such container "orthanc"',
]
NO_ENGINE = [
    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
    "failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is correct and if the daemon"
    " is running: dial unix /var/run/docker.sock: connect: no such file or directory",
]
BROKEN = [
    "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: dial unix"
    " /var/run/docker.sock: connect: permission denied",
    "Error response from daemon: layer does not exist",
]


@pytest.mark.parametrize("errors", ABSENT)
def test_a_container_is_absent_where_docker_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, errors: str
) -> None:
    play_docker(monkeypatch, tmp_path, errors=errors)
    assert present.inspect("orthanc") == {}
    assert runtime.Container().read_state() == runtime.State(False, 0, None)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))  # and where it is not installed
    assert present.inspect("orthanc") == {}
    assert present.list_containers() == []


@pytest.mark.parametrize("errors", NO_ENGINE + BROKEN)
def test_a_docker_that_does_not_answer_does_not_mean_that_there_is_no_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, errors: str
) -> None:
    """It may run on without its engine; an uninstall would remove its images and its firewall."""
    play_docker(monkeypatch, tmp_path, errors=errors)
    refused = pytest.raises(Refused, match=r"docker inspect: .*Remedy: see systemctl status docker")
    with refused:
        present.inspect("orthanc")
    with refused:
        runtime.Container().read_state()
    with refused:
        uninstall.has_container()
    with refused:
        upgrade.is_aside(upgrade.Notes(step="switching"))


@pytest.mark.parametrize("errors", BROKEN)
def test_containers_that_cannot_be_listed_are_not_absent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, errors: str
) -> None:
    play_docker(monkeypatch, tmp_path, errors=errors)
    with pytest.raises(Refused, match=r"docker ps: .*Remedy: see systemctl status docker"):
        present.list_containers(stopped=True)


@pytest.mark.parametrize("errors", NO_ENGINE)
def test_without_an_engine_no_container_is_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, errors: str) -> None:
    play_docker(monkeypatch, tmp_path, errors=errors)
    assert present.list_containers(stopped=True) == []


def test_what_docker_says_of_a_container_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    play_docker(monkeypatch, tmp_path, '[{"Image": "sha256:abc"}]')
    assert present.inspect("orthanc") == {"Image": "sha256:abc"}
    assert present.inspect("") == {}


STORAGE = {"storage_dir": "/srv/nothing"}
MODULES: list[tuple[str, dict[str, object]]] = [
    ("orthanc_uninstall", {**STORAGE, "step": "inspect", "worklist_dir": "/srv/nothing"}),
    ("orthanc_occupied", {**STORAGE}),
    ("orthanc_survey", {"container": "pacs"}),
]


@pytest.mark.parametrize(("module", "arguments"), MODULES, ids=lambda given: given if isinstance(given, str) else "")
def test_a_module_says_what_to_do_where_docker_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, arguments: dict[str, object]
) -> None:
    play_docker(monkeypatch, tmp_path, errors=BROKEN[-1])
    answer = call(module, arguments)
    assert answer["failed"]
    assert "layer does not exist. Remedy: see systemctl status docker" in answer["msg"]


def test_the_reading_of_a_configuration_says_why_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    play_docker(monkeypatch, tmp_path, errors=BROKEN[-1])
    assert "layer does not exist" in call("orthanc_present", {"container": "pacs"})["why"]


def test_a_container_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    play_docker(monkeypatch, tmp_path, errors="Error response from daemon: No such container: clinicops-nobody")
    with pytest.raises(present.NotFoundError, match="The container clinicops-nobody does not exist"):
        present.read_present("", "clinicops-nobody")


# --- what a container reads -------------------------------------------------------------------
# `docker cp` of a container whose files are this machine's: it follows the path's own links, and none in a directory
COPIES = """#!/bin/sh
case $1 in
cp) path=$(readlink -f "${3#*:}"); [ -e "$path" ] && exec tar -C "${path%/*}" -c "${path##*/}"; exit 1;;
image) echo '[{}]';;
*) exit 1;;
esac
"""


def read_container(patch: pytest.MonkeyPatch, root: Path, command: list[str], pid: int = 0) -> dict[str, str]:
    """The files that are read of a container with this command, by their path below the directory."""
    (root / "docker").write_text(COPIES)
    (root / "docker").chmod(0o755)
    patch.setenv("PATH", str(root), prepend=":")
    config = {"Entrypoint": command[:1], "Cmd": command[1:], "WorkingDir": str(root)}
    files: dict[str, str] = present.of_container(
        {"Config": config, "Name": "/pacs", "Image": "i", "State": {"Pid": pid}, "HostConfig": {"NetworkMode": "host"}}
    )["files"]
    return {str(Path(path).relative_to(root)): content for path, content in files.items()}


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """A directory as Kubernetes and people fill it: links, one file under two names, and what Orthanc does not read."""
    (tmp_path / "config" / "..data").mkdir(parents=True)
    (tmp_path / "config" / "..data" / "users.json").write_text("users")
    (tmp_path / "config" / "users.json").symlink_to("..data/users.json")
    (tmp_path / "config" / "a.json").write_text("a")
    (tmp_path / "config" / "b.json").hardlink_to(tmp_path / "config" / "a.json")
    (tmp_path / "config" / "folder.json").symlink_to("..data")
    (tmp_path / "config" / "roles.lua").symlink_to("nowhere")
    (tmp_path / "orthanc.conf").write_text("conf")
    return tmp_path


EVERY = {"config/a.json": "a", "config/b.json": "a", "config/users.json": "users"}


@pytest.mark.parametrize(
    ("command", "read"),
    [
        (["Orthanc", "{}/config/"], EVERY),
        (["/usr/bin/tini", "--", "/usr/local/sbin/Orthanc", "--verbose", "config"], EVERY),
        (
            ["Orthanc", "--logdir=/var/log", "orthanc.conf", "config/a.json"],
            {"orthanc.conf": "conf", "config/a.json": "a"},
        ),
        (["/start.sh", "{}/config/a.json"], {"config/a.json": "a"}),
    ],
)
def test_a_stopped_container_reads_what_its_command_names(
    monkeypatch: pytest.MonkeyPatch, mounted: Path, command: list[str], read: dict[str, str]
) -> None:
    assert read_container(monkeypatch, mounted, [word.format(mounted) for word in command]) == read


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["sh", "-c", "exec Orthanc {}/config/a.json"], "starts Orthanc in a shell, and does not run"),
        (["Orthanc", "--verbose"], "starts Orthanc without a configuration"),
        (["Orthanc", "{}/nothing.json"], "/nothing.json of the container pacs, which Orthanc reads, cannot be copied"),
    ],
)
def test_a_container_whose_configuration_is_not_known_is_not_read_elsewhere(
    monkeypatch: pytest.MonkeyPatch, mounted: Path, command: list[str], said: str
) -> None:
    with pytest.raises(present.NotFoundError, match=said):
        read_container(monkeypatch, mounted, [word.format(mounted) for word in command])


def test_a_link_that_leads_nowhere_is_named(monkeypatch: pytest.MonkeyPatch, mounted: Path) -> None:
    (mounted / "config" / "gone.json").symlink_to("nowhere")
    with pytest.raises(present.NotFoundError, match=r"config/gone\.json of the container pacs"):
        read_container(monkeypatch, mounted, ["Orthanc", "config"])


def test_a_container_that_runs_reads_what_its_process_names(monkeypatch: pytest.MonkeyPatch, mounted: Path) -> None:
    """Two shells are above it, and its path is relative to where they went."""
    (mounted / "Orthanc").write_text("#!/bin/sh\necho runs\nread -r _line\n")
    (mounted / "Orthanc").chmod(0o755)
    command = ["sh", "-c", f"cd {mounted}/config; sh -c '../Orthanc --verbose ../orthanc.conf; true'; true"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout
        assert shell.stdin
        assert shell.stdout.readline() == "runs\n"
        found = read_container(monkeypatch, mounted, command, shell.pid)
        shell.stdin.close()
    assert found == {"config/../orthanc.conf": "conf"}


def test_a_variable_may_hold_anything_but_a_nul() -> None:
    lines = ["A=1", 'ORTHANC__REGISTERED_USERS={"a": "b=c"}', "EMPTY=", "no variable", ""]
    assert present.variables(lines) == {"A": "1", "ORTHANC__REGISTERED_USERS": '{"a": "b=c"}', "EMPTY": ""}


@pytest.mark.parametrize(("errors", "can"), [("", True), ("Error: No such image: orthancteam/orthanc:2", False)])
def test_check_mode_tries_no_image_that_is_not_on_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, errors: str, can: bool
) -> None:
    """It does not pull the one of the settings."""
    account = pwd.struct_passwd(("orthanc", "x", 900, 900, "", "/", "/bin/false"))
    monkeypatch.setattr(pwd, "getpwall", lambda: [account])
    play_docker(monkeypatch, tmp_path, errors=errors)
    assert orthanc_configuration.can_try({"Plugins": ["/nonexistent/in/the/image.so"]}, "orthancteam/orthanc:2") is can
