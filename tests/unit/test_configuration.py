"""What a clinic may write, and what it is told when it may not."""

from __future__ import annotations

import copy
import ipaddress
import json
from datetime import date
from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils import masking
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import configuration

GOOD: dict[str, Any] = {
    "name": "Clinic Orthanc",
    "hostname": "pacs.clinic.example",
    "aet": "ORTHANC",
    "dicom_port": 4242,
    "http_port": 8042,
    "storage_dir": "/var/lib/orthanc/db",
    "tmp_dir": "/var/lib/orthanc/tmp",
    "worklist_dir": "/var/lib/orthanc/worklists",
    "users": [{"name": "it", "password": "long-enough-password", "role": "admin"}],
    "modalities": [
        {
            "name": "us1",
            "aet": "US1",
            "host": "198.51.100.21",
            "port": 104,
            "may": ["store"],
        }
    ],
    "settings": {},
    "version": "1.12.7+dfsg-4",
    "plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
    "local_modalities": [
        {"name": "acceptance_test", "aet": "ACCEPTANCE_TEST", "host": "127.0.0.1", "port": 11112, "may": ["echo"]}
    ],
    "worklist_plugin": "worklists",
}


def with_change(path: str, value: Any) -> dict[str, Any]:
    settings = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    target: Any = settings
    for step in parents:
        target = target[int(step)] if step.isdigit() else target[step]
    target[int(last) if last.isdigit() else last] = value
    return settings


@pytest.mark.parametrize("version", ["1.10.0", "1.10.1+dfsg-2+deb12u1", "1.12.2", "1.12.7+dfsg-4", "1.12.10", "1.13.0"])
def test_good_settings_have_no_problem(version: str) -> None:
    assert configuration.problems(with_change("version", version)) == []


