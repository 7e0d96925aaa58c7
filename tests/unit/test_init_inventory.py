"""The first inventory: asked for or given, checked, written once; by the real ansible-playbook."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import inventory, questions, specs
from terminals import Terminal

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "ANSIBLE_CONFIG"},
    "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
    "ANSIBLE_NOCOLOR": "1",
    "COLUMNS": "100",
}
DEVICE = {"name": "us1", "aet": "US1", "host": "198.51.100.21", "port": 104, "may": ["echo", "store", "find_worklist"]}
VALUES: dict[str, Any] = {
    "orthanc_init_address": "198.51.100.10",
    "orthanc_hostname": "pacs.clinic.example",
    "orthanc_modalities": [DEVICE],
    "orthanc_https_sources": ["198.51.100.64/26"],
    "orthanc_backup_repository": "none",
}
FILES = ["group_vars/orthanc/settings.yml", "group_vars/orthanc/vault.yml", "hosts.yml"]
VAULT = Path("inventory/group_vars/orthanc/vault.yml")
PASSWORD = "the-vault-s-own-password"


def run(directory: Path, *command: str) -> tuple[int, str]:
    """Exit code and output of a command without a terminal."""
    done = subprocess.run(
        command,
        cwd=directory,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def init(directory: Path, values: Mapping[str, Any], *options: str) -> tuple[int, str]:
    """Exit code and output of the playbook with values from a file."""
    given = directory.parent / f"{directory.name}.yml"
    given.write_text(json.dumps(values))
    return run(directory, "ansible-playbook", "clinicops.orthanc.init_inventory", "-e", f"@{given}", *options)


def list_files(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def read_host(directory: Path, *options: str) -> dict[str, Any]:
    """The variables of the server, as ansible-inventory reads them."""
    status, said = run(directory, "ansible-inventory", "-i", "inventory", "--list", *options)
    assert status == 0, said
    assert "WARNING" not in said
    [(_name, variables)] = json.loads(said)["_meta"]["hostvars"].items()
    return dict(variables)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A directory with an inventory whose vault is encrypted, and what was said."""
    directory = tmp_path_factory.mktemp("clinic")
    (directory / "password").write_text(PASSWORD)
    given = {
        **VALUES,
        "orthanc_init_user": "ansible",
        "orthanc_backup_repository": "sftp:backup@198.51.100.95:/orthanc",
    }
    status, said = init(directory, given, "--vault-password-file", "password")
    assert status == 0, said
    return directory, said


def test_the_files_have_what_was_given_and_new_passwords(written: tuple[Path, str]) -> None:
    directory, _said = written
    assert list_files(directory / "inventory") == FILES
    host = read_host(directory, "--vault-password-file", "password")
    assert host["ansible_host"] == "198.51.100.10"
    assert host["ansible_user"] == "ansible"
    assert host["orthanc_hostname"] == "pacs.clinic.example"
    assert host["orthanc_modalities"] == [DEVICE]
    assert host["orthanc_https_sources"] == ["198.51.100.64/26"]
    assert host["orthanc_install_method"] == "package"
    assert {user["name"]: user["role"] for user in host["orthanc_users"]} == {
        "it": "admin",
        "viewer": "dicomweb_reader",
        "gateway": "dicomweb_writer",
    }
    names = {f"vault_orthanc_{name}_password" for name in ("it", "viewer", "gateway", "backup")}
    passwords = {host[name] for name in names}
    assert len(passwords) == 4
    assert min(map(len, passwords)) >= 20
    assert {user["password"] for user in host["orthanc_users"]} < {f"{{{{ {name} }}}}" for name in names}
    settings = (directory / "inventory" / inventory.SETTINGS).read_text()
    assert not [password for password in passwords if password in settings]


def test_the_vault_is_encrypted_and_only_for_its_owner(written: tuple[Path, str]) -> None:
    directory, said = written
    vault = directory / VAULT
    assert vault.read_text().startswith("$ANSIBLE_VAULT;")
    assert stat.S_IMODE(vault.stat().st_mode) == 0o600
    status, shown = run(directory, "ansible-vault", "view", "--vault-password-file", "password", str(VAULT))
    assert status == 0
    passwords = [value for value in yaml.safe_load(shown).values() if isinstance(value, str)]
    assert len(passwords) == 4
    assert not [password for password in passwords if password in said]
    # the same command as the playbook said
    assert f"ansible-vault view --vault-password-file {directory}/password {VAULT}" in said


