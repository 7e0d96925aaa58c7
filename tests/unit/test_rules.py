"""Every configuration gives a list of problems, and no secret gets out."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils import masking
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import configuration, reading, rules
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import variables
from hypothesis import given
from hypothesis import strategies as st
from test_configuration import GOOD, with_change

VERSIONS = ["1.10.0", "1.10.1", "1.12.2", "1.12.7", "1.12.10", "1.13.0"]
BUILT = configuration.build(GOOD)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates(), st.binary(max_size=4)
)
# the options' own names, so that what is drawn gets past the first check
NAMES = st.one_of(
    st.text(max_size=12),
    st.sampled_from([*rules.SCHEMA["properties"], *GOOD, "AET", "Host", "Port", "Url", "Servers", "name", "may"]),
)
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.one_of(NAMES, st.integers()), inner)),
    max_leaves=20,
)


def found(change: dict[str, Any], version: str = "1.12.7", plugin: str = "worklists") -> dict[str, str]:
    """Rule and path of what is wrong with the built configuration after `change`."""
    return {item["rule"]: item["path"] for item in rules.problems({**BUILT, **change}, version, plugin)}


@given(st.dictionaries(NAMES, NESTED, max_size=6), st.sampled_from(VERSIONS))
def test_any_configuration_gives_problems_not_a_traceback(value: dict[str, Any], version: str) -> None:
    assert isinstance(rules.problems(value, version), list)
    assert isinstance(rules.problems({**BUILT, **value}, version), list)


@given(st.dictionaries(st.sampled_from(list(GOOD)), NESTED), NESTED)
def test_any_settings_give_problems_or_a_configuration(value: dict[str, Any], options: Any) -> None:
    changed = {**GOOD, **value, "settings": value.get("settings", options)}
    problems = configuration.problems(changed)
    if not any(item["severity"] == "error" for item in problems):
        built = configuration.build(changed)
        json.dumps(built, allow_nan=False)
        assert type(built["HttpPort"]) is type(built["DicomPort"]) is int
        assert not [item for item in rules.problems(built, "1.12.7") if item["rule"] == "wrong_value"]


SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF, categories=["L", "N", "P"]), min_size=4)
CARRIERS = st.sampled_from(["Password", "CertificateKeyPassword", "Pin", "HttpHeaders", "token", "RegisteredUsers"])


def texts(value: Any) -> Iterator[str]:
    """Every text and number in a structure, and in JSON that stands in its texts."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(key)
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str) and (nested := structure(value)):
        yield from texts(nested)
    else:
        yield str(value)


def structure(text: str) -> Any:
    with contextlib.suppress(ValueError):
        nested = json.loads(text)
        return nested if isinstance(nested, (dict, list)) else None
    return None


@given(SECRETS, CARRIERS, NESTED, st.lists(st.integers(0, 4), max_size=4))
def test_masking_lets_no_secret_through(secret: str, carrier: str, other: Any, ways: list[int]) -> None:
    value: Any = {carrier: {"alice": secret} if carrier in ("HttpHeaders", "RegisteredUsers") else secret}
    for way in ways:
        if way == 0:
            value = {"Servers": value, "Name": f"before {secret} after"}
        elif way == 1:
            value = [other, value]
        elif way == 2:
            value = {"text": json.dumps(value, default=str)}
        elif way == 3:
            value = {"text": json.dumps(value, default=str, ensure_ascii=False)}
        else:
            value = {secret: value, "url": f"https://alice:{secret}@pacs.clinic.example/"}
    for text in texts(masking.mask(value)):
        assert secret not in text.replace(masking.MASK, "").replace(carrier, "")


