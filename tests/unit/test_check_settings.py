"""One check of all settings, before a machine is asked for anything; by the real ansible-playbook."""

from __future__ import annotations

import base64
import datetime
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.clinicops.orthanc.plugins.modules import check_settings
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import specs
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import proxy
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks.settings import CHECKS, Given, find_problems

ROOT = Path(__file__).resolve().parents[2]
ALL = list(CHECKS)
SECRET = "s3cret-that-nobody-guesses"
KEY = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519" + bytes(36)).decode()
VAULT = {f"vault_orthanc_{name}_password": f"{SECRET}-{name}" for name in ("it", "viewer", "gateway")}
# one in each of seven roles: what is said of it, and what to do
FAULTS: list[tuple[str, Any, str, str]] = [
    ("orthanc_install_method", "podman", "orthanc_install_method must be package or docker, not podman", "correct it"),
    ("orthanc_aet", "MORE_THAN_SIXTEEN", "orthanc_aet 'MORE_THAN_SIXTEEN' is not an AE title", "use 1 to 16"),
    (
        "orthanc_worklist_keep_days",
        -1,
        "orthanc_worklist_keep_days must be a whole number from 0 to 3650, not -1",
        "Remedy: ",
    ),
    ("orthanc_proxy_certificate_users", ["gatway"], "names gatway, who is not in orthanc_users", "correct the name"),
    ("orthanc_https_sources", ["0.0.0.0/0"], "(https) include 0.0.0.0/0", "list the clinic's networks"),
    ("orthanc_backup_repository", "nowhere", "orthanc_backup_repository 'nowhere' is neither", "rest:https://host/"),
    (
        "orthanc_monitor_disk_guard_percent",
        60,
        "orthanc_monitor_disk_guard_percent must be a whole number from 0 to 50, not 60",
        "such as 5",
    ),
]


def say(playbook: str, tmp_path: Path, settings: dict[str, Any]) -> tuple[int, str]:
    """Exit code and output, each run of white space one space, of a playbook with settings that its inventory has."""
    (tmp_path / "group_vars").mkdir(exist_ok=True)
    example = yaml.safe_load((ROOT / "inventories/single_clinic/group_vars/orthanc/main.yml").read_text())
    (tmp_path / "group_vars/orthanc.yml").write_text(json.dumps({**example, **VAULT, **settings}))
    (tmp_path / "hosts").write_text("[orthanc]\npacs ansible_connection=local ansible_become=false\n")
    done = subprocess.run(
        ["ansible-playbook", "-i", str(tmp_path / "hosts"), "--check", playbook],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_STDOUT_CALLBACK": "clinicops.orthanc.deploy",
            "COLUMNS": "100",
        },
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_one_fault_in_each_of_seven_roles_is_seven_problems_in_one_run(tmp_path: Path) -> None:
    faults = {name: value for name, value, _message, _remedy in FAULTS}
    status, said = say("clinicops.orthanc.deploy", tmp_path, {**faults, "orthanc_backup_password": SECRET})
    assert status == 2
    assert "7 setting(s) to correct; nothing was changed." in said
    for _name, _value, message, remedy in FAULTS:
        assert said.count(message) == 1, message
        assert remedy in said, remedy
    assert "Would change nothing" in said
    assert "Check all settings before anything changes (step 1 of" in said
    assert SECRET not in said


@pytest.mark.parametrize("playbook", ["deploy", "verify"])
def test_an_inventory_that_sets_what_the_playbooks_set_is_told_so(playbook: str, tmp_path: Path) -> None:
    private = {"orthanc_tools_method": "docker", "orthanc_config_version": "1.0", "orthanc_proxy_ports": []}
    status, said = say(f"clinicops.orthanc.{playbook}", tmp_path, private)
    assert status == 2
    assert "3 setting(s) to correct" in said
    own = "is set by the playbooks themselves, from"
    assert f"orthanc_tools_method {own} other settings. Remedy: remove it, and set orthanc_install_method." in said
    assert f"orthanc_config_version {own} the state of the machine. Remedy: remove it." in said
    computed = f"orthanc_proxy_ports {own} other settings. Remedy: remove it; it is computed from "
    assert re.search(re.escape(computed) + r"(?=[^.]*orthanc_https_sources,)[^.]*orthanc_proxy_port,", said)
    assert "Would change nothing" in said