def test_a_deploy_accepts_what_was_written(written: tuple[Path, str]) -> None:
    """The command that was printed, in check mode, on a machine that cannot be reached."""
    directory, said = written
    [command] = re.findall(r"^ +(ansible-playbook .*)$", said, re.MULTILINE)
    assert (
        command == f"ansible-playbook -i inventory --vault-password-file {directory}/password clinicops.orthanc.deploy"
    )
    unreachable = ["--check", "-e", "ansible_connection=ssh ansible_port=1 ansible_host=127.0.0.1"]
    status, shown = run(directory, *command.split(), *unreachable)
    assert status == 4
    assert "to correct" not in shown
    assert re.search(r"Check all settings before anything changes\] \**\nok: \[pacs\.clinic\.example\]", shown), shown
    assert re.search(r"Gather facts\] \**\n(.*\n)*.*UNREACHABLE", shown), shown


def test_a_second_run_refuses_and_names_the_files(written: tuple[Path, str]) -> None:
    directory, _said = written
    before = {name: (directory / "inventory" / name).read_bytes() for name in FILES}
    status, said = init(directory, VALUES)
    assert status == 2
    for name in FILES:
        assert name in said
    assert "is not empty" in said
    assert {name: (directory / "inventory" / name).read_bytes() for name in FILES} == before
    assert list_files(directory) == sorted(["password", *(f"inventory/{name}" for name in FILES)])


def test_check_mode_shows_what_would_be_written_without_passwords(tmp_path: Path) -> None:
    directory = tmp_path / "clinic"
    directory.mkdir()
    secret = "an-own-password-of-it"
    users = [{"name": "it", "role": "admin", "password": secret}]
    status, said = init(directory, {**VALUES, "orthanc_users": users}, "--check", "--diff")
    assert status == 0, said
    assert list_files(directory) == []
    assert "+orthanc_hostname: pacs.clinic.example" in said
    assert "+vault_orthanc_it_password: '********'" in said
    assert secret not in said
    assert "Nothing was written in check mode" in said
    assert "ansible-playbook -i inventory clinicops.orthanc.deploy" in said


def test_without_a_vault_password_git_ignores_the_vault(tmp_path: Path) -> None:
    directory = tmp_path / "clinic"
    directory.mkdir()
    status, said = init(directory, VALUES)
    assert status == 0, said
    assert list_files(directory / "inventory") == [".gitignore", *FILES]
    assert (directory / VAULT).stat().st_mode & 0o777 == 0o600
    assert len(yaml.safe_load((directory / VAULT).read_text())) == 3
    assert f"ansible-vault encrypt {VAULT}" in said
    assert "ansible_user" not in read_host(directory)
    subprocess.run(["git", "init", "-q", "."], cwd=directory, check=True)
    listed = subprocess.run(
        ["git", "status", "--porcelain", "-uall"], cwd=directory, check=True, capture_output=True, text=True
    )
    assert "settings.yml" in listed.stdout
    assert "vault.yml" not in listed.stdout


def test_every_secret_that_is_given_goes_into_the_vault(tmp_path: Path) -> None:
    directory = tmp_path / "clinic"
    directory.mkdir()
    secrets = ["{{ not-a-template }}", "own-password-2of3", "own-password-3of3", "own: 'password' #4 of 4"]
    given = {
        "orthanc_users": [
            {"name": "it", "role": "admin", "password": secrets[1]},
            {"name": "a-b", "role": "dicomweb_reader"},
            {"name": "a.b", "role": "dicomweb_reader"},
            # its variable is not that of the repository's password
            {"name": "backup", "role": "dicomweb_reader", "password": secrets[2]},
        ],
        "orthanc_backup_repository": "/mnt/disk/orthanc",
        "orthanc_monitor_mail_to": ["it@clinic.example"],
        "orthanc_monitor_smtp": {"host": "mail.clinic.example", "user": "orthanc", "password": secrets[3]},
        "orthanc_aet": "CLINIC",
    }
    status, said = init(
        directory, {**VALUES, **given}, "-e", f'{{"orthanc_backup_environment": {{"A_TOKEN": !unsafe "{secrets[0]}"}}}}'
    )
    assert status == 0, said
    settings = (directory / "inventory" / inventory.SETTINGS).read_text()
    vault = (directory / VAULT).read_text()
    assert not [secret for secret in secrets if secret in settings or secret in said]
    host = read_host(directory)
    assert host["orthanc_aet"] == "CLINIC"
    assert host["vault_orthanc_monitor_smtp"]["password"] == secrets[3]
    assert "!unsafe" in vault
    assert len({user["password"] for user in host["orthanc_users"]}) == 4
    [own] = [user["password"] for user in host["orthanc_users"] if user["name"] == "backup"]
    assert own != host["orthanc_backup_password"] == "{{ vault_orthanc_backup_password }}"
    asked = [
        "-m",
        "ansible.builtin.debug",
        "-a",
        "msg={{ orthanc_users[3].password }}+{{ orthanc_backup_environment }}",
    ]
    status, shown = run(directory, "ansible", "-i", "inventory", "all", *asked)
    assert status == 0, shown
    assert f"{secrets[2]}+" in shown
    assert secrets[0] in shown