@pytest.mark.parametrize(
    "value",
    [
        {"HttpProxy": "user:ssw0rd99@192.0.2.1:3128"},
        {"HttpProxy": "http://user:p@ssw0rd99@192.0.2.1:3128"},
        {"PostgreSQL": {"ConnectionUri": "host=db user=u password=ssw0rd99"}},
        {"PostgreSQL": {"Uri": "postgresql://192.0.2.1/orthanc?password=ssw0rd99"}},
        {"DicomWeb": {"Servers": {"a": {"Url": "https://pacs.clinic.example/dicom-web?token=ssw0rd99&x=1"}}}},
        {"Url": "https://user:ssw0rd99@pacs.clinic.example/"},
    ],
)
def test_masking_knows_addresses_that_carry_secrets(value: dict[str, Any]) -> None:
    assert "ssw0rd99" not in json.dumps(masking.mask(value))
    for log in ("tried p@ssw0rd99", "tried ssw0rd99 at user:ssw0rd99@192.0.2.1"):
        if (
            "?" not in json.dumps(value)
            and "host=" not in json.dumps(value)
            and (log[6] == "s") == ("p@" not in str(value))
        ):
            assert "ssw0rd99" not in masking.hide(log, value)


def test_masking_knows_peers_that_are_lists() -> None:
    shown = masking.mask({"OrthancPeers": {"other": ["https://192.0.2.7/", "alice", "their-password"]}})
    assert shown["OrthancPeers"]["other"] == ["https://192.0.2.7/", "alice", masking.MASK]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_defaults_have_no_problem(version: str) -> None:
    assert rules.problems(BUILT, version) == []


PEER = {"Url": "https://192.0.2.7/", "Username": "a", "Password": "b"}