def test_a_setting_that_cannot_be_read_is_named_once_with_the_others_problems(tmp_path: Path) -> None:
    users = [{"name": "it", "role": "admin", "password": "{{ vault_of_nobody }}"}]
    wrong = {"orthanc_users": users, "orthanc_proxy_certificate_users": ["it"], "orthanc_worklist_max_items": 0}
    status, said = say("clinicops.orthanc.deploy", tmp_path, wrong)
    assert status == 2
    assert "2 setting(s) to correct" in said
    assert said.count("orthanc_users cannot be read: 'vault_of_nobody' is undefined. Remedy: define it.") == 1
    assert "--ask-vault-pass" in said
    assert "orthanc_worklist_max_items must be a whole number from 1 to 100000, not 0" in said


CLINIC = {"clinic": {"name": "mill"}, "vault_of_the_clinic": SECRET}
UNREADABLE: list[tuple[str, Any, str]] = [
    ("orthanc_name", "{{ clinic.fqdn }}", "object of type 'dict' has no attribute 'fqdn'"),
    ("orthanc_aet", "{{ lookup('file', '/no/such/file') }}", "the lookup plugin 'file' failed"),
    ("orthanc_tmp_dir", "{{ clinic.name ", "syntax error in template"),
    ("orthanc_monitor_webhook", "{{ orthanc_monitor_webhook }}", "recursive loop detected"),
    ("orthanc_monitor_mail_to", "{{ clinic[vault_of_the_clinic] }}", "its template fails"),
]


def test_a_template_that_fails_without_a_fact_is_refused_before_a_machine_is_asked(tmp_path: Path) -> None:
    wrong = {name: value for name, value, _why in UNREADABLE}
    # a fact may be right
    right = {
        "orthanc_worklist_keep_days": "{{ clinic_days }}",
        "clinic_days": "{{ ansible_facts.clinic.days }}",
        "orthanc_https_sources": "{{ lookup('ansible.builtin.template', 'sources.j2') | from_yaml }}",
        "orthanc_admin_sources": "{{ hostvars['gateway'].networks }}",
    }
    status, said = say("clinicops.orthanc.deploy", tmp_path, {**CLINIC, **wrong, **right})
    assert status == 2
    assert f"{len(UNREADABLE)} setting(s) to correct" in said
    for name, _value, why in UNREADABLE:
        assert said.count(f"{name} cannot be read: {why}. Remedy: correct its template") == 1, name
    assert "FAILED on pacs: Check all settings before anything changes" in said
    assert SECRET not in said


def test_a_secret_that_cannot_be_decrypted_is_refused_before_a_machine_is_asked(tmp_path: Path) -> None:
    encrypted = VaultLib([("other", VaultSecret(b"another password"))]).encrypt(SECRET).decode()
    (tmp_path / "host_vars").mkdir()
    lines = ["orthanc_monitor_webhook: !vault |", *(f"  {line}" for line in encrypted.splitlines())]
    (tmp_path / "host_vars/pacs.yml").write_text("\n".join(lines))
    status, said = say("clinicops.orthanc.deploy", tmp_path, {})
    assert status == 2
    assert "1 setting(s) to correct" in said
    assert re.search(r"orthanc_monitor_webhook cannot be read: [^.]*vault[^.]*\. Remedy: define it\.", said), said


def test_a_setting_that_is_made_of_a_fact_is_checked_when_there_are_facts(tmp_path: Path) -> None:
    name = "{{ ansible_facts.architecture.replace('_', '-') }}.clinic.example"
    wrong = {"orthanc_hostname": name, "orthanc_aet": "{{ ansible_facts.kernel }}_MORE_THAN_SIXTEEN"}
    status, said = say("clinicops.orthanc.deploy", tmp_path, wrong)
    assert status == 2
    assert "FAILED on pacs: Check the settings that depend on facts" in said
    assert "1 setting(s) to correct" in said
    assert "MORE_THAN_SIXTEEN' is not an AE title" in said