def test_what_is_missing_is_listed_once_without_a_terminal(tmp_path: Path) -> None:
    status, said = run(tmp_path, "ansible-playbook", "clinicops.orthanc.init_inventory", "-e", "orthanc_hostname=PACS!")
    assert status == 2
    message = said[: said.index("Origin:")]
    assert "4 value(s) missing" in message
    assert "-e @values.yml" in message
    examples = yaml.safe_load(message[message.index("with examples:\n") + 15 : message.index("1 value(s) to correct")])
    assert set(examples) == set(VALUES) - {"orthanc_hostname"}
    assert "orthanc_hostname 'PACS!' is not a DNS name. Remedy: use lower-case letters" in message
    assert list_files(tmp_path) == []
    # the examples are complete, and accepted
    directory = tmp_path / "clinic"
    directory.mkdir()
    status, said = init(directory, {**examples, "orthanc_hostname": "pacs.clinic.example"}, "--check")
    assert status == 0, said


# by the variable: a wrong value, and what is said of it; each is the only problem of its run's values
WRONG: list[dict[str, tuple[Any, str]]] = [
    {
        "orthanc_modalities": (
            [{**DEVICE, "aet": "SEVENTEEN_LETTERS"}],
            "orthanc_modalities[0].aet 'SEVENTEEN_LETTERS' is not an AE title. Remedy: use 1 to 16 characters",
        ),
        "orthanc_hostname": ("pacs_1.clinic", "orthanc_hostname 'pacs_1.clinic' is not a DNS name"),
        "orthanc_init_address": ("-oProxyCommand=x", "'-oProxyCommand=x' is not a host name or an address"),
        "orthanc_init_user": ("a b", "'a b' is not a user name"),
        "orthanc_init_directory": ("a,b", "has a comma"),
        "orthanc_https_sources": ("0.0.0.0/0", "include 0.0.0.0/0"),
        "orthanc_users": ("it:boss", "orthanc_users[0].role is not a role"),
        "orthanc_install_method": ("podman", "must be package or docker, not podman"),
        "orthanc_backup_repository": ("nowhere", "orthanc_backup_repository 'nowhere' is neither"),
        "orthanc_tools_method": ("docker", "orthanc_tools_method is set by the playbooks themselves"),
        "orthanc_hostnam": ("x", "did you mean orthanc_hostname?"),
    },
    {
        "orthanc_users": ("it", "orthanc_users must be a list"),
        "orthanc_name": ("{{ nothing_of_that_name }}", "cannot be read: 'nothing_of_that_name' is undefined"),
    },
]


@pytest.mark.parametrize("wrong", WRONG)
def test_every_wrong_value_is_named_and_nothing_is_written(wrong: dict[str, tuple[Any, str]], tmp_path: Path) -> None:
    directory = tmp_path / "clinic"
    directory.mkdir()
    status, said = init(directory, {**VALUES, **{name: value for name, (value, _message) in wrong.items()}})
    assert status == 2
    assert f"{len(wrong)} value(s) to correct; nothing was written." in said
    for _value, message in wrong.values():
        assert message in said, message
    assert list_files(directory) == []