@pytest.mark.parametrize(
    ("path", "value", "where", "says"),
    [
        (
            "modalities.0.may",
            [{"store": True}],
            "orthanc_modalities[0].may",
            "contains {'store': True}",
        ),
        ("modalities.0.may", [], "orthanc_modalities[0].may", "must be a list of rights"),
        ("worklist_dir", "/var/lib/orthanc/db", "orthanc_worklist_dir", "is inside orthanc_storage_dir"),
        ("worklist_dir", "/var/lib/orthanc/db/wl", "orthanc_worklist_dir", "is inside orthanc_storage_dir"),
        ("storage_dir", "/var/lib/orthanc/tmp/db", "orthanc_storage_dir", "is inside orthanc_tmp_dir"),
        (
            "settings",
            {"Worklists": {"Database": "/srv/wl"}},
            "orthanc_config_settings.Worklists.Database",
            "is computed from",
        ),
        ("hostname", "198.51.100.70", "orthanc_hostname", "is an IP address"),
        ("modalities.0.manufacturer", "GE", "orthanc_modalities[0].manufacturer", "not a setting"),
        ("modalities.0", {"nmae": "us1"}, "orthanc_modalities[0].name", "is missing"),
        ("users.0.comment", "x", "orthanc_users[0].comment", "not a setting"),
        ("users", {"it": "x"}, "orthanc_users", "must be a list"),
        ("users.0.password", "password12345", "orthanc_users[0].password", "easy to guess"),
        ("users.0.password", "aaaaaaaaaaaa", "orthanc_users[0].password", "easy to guess"),
        ("users.0.password", "it1234567890", "orthanc_users[0].password", "easy to guess"),
        ("storage_dir", "/etc", "orthanc_storage_dir", "belongs to the system"),
        ("storage_dir", "/home/images", "orthanc_storage_dir", "belongs to the system"),
        ("tmp_dir", "/var/lib", "orthanc_tmp_dir", "belongs to the system"),
        ("dicom_port", 443, "orthanc_dicom_port", "port of the proxy"),
        ("http_port", "04242", "orthanc_http_port", "is also the DICOM port"),
        ("users.0.name", "Default", "orthanc_users[0].name", "reserved by nginx"),
        ("hostname", "", "orthanc_hostname", "not set"),
        ("hostname", "pacs clinic", "orthanc_hostname", "not a DNS name"),
        ("aet", "SEVENTEEN_LETTERS", "orthanc_aet", "not an AE title"),
        ("aet", "", "orthanc_aet", "not an AE title"),
        ("dicom_port", 0, "orthanc_dicom_port", "not a TCP port"),
        ("dicom_port", True, "orthanc_dicom_port", "not a TCP port"),
        ("http_port", "4242", "orthanc_http_port", "also the DICOM port"),
        ("storage_dir", "OrthancStorage", "orthanc_storage_dir", "must be an absolute path"),
        ("tmp_dir", "/var/lib/orthanc images", "orthanc_tmp_dir", "not a plain path"),
        ("worklist_dir", "/var/lib/../etc", "orthanc_worklist_dir", "not a plain path"),
        ("users", [], "orthanc_users", "is empty"),
        (
            "users.0.password",
            "change-this-password",
            "orthanc_users[0].password",
            "publicly known default",
        ),
        ("users.0.password", "orthanc", "orthanc_users[0].password", "publicly known default"),
        ("users.0.password", "short", "orthanc_users[0].password", "shorter than 12"),
        (
            "users.0.password",
            "dollar${dollar}$dollar",
            "orthanc_users[0].password",
            "contains ${",
        ),
        ("users.0.name", "a:b", "orthanc_users[0].name", "not a valid user name"),
        ("users.0.role", "root", "orthanc_users[0].role", "not a role"),
        (
            "modalities.0.host",
            "us1.clinic.example",
            "orthanc_modalities[0].host",
            "not an IP address",
        ),
        ("modalities.0.name", "us 1", "orthanc_modalities[0].name", "not a name"),
        (
            "modalities.0.may",
            ["echo", "stor"],
            "orthanc_modalities[0].may",
            "contains 'stor'",
        ),
        ("modalities", GOOD["modalities"] * 2, "orthanc_modalities[1].aet", "used by"),
        ("modalities.0.aet", "acceptance_test", "orthanc_modalities[0].aet", "used by this machine"),
        ("modalities.0.host", "127.0.0.1", "orthanc_modalities[0].host", "used by this machine"),
        ("settings", {"DicomPort": 104}, "orthanc_config_settings.DicomPort", "is computed from orthanc_dicom_port"),
        (
            "settings",
            {"DicomAlwaysAllowStore": True},
            "orthanc_config_settings.DicomAlwaysAllowStore",
            "devices that are not listed may do this",
        ),
        (
            "settings",
            {"AuthenticationEnabled": False},
            "orthanc_config_settings.AuthenticationEnabled",
            "behind a proxy on this machine, everybody is let in",
        ),
        (
            "settings",
            {"DicomAlwaysAllowStor": 1},
            "orthanc_config_settings.DicomAlwaysAllowStor",
            "not an Orthanc option",
        ),
        (
            "settings",
            {"ZipUseUtf8": True},
            "orthanc_config_settings.ZipUseUtf8",
            "came with Orthanc 1.12.11",
        ),
        (
            "settings",
            {"HttpThreadsCount": "50"},
            "orthanc_config_settings.HttpThreadsCount",
            "not of type int",
        ),
    ],
)
def test_each_problem_names_its_setting_and_a_remedy(path: str, value: Any, where: str, says: str) -> None:
    found = [item for item in configuration.problems(with_change(path, value)) if item["path"] == where]
    assert len(found) == 1
    assert says in found[0]["message"]
    assert found[0]["remedy"]


@pytest.mark.parametrize(
    ("value", "kind"), [(1234, "a number"), (False, "true or false"), (date(2026, 11, 30), "a date")]
)
def test_a_name_that_lacks_quotes_is_told_so(value: Any, kind: str) -> None:
    for path, where in (("aet", "orthanc_aet"), ("modalities.0.aet", "orthanc_modalities[0].aet")):
        [aet] = configuration.problems(with_change(path, value))
        assert (aet["path"], aet["remedy"]) == (where, "put it in quotes")
        assert aet["message"].endswith(f"is read by YAML as {kind}")
    [name] = configuration.problems(with_change("users.0.name", value))
    # it may be a misplaced password
    assert (name["message"], name["remedy"]) == (f"is read by YAML as {kind}", "put the name in quotes")