def test_warnings_are_warnings_and_said_once(tmp_path: Path) -> None:
    play = tmp_path / "play.yml"
    roles = [{"role": f"clinicops.orthanc.{role}", "when": False} for role in ALL]
    check = {"name": "Check", "clinicops.orthanc.check_settings": {}, "register": "__orthanc_checked"}
    alone = [
        {
            "name": f"Check {role}",
            "ansible.builtin.import_role": {"name": f"clinicops.orthanc.{role}", "tasks_from": "preflight"},
        }
        for role in ("orthanc_backup", "orthanc_config")
    ]
    wiring = str(ROOT / "playbooks/vars/wiring.yml")
    content = {"hosts": "orthanc", "gather_facts": False, "vars_files": [wiring], "pre_tasks": [check, *alone]}
    play.write_text(json.dumps([{**content, "roles": roles}]))
    device = {"name": "ct", "aet": "CT", "host": "198.51.100.21", "port": 104, "may": ["echo"]}
    two = [device, {**device, "name": "ct2", "aet": "CT2"}]
    waived = {"webdav": "the old viewer reads nothing else"}
    given = {"orthanc_modalities": two, "clinic_own": 1, "orthanc_of_our_own_making": 1, "orthanc_waivers": waived}
    status, said = say(str(play), tmp_path, {**given, "orthanc_config_settings": {"WebDavEnabled": True}})
    assert status == 0, said
    assert said.count("orthanc_backup_repository is not set: there is no backup") == 1
    assert said.count("is also used by orthanc_modalities[0]") == 1
    assert said.count("orthanc_of_our_own_making is not a setting of this collection") == 1
    assert said.count("Waived: orthanc_config_settings.WebDavEnabled") == 1
    assert "clinic_own" not in said