def test_values_of_the_command_line_are_read_as_their_settings_want_them(tmp_path: Path) -> None:
    words = {
        "orthanc_init_address": "pacs",
        "orthanc_hostname": "pacs.clinic.example",
        "orthanc_modalities": "'[{name: us1, aet: US1, host: 198.51.100.21, port: 104, may: [echo]}]'",
        "orthanc_https_sources": "198.51.100.64/26,198.51.100.21",
        "orthanc_backup_repository": "none",
        "orthanc_users": "'it:admin ris:dicomweb_writer'",
        "orthanc_dicom_port": "11112",
        "orthanc_install_method": "docker",
        "orthanc_init_directory": "clinics/north",
    }
    given = [part for name, word in words.items() for part in ("-e", f"{name}={word}")]
    status, said = run(tmp_path, "ansible-playbook", "clinicops.orthanc.init_inventory", *given)
    assert status == 0, said
    assert "ansible-playbook -i clinics/north clinicops.orthanc.deploy" in said
    settings = yaml.safe_load((tmp_path / "clinics/north" / inventory.SETTINGS).read_text())
    assert settings["orthanc_modalities"] == [{**DEVICE, "may": ["echo"]}]
    assert settings["orthanc_https_sources"] == ["198.51.100.64/26", "198.51.100.21"]
    assert settings["orthanc_dicom_port"] == 11112
    assert settings["orthanc_backup_repository"] == ""
    assert [user["name"] for user in settings["orthanc_users"]] == ["it", "ris"]


def test_the_other_usual_settings_are_comments_that_can_be_used(written: tuple[Path, str]) -> None:
    text = (written[0] / "inventory" / inventory.SETTINGS).read_text()
    given = yaml.safe_load(text)
    commented = dict(
        re.findall(r"^# ((orthanc_\w+):.*)$", text, re.MULTILINE)[number][::-1]
        for number in range(text.count("\n# orthanc_"))
    )
    [usual] = [group["settings"] for group in specs.read_groups() if group["title"] == "Usual"]
    assert len(commented) > 10
    assert set(commented) == set(usual) - set(given)
    for name, line in commented.items():
        assert yaml.safe_load(line) == {name: specs.list_public()[name].default}
        assert " # " in line


# --- in a terminal ------------------------------------------------------------------------------
@pytest.fixture
def open_terminal() -> Iterator[Callable[..., Terminal]]:
    """A terminal that is closed after the test, whatever became of it."""
    opened: list[Terminal] = []

    def open_one(directory: Path, *options: str) -> Terminal:
        opened.append(
            Terminal(directory, ENVIRONMENT, "ansible-playbook", "clinicops.orthanc.init_inventory", *options)
        )
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.close()


def test_a_person_is_asked_and_each_answer_is_checked(tmp_path: Path, open_terminal: Callable[..., Terminal]) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    (tmp_path / "password").write_text(PASSWORD)
    terminal = open_terminal(tmp_path, "--vault-password-file", "password", "-e", "orthanc_aet=CLINIC")
    terminal.answer("Directory for the inventory [inventory]:", "taken")
    assert "it contains notes.txt" in terminal.answer("Directory for the inventory", "")
    terminal.answer("Address or host name", "pacs 1")
    assert "'pacs 1' is not a host name" in terminal.answer("Address or host name", "198.51.100.10")
    terminal.answer("User on the server", "root")
    terminal.answer("[package]:", "podman")
    assert "not podman" in terminal.answer("[package]:", "")
    terminal.answer("Name of the server", "")
    terminal.answer("Name of the server", "Pacs")
    assert "'Pacs' is not a DNS name" in terminal.answer("Name of the server", "pacs.clinic.example")
    terminal.answer("Name of the next DICOM device", "us1")
    terminal.answer("AE title of this device", "SEVENTEEN_LETTERS")
    assert "'SEVENTEEN_LETTERS' is not an AE title" in terminal.answer("AE title of this device", "US1")
    terminal.answer("IP address of this device", "us1.clinic.example")
    terminal.answer("IP address of this device", "198.51.100.21")
    terminal.answer("DICOM port of this device [104]:", "")
    terminal.answer("What this device may do", "")
    terminal.answer("Name of the next DICOM device", "us2")
    terminal.answer("AE title of this device", "US1")
    assert "US1" in terminal.answer("AE title of this device", "US2")
    terminal.answer("IP address of this device", "198.51.100.22")
    terminal.answer("DICOM port of this device [104]:", "11112")
    terminal.answer("What this device may do", "echo, find, move")
    terminal.answer("Name of the next DICOM device", "")
    terminal.answer("from which users and systems read over HTTPS", "198.51.100.64/26 198.51.100.200")
    terminal.answer("administrators' computers", "")
    terminal.answer("Users, each with a role", "it:admin viewer:boss")
    assert "is not a role" in terminal.answer("Users, each with a role", "it:admin viewer:dicomweb_reader")
    terminal.answer("Where backups go", "none")
    status, said = terminal.end()
    assert status == 0, said
    assert f"ansible-playbook -i inventory --vault-password-file {tmp_path}/password clinicops.orthanc.deploy\n" in said
    host = read_host(tmp_path, "--vault-password-file", "password")
    assert host["orthanc_modalities"] == [
        DEVICE,
        {"name": "us2", "aet": "US2", "host": "198.51.100.22", "port": 11112, "may": ["echo", "find", "move"]},
    ]
    assert host["orthanc_https_sources"] == ["198.51.100.64/26", "198.51.100.200"]
    assert host["orthanc_backup_repository"] == ""
    assert host["orthanc_aet"] == "CLINIC"
    assert [user["name"] for user in host["orthanc_users"]] == ["it", "viewer"]
    assert list_files(tmp_path / "inventory") == FILES