NETWORKS = ["198.51.100.64/26"]
ANY_ADDRESS = {"any_address": "the portable scanner has no fixed address"}


@pytest.mark.parametrize("sources", [None, "198.51.100.64/26"])
def test_networks_of_devices_are_a_list(sources: Any) -> None:
    [found] = configuration.problems(with_change("dicom_sources", sources))
    assert (found["path"], found["message"]) == ("orthanc_dicom_sources", "must be a list")


@pytest.mark.parametrize("options", [{}, {"DicomCheckModalityHost": True}, {"DicomAlwaysAllowStore": False}])
def test_networks_of_devices_that_orthanc_refuses_are_refused(options: dict[str, Any]) -> None:
    [found] = configuration.problems({**GOOD, "dicom_sources": NETWORKS, "settings": options, "waivers": ANY_ADDRESS})
    assert found["path"] == "orthanc_dicom_sources"
    assert "orthanc_config_settings: {DicomCheckModalityHost: false}" in found["remedy"]


@pytest.mark.parametrize("option", [{"DicomAlwaysAllowStore": True}, {"DicomModalitiesInDatabase": True}])
def test_networks_of_devices_that_orthanc_accepts_are_right(option: dict[str, Any]) -> None:
    found = configuration.problems({**GOOD, "dicom_sources": NETWORKS, "settings": option})
    assert "orthanc_dicom_sources" not in [one["path"] for one in found]
    off = {"DicomCheckModalityHost": False}
    [waived] = configuration.problems({**GOOD, "dicom_sources": NETWORKS, "settings": off, "waivers": ANY_ADDRESS})
    assert waived["severity"] == "waived"


def test_a_typo_gets_the_nearest_right_name() -> None:
    (found,) = configuration.problems(with_change("settings", {"StabelAge": 60}))
    assert found["remedy"].startswith("did you mean StableAge?; if your own script reads it")


def test_a_workstation_may_have_two_ae_titles() -> None:
    second = {**GOOD["modalities"][0], "name": "us1_find", "aet": "US1_FIND"}
    (item,) = configuration.problems({**GOOD, "modalities": [*GOOD["modalities"], second]})
    assert (item["path"], item["severity"]) == ("orthanc_modalities[1].host", "warning")


def test_a_wrong_user_is_one_problem() -> None:
    (item,) = configuration.problems(with_change("users.0.role", "root"))
    assert item["path"] == "orthanc_users[0].role"


def test_no_problem_repeats_a_password() -> None:
    settings = with_change("users.0.password", "dollar${dollar}$dollar")
    assert "dollar$" not in json.dumps(configuration.problems(settings))
    for section in ("PostgreSQL", "Pkcs11", "AzureBlobStorage"):
        found = configuration.problems(with_change("settings", {section: "user:hunter22@192.0.2.1"}))
        assert found
        assert "hunter22" not in json.dumps(found)
    assert "hunter22" not in json.dumps(configuration.problems(with_change("users.0.name", "hunter22 swapped")))


def test_ports_written_as_text_become_numbers() -> None:
    built = configuration.build(with_change("dicom_port", "104"))
    assert built["DicomPort"] == 104


@pytest.mark.parametrize(("own", "length"), [({}, 65534), ({"MaximumPduLength": 16384}, 16384)])
def test_devices_may_send_in_large_pieces_unless_the_clinic_says_otherwise(own: dict[str, int], length: int) -> None:
    settings = {**GOOD, "settings": own}
    assert configuration.problems(settings) == []
    assert configuration.build(settings)["MaximumPduLength"] == length


def test_what_is_built_is_closed() -> None:
    built = configuration.build(GOOD)
    assert built["AuthenticationEnabled"] is True
    assert built["RemoteAccessAllowed"] is False
    assert built["DicomCheckCalledAet"] is True
    assert built["DicomCheckModalityHost"] is True
    assert not any(value for name, value in built.items() if name.startswith("DicomAlwaysAllow"))
    us1 = built["DicomModalities"]["us1"]
    assert us1["AllowStore"] is True
    assert not any(
        us1[name]
        for name in (
            "AllowEcho",
            "AllowFind",
            "AllowFindWorklist",
            "AllowMove",
            "AllowGet",
        )
    )