@pytest.mark.parametrize(
    ("role", "settings", "message"),
    [
        (
            "firewall",
            {"orthanc_firewall_ports": [{"name": "dicom", "port": 1, "sources": ["office"]}]},
            "must all be addr",
        ),
        ("proxy", {"orthanc_proxy_certificate": "bought"}, "orthanc_proxy_certificate is bought"),
        (
            "monitor",
            {"orthanc_monitor_disk_guard_percent": 60},
            "orthanc_monitor_disk_guard_percent must be a whole number from 0 to 50, not 60",
        ),
        ("backup", {"orthanc_backup_repository": "nowhere", "orthanc_backup_password": SECRET}, "'nowhere' is neither"),
        ("config", {"orthanc_config_settings": {"StabelAge": 60}}, "StabelAge is not an Orthanc option"),
        ("worklist", {"orthanc_worklist_writers": [{"name": "root", "keys": [KEY]}]}, "'root' is an account of this"),
    ],
)
def test_a_role_alone_checks_its_own_settings(
    role: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    play = tmp_path / "play.yml"
    imported = {"name": f"clinicops.orthanc.orthanc_{role}", "tasks_from": "preflight"}
    task = {"name": "Check the role", "ansible.builtin.import_role": imported}
    play.write_text(json.dumps([{"hosts": "orthanc", "gather_facts": False, "vars": settings, "tasks": [task]}]))
    status, said = say(str(play), tmp_path, {"orthanc_install_method": "podman"})
    assert status == 2
    assert "1 setting(s) to correct" in said, said
    assert said.count(message) == 1


def test_every_private_variable_is_made_of_public_settings_or_of_the_machine() -> None:
    machine = {name for name in specs.read_wiring() if not specs.list_sources(name)}
    assert "orthanc_config_plugins" in machine
    assert len(machine) <= 16
    made = {source for name in specs.read_wiring() for source in specs.list_sources(name)}
    assert not [name for name in made if specs.is_private(name)]
    assert made <= {*map(specs.name_public, specs.read_all_defaults())}


def test_every_role_is_checked_and_the_module_says_so() -> None:
    # the role of the shared settings has none of its own
    assert {"orthanc", *ALL} == {path.name for path in (ROOT / "roles").iterdir()}
    assert yaml.safe_load(check_settings.DOCUMENTATION)["options"]["roles"]["choices"] == ALL


def test_no_playbook_wires_what_the_wiring_has() -> None:
    for path in (ROOT / "playbooks").glob("*.yml"):
        for play in yaml.safe_load(path.read_text()):
            # what only a play's own tasks read begins with __
            assert [name for name in play.get("vars", {}) if not name.startswith("__")] == [], path
            # two have no server, the server of one has no inventory yet, and a deploy goes on with those that answer
            alone = {"init_inventory.yml": "localhost", "overview.yml": "localhost", "adopt.yml": "the hosts of 'all'"}
            hosts = re.sub(
                r"{{ lookup\('clinicops.orthanc.orthanc_hosts', (.+?)[,)].*",
                r"the hosts of \1",
                play["hosts"],
                flags=re.S,
            )
            assert hosts in (alone.get(path.name, "the hosts of 'orthanc'"), "orthanc:&orthanc_reached"), path
            if "roles" in play or "import_role" in str(play):
                assert play["vars_files"] == ["vars/connection.yml", "vars/wiring.yml"], path
            else:
                assert play.get("vars_files") in (None, ["vars/connection.yml"]), path


def give(**changed: Any) -> Given:
    """The defaults of all roles, with a clinic's name and user."""
    values: dict[str, Any] = {}
    shared = {
        "orthanc_hostname": "pacs.clinic.example",
        "orthanc_users": [{"name": "it", "role": "admin", "password": SECRET}],
        **changed,
    }
    for own in specs.read_all_defaults():
        if specs.name_public(own) in shared:
            values[own] = shared[specs.name_public(own)]
    return Given(values)


def test_what_the_specs_alone_say_is_said_with_the_rest() -> None:
    wrong = {"orthanc_install_docker_pids": "many", "orthanc_install_docker_network": "none", "orthanc_backup_host": {}}
    found = {one["path"]: one["message"] for one in find_problems(ALL, give(**wrong)) if one["severity"] == "error"}
    assert found["orthanc_install_docker_pids"] == "must be a whole number"
    assert found["orthanc_install_docker_network"] == "must be one of bridge, host"
    assert set(found) <= set(wrong)


def test_a_line_without_a_value_is_refused_where_it_is_not_empty_text() -> None:
    """A template of a role would fail with it in the middle of a deploy."""
    for name, setting in specs.list_public().items():
        found = find_problems(ALL, give(**{name: None}))
        refused = [one for one in found if one["severity"] == "error" and one["path"].startswith(name)]
        may = setting.default == "" or name == "orthanc_verify_report_directory"  # empty writes none
        if may or setting.entry != "main":
            assert "is empty" not in [one["message"] for one in refused], name
        else:
            assert len(refused) == 1, (name, found)


def test_a_fault_of_a_shared_setting_is_said_once() -> None:
    found = find_problems(ALL, give(orthanc_waivers={"webdav": ""}, orthanc_dicom_port="x"))
    paths = [one["path"] for one in found if one["severity"] == "error"]
    assert sorted(paths) == ["orthanc_dicom_port", "orthanc_waivers.webdav"]


def test_whether_a_waiver_is_needed_is_not_said_before_the_version_is_known() -> None:
    assert "idle_waiver" not in {one["rule"] for one in find_problems(ALL, give(orthanc_waivers={"webdav": "x" * 20}))}
    known = give(orthanc_waivers={"webdav": "x" * 20}, orthanc_config_version="1.12.7")
    assert "idle_waiver" in {one["rule"] for one in find_problems(ALL, known)}


@pytest.mark.parametrize("value", [True, "yes", "on", "True", 1, "1"])
def test_a_firewall_that_is_on_in_any_spelling(value: Any) -> None:
    """`-e orthanc_firewall_enabled=true` is text."""
    assert [one for one in find_problems(ALL, give(orthanc_firewall_enabled=value)) if one["severity"] == "error"] == []


@pytest.mark.parametrize("value", [False, "no", "off", "False", 0, "0"])
def test_a_firewall_that_is_off_in_any_spelling(value: Any) -> None:
    [found] = [one for one in find_problems(ALL, give(orthanc_firewall_enabled=value)) if one["severity"] == "error"]
    assert (found["path"], found["rule"]) == ("orthanc_firewall_enabled", "no_firewall")


@pytest.mark.parametrize("value", ["maybe", "y", "n", "t", 2, 1.0, " yes", "", [True]])
@pytest.mark.parametrize("name", ["firewall_enabled", "monitor_prometheus", "backup_append_only", "rollout_back"])
def test_neither_true_nor_false(name: str, value: Any) -> None:
    """The filter `bool` takes `y` for false, and its elder brother for true."""
    [found] = [one for one in find_problems(ALL, give(**{f"orthanc_{name}": value})) if one["severity"] == "error"]
    assert (found["path"], found["message"]) == (f"orthanc_{name}", "must be true or false")


@pytest.mark.parametrize("host", ["us1.clinic.example", "198.51.100.21/24", "0.0.0.0/0", 5, None, ["198.51.100.21"]])
def test_a_device_without_an_address_is_one_problem(host: Any) -> None:
    device = {"name": "us1", "aet": "US1", "host": host, "port": 104, "may": ["echo"]}
    firewall = [
        {"name": "dicom", "port": 4242, "sources": [host, "198.51.100.90/26"]},
        # each as text, and the same mistake in another setting
        {"name": "dicom_tls", "port": 2762, "sources": [str(host)]},
        {"name": "https", "port": 443, "sources": [str(host)]},
    ]
    found = find_problems(ALL, give(orthanc_modalities=[device], orthanc_firewall_ports=firewall))
    paths = [one["path"] for one in found if one["severity"] == "error"]
    ports = ["the sources of port 4242 (dicom)", "the sources of port 443 (https)"]
    assert paths == ["orthanc_modalities[0].host", *ports]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"orthanc_backup_hours": ["late", 5]}, "must be a list of whole numbers"),
        ({"orthanc_verify_places": {"a": "b"}}, "must be a list of text"),
    ],
)
def test_what_a_list_consists_of(setting: dict[str, Any], message: str) -> None:
    [found] = [one for one in find_problems(ALL, give(**setting)) if one["severity"] == "error"]
    assert found["message"] == message