@pytest.mark.parametrize(
    ("change", "rule", "path"),
    [
        ({"MaximumStorageSize": 100}, "recycles_images", "MaximumStorageSize"),
        ({"MaximumPatientCount": 5, "MaximumStorageMode": "Recycle"}, "recycles_images", "MaximumPatientCount"),
        ({"MaximumStorageSize": 100, "MaximumStorageMode": "Rejct"}, "wrong_value", "MaximumStorageMode"),
        ({"StorageDirectory": "OrthancStorage"}, "relative_storage", "StorageDirectory"),
        ({"IndexDirectory": "/srv/index"}, "index_apart", "IndexDirectory"),
        ({"OverwriteInstances": True}, "overwrites_images", "OverwriteInstances"),
        ({"SyncStorageArea": False}, "unsynced_images", "SyncStorageArea"),
        ({"IngestTranscoding": "1.2.840.10008.1.2.4.50"}, "lossy_ingest", "IngestTranscoding"),
        ({"IngestTranscoding": "1.2.840.10008.1.2.4.80"}, "breaks_images", "IngestTranscoding"),
        ({"AcceptedTransferSyntaxes": []}, "stores_nothing", "AcceptedTransferSyntaxes"),
        ({"StoreDicom": False}, "stores_nothing", "StoreDicom"),
        ({"ReadOnly": True}, "stores_nothing", "ReadOnly"),
        ({"DicomAlwaysAllowFindWorklist": True}, "any_device", "DicomAlwaysAllowFindWorklist"),
        ({"DicomCheckModalityHost": False}, "any_address", "DicomCheckModalityHost"),
        ({"DicomCheckCalledAet": False}, "any_called_aet", "DicomCheckCalledAet"),
        ({"WebDavEnabled": True}, "webdav", "WebDavEnabled"),
        ({"ExecuteLuaEnabled": True}, "lua_over_http", "ExecuteLuaEnabled"),
        ({"RestApiWriteToFileSystemEnabled": True}, "writes_files", "RestApiWriteToFileSystemEnabled"),
        ({"RemoteAccessAllowed": True}, "remote_access", "RemoteAccessAllowed"),
        ({"RemoteAccessAllowed": True, "RegisteredUsers": {}}, "no_users", "RegisteredUsers"),
        ({"AuthenticationEnabled": False}, "no_password", "AuthenticationEnabled"),
        ({"RegisteredUsers": {"it": "short"}}, "weak_password", "RegisteredUsers.it"),
        ({"RegisteredUsers": {"orthanc": "orthanc"}}, "weak_password", "RegisteredUsers.orthanc"),
        ({"RegisteredUsers": {"it": "twelve\acharacters"}}, "weak_password", "RegisteredUsers.it"),
        ({"RegisteredUsers": {"i:t": "long-enough-password"}}, "user_name", "RegisteredUsers"),
        ({"RegisteredUsers": {"it": 123456789012}}, "wrong_value", "RegisteredUsers.it"),
        ({"DicomModalitiesInDatabase": True}, "devices_in_database", "DicomModalitiesInDatabase"),
        ({"HttpsVerifyPeers": False}, "unverified_tls", "HttpsVerifyPeers"),
        ({"DeidentifyLogs": False}, "patients_in_logs", "DeidentifyLogs"),
        ({"HttpPort": 4242}, "ports_in_conflict", "HttpPort"),
        ({"HttpPort": "8042"}, "wrong_value", "HttpPort"),
        ({"DicomPort": 70000}, "wrong_value", "DicomPort"),
        ({"DicomTlsEnabled": True}, "missing_file", "DicomTlsTrustedCertificates"),
        ({"DicomModalities": {"us 1": ["US1", "192.0.2.1", 104]}}, "wrong_value", "DicomModalities"),
        ({"DicomModalities": {"us1": ["US1", "192.0.2.1"]}}, "wrong_value", "DicomModalities.us1"),
        ({"DicomModalities": {"us1": ["US1", "192.0.2.1", 104, "Acme"]}}, "wrong_value", "DicomModalities.us1[3]"),
        ({"DicomModalities": {"us1": ["US1", "us1.clinic", 104]}}, "host_is_a_name", "DicomModalities.us1.Host"),
        (
            {"DicomModalities": {"a": ["US1", "192.0.2.1", 104], "b": ["us1", "192.0.2.2", 104]}},
            "one_aet_twice",
            "DicomModalities.b",
        ),
        (
            {"DicomModalities": {"a": {"AET": "US1", "Host": "192.0.2.1", "Port": 104, "AlowStore": True}}},
            "unknown_option",
            "DicomModalities.a.AlowStore",
        ),
        ({"OrthancPeers": {"other": {**PEER, "Pasword": "b"}}}, "unknown_option", "OrthancPeers.other.Pasword"),
        ({"DicomWeb": {"QidoCaseSensitiv": True}}, "unknown_option", "DicomWeb.QidoCaseSensitiv"),
        ({"DicomWeb": {"Servers": {"x": {**PEER, "HasDelet": True}}}}, "unknown_option", "DicomWeb.Servers.x.HasDelet"),
        ({"DicomWeb": {"OtherBinaryMode": "BulkDataURI"}}, "newer_option", "DicomWeb.OtherBinaryMode"),
        ({"DicomWeb": {"Host": "localhost"}}, "fixed_host", "DicomWeb.Host"),
        ({"Worklists": {"Enable": True}}, "worklist_folder", "Worklists"),
        ({"Worklists": {"Enable": True, "Directory": "/srv/wl"}}, "unknown_option", "Worklists.Directory"),
        ({"ZipUseUtf8": True}, "newer_option", "ZipUseUtf8"),
        ({"DicomWeb.Root": "/x/"}, "unknown_option", "DicomWeb.Root"),
        ({"StabelAge": 60}, "unknown_option", "StabelAge"),
    ],
)
def test_each_rule_finds_what_it_is_for(change: dict[str, Any], rule: str, path: str) -> None:
    assert found(change)[rule] == path


def test_jpeg_ls_is_refused_for_the_orthancs_that_break_it() -> None:
    change = {"IngestTranscoding": "1.2.840.10008.1.2.4.80"}
    for version, broken in (("1.10.1", True), ("1.12.7+dfsg-4", True), ("1.13.0", False), ("1.14.0", False)):
        assert ("breaks_images" in found(change, version)) == broken