def test_a_vault_password_is_typed_twice(tmp_path: Path, open_terminal: Callable[..., Terminal]) -> None:
    given = {name: value for name, value in VALUES.items() if name != "orthanc_backup_repository"}
    (tmp_path / "values.yml").write_text(json.dumps(given))
    for again, status, message in (("other", 2, "The vault passwords differ"), (PASSWORD, 0, "--ask-vault-pass")):
        terminal = open_terminal(tmp_path, "--ask-vault-pass", "-e", "@values.yml")
        terminal.answer("Vault password:", PASSWORD)
        terminal.answer("The same vault password once more:", again)
        if status == 0:
            for question in ("Directory", "User on the server", "[package]", "administrators'", "Users, each"):
                terminal.answer(question, "")
            terminal.answer("Where backups go", "/mnt/disk/orthanc")
        ended, said = terminal.end()
        assert ended == status, said
        assert message in said
        assert PASSWORD not in said
    (tmp_path / "password").write_text(PASSWORD)
    assert read_host(tmp_path, "--vault-password-file", "password")["vault_orthanc_backup_password"]


def test_an_interrupt_writes_nothing(tmp_path: Path, open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal(tmp_path)
    terminal.answer("Directory for the inventory", "inventory")
    terminal.answer("Address or host name", "\x03")
    status, said = terminal.end()
    assert status == 2
    assert "Interrupted; nothing was written." in said
    assert list_files(tmp_path) == []


def test_a_person_is_not_asked_when_everything_is_given(tmp_path: Path, open_terminal: Callable[..., Terminal]) -> None:
    given = tmp_path / "values.yml"
    given.write_text(json.dumps(VALUES))
    terminal = open_terminal(tmp_path, "-e", "@values.yml")
    status, said = terminal.end()
    assert status == 0, said
    assert list_files(tmp_path / "inventory") == [".gitignore", *FILES]


# --- questions ----------------------------------------------------------------------------------
def test_every_question_is_on_a_setting_or_on_the_way_to_the_server() -> None:
    asked = {one.variable for one in questions.QUESTIONS}
    assert asked - set(specs.list_public()) == set(questions.OWN)
    [first] = [group["settings"] for group in specs.read_groups() if group["title"] == "First"]
    assert set(first) <= asked
    assert [one.variable for one in questions.find_missing([])] == list(VALUES)


def test_the_page_has_every_question_with_its_default_and_a_file_that_answers_them() -> None:
    page = (ROOT / "docs" / "inventory.md").read_text()
    for one in questions.QUESTIONS:
        shown = {None: "required", "": "empty", questions.NONE: "none"}.get(one.default, f"`{one.default}`")
        assert f"| {one.variable} | {shown} |" in page
    [example] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert questions.find_missing(yaml.safe_load(example)) == []


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("orthanc_https_sources", "none", []),
        ("orthanc_https_sources", " 198.51.100.1,198.51.100.2  198.51.100.3 ", [f"198.51.100.{n}" for n in (1, 2, 3)]),
        ("orthanc_https_sources", '["198.51.100.1"]', ["198.51.100.1"]),
        ("orthanc_backup_hours", "1 5", [1, 5]),
        ("orthanc_backup_append_only", "true", True),
        ("orthanc_dicom_port", "104", 104),
        ("orthanc_dicom_port", "104: {", "104: {"),
        ("orthanc_hostname", "104", "104"),
        ("orthanc_users", "it:admin", [{"name": "it", "role": "admin"}]),
        ("orthanc_users", [{"name": "it"}], [{"name": "it"}]),
        ("orthanc_init_user", " it ", "it"),
        ("clinic_own", "none", "none"),
    ],
)
def test_an_answer_is_read_as_its_setting_wants_it(variable: str, text: Any, value: Any) -> None:
    assert questions.read_answer(variable, text) == value