KINDS: tuple[Any, ...] = (None, "", "x", "1", 1, -1, True, [], ["x"], [None], [{}], {}, {"x": None}, [[1]])


@pytest.mark.parametrize("role", ALL)
def test_any_kind_of_value_gives_problems_not_a_traceback(role: str) -> None:
    for own in specs.list_unwired(role) & specs.read_specs(role)["main"]["options"].keys():
        for value in KINDS:
            for one in find_problems(ALL, give(**{specs.name_public(own): value})):
                assert set(one) == {"rule", "severity", "path", "message", "remedy"}


PROXY = {
    own.removeprefix("orthanc_proxy_"): value
    for own, value in {**specs.read_defaults("orthanc_proxy"), "orthanc_proxy_hostname": "pacs.clinic.example"}.items()
} | {"sources": [], "admin_sources": [], "users": [{"name": "it"}], "dicom_devices": [{"name": "us1"}]}


@pytest.mark.parametrize(
    ("settings", "reason", "remedy"),
    [
        ({"certificate": "bought"}, "is bought", "use self_signed, provided or acme"),
        ({"sources": "198.51.100.0/24"}, "must be a list", "after a hyphen"),
        ({"certificate_users": "it"}, "must be a list", "after a hyphen"),
        ({"allowed_origins": ["*"]}, "contains *", "browser's Origin header"),
        ({"allowed_origins": ["https://a.example/"]}, "contains https://a.example/", "without a path"),
        ({"allowed_origins": ["https://a.example\n"]}, "contains https://a.example\n", "without a path"),
        ({"certificate_users": ["gatway"]}, "names gatway, who is not in orthanc_users", "correct the name"),
        (
            {"certificate_users": ["it", "us1"], "users": [{"name": "it"}, {"name": "us1"}]},
            "names us1, which is also the name of a",
            "rename",
        ),
        ({"revoked_certificates": ["us1"]}, "contains us1", "openssl x509"),
        ({"certificate": "provided", "certificate_chain": None}, "must be text", "write it in PEM"),
        ({"certificate": "provided"}, "is not a certificate in PEM", "the server's certificate"),
        ({"certificate": "acme", "acme_email": 1}, "must be text", "write it in quotes"),
        ({"port": 80}, "is 80, where plain HTTP", "such as 8443"),
        ({"port": "22"}, "is 22, the port of SSH", "such as 8443"),
        ({"port": 65536}, "is 65536, which is not a TCP port", "such as 8443"),
        *(
            ({"address": one}, f"({one}) is not an address that other machines can call", "one address of the server")
            for one in ("pacs", "127.0.0.1", "0.0.0.0", "fe80::1", "198.51.100.0/26")
        ),
        ({"address": "2001:DB8::1"}, "(2001:DB8::1) is not in its usual form", "write 2001:db8::1"),
        (
            {"address": "2001:db8::1", "sources": ["198.51.100.64/26"], "admin_sources": ["198.51.100.90"]},
            "is 2001:db8::1, but orthanc_https_sources and orthanc_admin_sources have no network of IPv6",
            "or set an address of IPv4",
        ),
        ({"address": "198.51.100.10", "sources": ["2001:db8::/32"]}, "have no network of IPv4", "address of IPv6"),
        ({"certificate": "acme"}, "Let's Encrypt cannot issue for it", "another ACME server, or self_signed"),
    ],
)
def test_a_wrong_setting_of_the_proxy_is_named(settings: dict[str, Any], reason: str, remedy: str) -> None:
    [found] = proxy.problems({**PROXY, **settings}, datetime.datetime.now(datetime.UTC))
    assert reason in found["message"]
    assert remedy in found["remedy"]


def test_right_settings_of_the_proxy_have_no_problem() -> None:
    right: dict[str, Any] = {
        "port": 8443,
        "address": "2001:db8::1",
        "sources": ["198.51.100.64/26", "2001:db8:100:2::/64"],
        "allowed_origins": ["https://viewer.clinic.example:8443"],
        "certificate_users": ["it"],
    }
    right["revoked_certificates"] = ["0A:1B:2C:3D:4E:5F:60:71"]
    assert proxy.problems({**PROXY, **right}, datetime.datetime.now(datetime.UTC)) == []