@pytest.mark.parametrize("name", [7, False, 1.5, None])
def test_a_device_whose_name_yaml_reads_as_something_else_hides_no_other_problem(name: Any) -> None:
    """A key that is no string ended the checks of all other options."""
    settings = {**with_change("modalities.0.name", name), "settings": {"OverwriteInstances": True, "Misspelt": 1}}
    found = {item["path"]: item for item in configuration.problems(settings)}
    assert found["orthanc_modalities[0].name"]["remedy"] == "put the name in quotes"
    assert {"orthanc_config_settings.OverwriteInstances", "orthanc_config_settings.Misspelt"} <= {*found}
    over_tls = configuration.problems({**settings, "dicom_tls": [name]})
    assert "orthanc_dicom_tls" in [item["path"] for item in over_tls]


@pytest.mark.parametrize(("plugin", "folder"), [("worklists", "Database"), ("orthanc-worklists", "Directory")])
def test_each_device_sees_its_own_worklist(plugin: str, folder: str) -> None:
    worklists = configuration.build({**GOOD, "worklist_plugin": plugin})["Worklists"]
    assert worklists["Enable"] is worklists["FilterIssuerAet"] is True
    assert worklists[folder] == GOOD["worklist_dir"]
    assert not {"Database", "Directory"} - {folder} & set(worklists)
    shared = {**GOOD, "worklist_plugin": plugin, "settings": {"Worklists": {"FilterIssuerAet": False}}}
    assert configuration.problems(shared) == []
    assert configuration.build(shared)["Worklists"] == {**worklists, "FilterIssuerAet": False}


def test_masking_leaves_no_password() -> None:
    shown = masking.mask(configuration.build(GOOD))
    assert "long-enough-password" not in json.dumps(shown)
    assert shown["DicomAet"] == "ORTHANC"


US3 = {"name": "us3", "aet": "US3", "host": "198.51.100.23", "port": 104, "may": ["echo", "store"]}


def test_a_device_that_comes_over_tls_is_known_by_its_certificate_s_address() -> None:
    settings = {**GOOD, "modalities": [*GOOD["modalities"], US3], "dicom_tls": ["us3"]}
    assert configuration.problems(settings) == []
    devices = configuration.build(settings)["DicomModalities"]
    assert devices["us1"]["Host"] == "198.51.100.21"
    assert ipaddress.ip_address(devices["us3"]["Host"]) in ipaddress.ip_network("127.64.0.0/10")
    # it stays when others come and go
    alone = configuration.build({**settings, "modalities": [US3]})["DicomModalities"]
    assert alone["us3"] == devices["us3"]
    assert len({configuration.tls_address(f"us{number}") for number in range(100)}) == 100


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dicom_tls": ["us4"]}, "names 'us4', which is not a device"),
        ({"dicom_tls": "us3"}, "must be a list"),
        ({"dicom_tls": ["us3"], "remote_access": True}, "set orthanc_install_docker_network: host"),
        ({"dicom_tls": ["us3"], "modalities": [{**US3, "may": ["move"]}]}, "the right get instead of move"),
        ({"dicom_tls": ["us3"], "dicom_tls_port": 4242}, "is one of Orthanc's own ports"),
        ({"dicom_tls_port": 443}, "is the port of the proxy"),
    ],
)
def test_what_dicom_over_tls_cannot_be(change: dict[str, Any], says: str) -> None:
    found = configuration.problems({**GOOD, "modalities": [US3], **change})
    assert any(says in f"{item['message']}; {item['remedy']}" for item in found), found


def test_roles_stand_where_orthanc_s_filter_reads_them() -> None:
    built = configuration.build({**GOOD, "health_user": "healthcheck"})
    assert built["ClinicopsRoles"] == {"it": "admin", "healthcheck": "health"}
    # the last script's filter is the one that counts
    assert configuration.build({**GOOD, "settings": {"LuaScripts": ["/srv/a.lua"]}})["LuaScripts"] == [
        "/srv/a.lua",
        configuration.FILTER,
    ]


def test_somebody_must_be_admin() -> None:
    (found,) = configuration.problems(with_change("users.0.role", "dicomweb_reader"))
    assert found["message"].startswith("lists no admin")