def test_what_a_release_reads() -> None:
    reject = {"MaximumStorageSize": 100, "MaximumStorageMode": "Reject"}
    assert found(reject, "1.12.7") == {}
    assert found(reject, "1.10.1") == {
        "newer_option": "MaximumStorageMode",
        "recycles_images": "MaximumStorageSize",
    }
    assert found({"RestApiWriteToFileSystemEnabled": True}, "1.10.1") == {
        "writes_files": "RestApiWriteToFileSystemEnabled"
    }
    assert found({"RestApiWriteToFileSystemEnabled": True}, "1.10.0") == {
        "newer_option": "RestApiWriteToFileSystemEnabled"
    }
    assert found(reject, "1.12.2") == {}
    assert found({"HttpBindAddresses": ["127.0.0.1"]}, "1.12.2")["newer_option"]
    assert found({"HttpBindAddresses": ["127.0.0.1"]}, "1.12.10") == {}
    assert found({"OverwriteInstances": "Never"}, "1.12.7") == {"wrong_value": "OverwriteInstances"}
    assert found({"OverwriteInstances": "Never"}, "1.13.0") == {}
    syngo = {"DicomModalities": {"ct": ["CT1", "192.0.2.1", 104, "SiemensSyngoCT"]}}
    assert found(syngo, "1.12.7") == {"wrong_value": "DicomModalities.ct[3]"}
    assert found(syngo, "1.13.0") == {"storage_commitment_open": "DicomModalities.ct"}
    assert found({"DicomWeb": {"MetadataWorkerThreadsCount": 4}}, "1.10.1")["newer_option"]
    assert found({"DicomWeb": {"MetadataWorkerThreadsCount": 4}}, "1.12.7") == {}


def test_the_new_worklist_plugin_has_its_own_options() -> None:
    folder = {"Enable": True, "Directory": "/srv/wl"}
    for worklists, expected in (
        (folder, {}),
        ({"Enable": True}, {"worklist_folder": "Worklists"}),
        ({**folder, "SaveInOrthancDatabase": True}, {"worklist_folder": "Worklists"}),
        ({**folder, "DeleteWorklistsDelay": 24}, {"worklist_folder": "Worklists.DeleteWorklistsDelay"}),
        ({**folder, "DeleteWorklistsOnStableStudy": False}, {}),
        (
            {**folder, "DeleteWorklistsOnStableStudy": True},
            {"worklist_folder": "Worklists.DeleteWorklistsOnStableStudy"},
        ),
    ):
        assert found({"Worklists": worklists}, "1.13.0", "orthanc-worklists") == expected


def test_a_waiver_needs_a_rule_and_a_reason_and_stays_visible() -> None:
    webdav = with_change("settings", {"WebDavEnabled": True})
    reason = "the old viewer reads through WebDAV until spring"
    (item,) = configuration.problems({**webdav, "waivers": {"webdav": reason}})
    assert (item["severity"], item["rule"]) == ("waived", "webdav")
    assert reason in item["remedy"]
    assert configuration.build(webdav)["WebDavEnabled"] is True
    for waivers, says in (
        ({"webdav": ""}, "has no reason"),
        ({"webdaf": reason}, "not a rule that can be waived"),
        ({"no_password": reason}, "not a rule that can be waived"),
        ("webdav", "must be a dictionary"),
    ):
        problems = configuration.problems({**webdav, "waivers": waivers})
        assert {item["severity"] for item in problems} == {"error"}
        assert any(says in item["message"] for item in problems)
    (idle,) = configuration.problems({**GOOD, "waivers": {"webdav": reason}})
    assert (idle["severity"], idle["path"]) == ("warning", "orthanc_waivers.webdav")


@pytest.mark.parametrize("name", ["DicomWeb.QidoCaseSensitive", "Nam[0]", ".", ""])
def test_an_option_with_a_strange_name_is_no_option(name: str) -> None:
    (item,) = configuration.problems(with_change("settings", {name: 1}))
    assert item["rule"] == "unknown_option"
    assert configuration.problems(with_change("settings", {name: {"0": datetime.date(2000, 1, 1)}}))


@pytest.mark.parametrize("option", [*configuration.FIXED, *configuration.DERIVED])
def test_what_the_proxy_relies_on_stays(option: str) -> None:
    section, _, name = option.rpartition(".")
    other = "other" if not isinstance(configuration.FIXED.get(option), bool) else not configuration.FIXED[option]
    problems = configuration.problems(with_change("settings", {section: {name: other}} if section else {name: other}))
    assert f"orthanc_config_settings.{option}" in {item["path"] for item in problems}


def test_a_file_that_is_named_and_absent_is_found() -> None:
    tls = {"DicomTlsEnabled": True, "DicomTlsCertificate": "/srv/crt", "DicomTlsPrivateKey": "/srv/key"}
    tls = {**BUILT, **tls, "DicomTlsTrustedCertificates": "/srv/trusted", "LuaScripts": ["/srv/a.lua", "b.lua"]}
    assert set(rules.files(tls)) == {"/srv/crt", "/srv/key", "/srv/trusted", "/srv/a.lua", "/etc/orthanc/site/b.lua"}
    assert rules.files({**tls, "DicomTlsEnabled": False, "LuaScripts": 1}) == rules.files("no dictionary") == []
    assert rules.problems(tls, "1.12.7") == []
    (item,) = rules.problems(tls, "1.12.7", absent=["/srv/a.lua"])
    assert (item["rule"], item["path"]) == ("missing_file", "LuaScripts")


def test_files_are_read_as_orthanc_reads_them() -> None:
    text = '{ // name\n "Name": "a // b", /* more\n */ "DicomPort": 104, "Plugins": ["x",],\n}'
    read, wrong = reading.read({"orthanc.json": text})
    assert (read, wrong) == ({"Name": "a // b", "DicomPort": 104, "Plugins": ["x"]}, [])
    _read, wrong = reading.read({"a.json": '{"Name": "a"}', "b.json": '{"Name": "b"}', "c.json": "{"})
    assert [(item["rule"], item["path"]) for item in wrong] == [("defined_twice", "Name"), ("bad_json", "c.json")]
    read, wrong = reading.read({"a.json": '{"Name": "a", "Name": "b"}'})
    assert (read["Name"], [item["rule"] for item in wrong]) == ("b", ["stands_twice"])
    windows = '\ufeff{"Name": "Clinic\tNorth", // c\r"DicomAlwaysAllowStore": true}'
    assert reading.read({"a.json": windows}) == ({"Name": "Clinic\tNorth", "DicomAlwaysAllowStore": True}, [])
    assert [item["rule"] for item in reading.read({"a.json": '{"HttpTimeout": NaN}'})[1]] == ["bad_json"]


def test_a_misspelt_variable_is_caught() -> None:
    assert variables.problems(["orthanc_configuration"])  # a module is no variable
    right = ["orthanc_hostname", "orthanc_modalities", "orthanc_waivers", "orthanc_proxy_certificate", "clinic_note"]
    assert variables.problems(right) == []
    (item,) = variables.problems(["orthanc_modalites"])
    assert (item["severity"], "did you mean orthanc_modalities?" in item["remedy"]) == ("error", True)
    (item,) = variables.problems(["orthanc_zzzzzzzzzzzz"])
    assert item["severity"] == "warning"


def test_a_renamed_variable_is_reported_with_its_new_name() -> None:
    assert {*variables.RENAMED.values()} <= variables.list_known()
    assert not variables.RENAMED.keys() & variables.list_known()
    (item,) = variables.problems(["orthanc_monitor_brake_percent"])
    assert item["severity"] == "error"
    assert item["message"] == "is now called orthanc_monitor_disk_guard_percent"
    assert "rename it to orthanc_monitor_disk_guard_percent" in item["remedy"]
