"""What public deployments of Orthanc look like, and what the configuration check says of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.filter.orthanc_configuration_problems import (
    orthanc_configuration_problems as problems,
)
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import configuration, image, reading, rules
from hypothesis import given
from hypothesis import strategies as st
from test_configuration import with_change

# What an open Orthanc of nobody's making breaks anyhow: not what these tests are about.
OPEN = {
    *("any_device", "any_address", "any_called_aet", "webdav", "remote_access", "overwrites_images", "no_users"),
    *("storage_commitment_open", "no_password"),
}
STORAGE = '"StorageDirectory": "/var/lib/orthanc/db"'
CLOSED = f'{STORAGE}, "AuthenticationEnabled": true, "RegisteredUsers": {{"it": "long-enough-password"}}'


def found(text: str, version: str = "1.12.7", /, **more: Any) -> list[tuple[str, str]]:
    """Rule and path of what is found in a file, but for `OPEN`."""
    listed = problems({"orthanc.json": text}, version, **more)
    return [(item["rule"], item["path"]) for item in listed if item["rule"] not in OPEN]


def every_rule(text: str, version: str = "1.12.7") -> dict[str, str]:
    return {item["rule"]: item["severity"] for item in problems({"orthanc.json": text}, version)}


def test_authentication_that_is_not_set_is_on_where_others_may_come() -> None:
    users = f'{STORAGE}, "RegisteredUsers": {{"it": "long-enough-password"}}'
    assert "no_password" not in every_rule(f'{{{users}, "RemoteAccessAllowed": true}}')
    # without it nobody else may come, and then Orthanc asks nobody for a password: nginx neither
    for local in (f"{{{users}}}", f'{{{users}, "RemoteAccessAllowed": false}}'):
        assert every_rule(local)["no_password"] == "error"
    off = f'{STORAGE}, "RemoteAccessAllowed": true, "AuthenticationEnabled": false'
    assert {"no_password", "no_users"} < every_rule(f"{{{off}}}").keys()
    # the Authorization plugin asks a service in Orthanc's place, where it is told of one
    service = '"Authorization": {"WebServiceRootUrl": "http://auth:8000/"}'
    service += ', "Plugins": ["/usr/share/orthanc/plugins"]'
    assert not {"no_password", "no_users"} & every_rule(f"{{{off}, {service}}}").keys()
    assert "no_password" in every_rule(f'{{{off}, "Authorization": {{"TokenHttpHeaders": ["token"]}}}}')


FOLDER, OTHER = "/usr/share/orthanc/plugins/", "libOrthancDicomWeb.so"
GUARD = "libOrthancAuthorization.so"


@pytest.mark.parametrize(
    ("listed", "files", "guarded"),
    [
        (None, [GUARD], False),
        ([], [GUARD], False),
        ([FOLDER], [OTHER], False),
        ([FOLDER + OTHER], [GUARD], False),
        ([FOLDER], [OTHER, GUARD], True),
        ([FOLDER], [], True),
        (["/opt/plugins"], [OTHER], True),
        ([f"/opt/{GUARD}"], [OTHER], True),
        (["${PLUGINS}"], [OTHER], True),
    ],
)
def test_an_authorization_that_no_plugin_reads_guards_nothing(
    listed: list[str] | None, files: list[str], guarded: bool
) -> None:
    whole = {"AuthenticationEnabled": False, "Authorization": {"WebServiceRootUrl": "http://auth:8000/"}}
    text = json.dumps(whole if listed is None else {**whole, "Plugins": listed})
    rules_of = {item["rule"] for item in problems({"/etc/orthanc/a.json": text}, "1.12.7", plugins=files)}
    assert ({"no_password", "no_users"} & rules_of) == (set() if guarded else {"no_password", "no_users"})
    of_image = {item["rule"] for item in problems({"/etc/orthanc/a.json": text}, "1.12.7", plugins=files, image=True)}
    assert not {"no_password", "no_users"} & of_image


def test_a_dollar_is_a_variable_only_before_a_brace() -> None:
    text = f'{{{STORAGE}, "AuthenticationEnabled": true, "RegisteredUsers": {{"it": "%s"}}}}'
    assert found(text % "3$yc$XYQhTA55cJf") == []
    assert found(text % "3${yc}XYQhTA55cJf") == [("from_environment", "orthanc.json")]
    built = configuration.problems(
        with_change("users", [{"name": "it", "password": "3$yc$XYQhTA55cJf", "role": "admin"}])
    )
    assert built == []
    (refused,) = configuration.problems(
        with_change("users", [{"name": "it", "password": "3${yc}XYQhTA55cJf", "role": "admin"}])
    )
    assert "${" in refused["message"]


FROM_ENVIRONMENT = (
    f'{{{STORAGE}, "AuthenticationEnabled": true, "RegisteredUsers": {{"${{ORTHANC_USER}}": "${{ORTHANC_PASS}}"}}, '
    '"HttpPort": ${ORTHANC_HTTP_PORT:-8042}}'
)


def test_values_of_the_environment_are_a_hint_where_it_is_not_seen() -> None:
    assert found(FROM_ENVIRONMENT) == [("from_environment", "orthanc.json")]
    (hint,) = [item for item in problems({"a.json": FROM_ENVIRONMENT}, "1.12.7") if item["rule"] == "from_environment"]
    assert hint["severity"] == "warning"
    assert all(name in hint["message"] for name in ("ORTHANC_USER", "ORTHANC_PASS", "ORTHANC_HTTP_PORT"))


def test_values_of_the_environment_are_checked_where_it_is_seen() -> None:
    seen = {"ORTHANC_USER": "it", "ORTHANC_PASS": "long-enough-password", "ORTHANC_HTTP_PORT": "4242"}
    assert found(FROM_ENVIRONMENT, environment=seen) == [("ports_in_conflict", "HttpPort")]
    assert found(FROM_ENVIRONMENT, environment={**seen, "ORTHANC_PASS": "orthanc"}) == [
        ("weak_password", "RegisteredUsers.it"),
        ("ports_in_conflict", "HttpPort"),
    ]
    # Orthanc 1.12.7 and 1.13.0 then let in a user without a name and without a password
    unset = [rule for rule, _path in found(FROM_ENVIRONMENT, environment={})]
    assert unset == ["unset_variable", "user_name", "weak_password"]
    assert "long-enough" not in json.dumps(problems({"a.json": FROM_ENVIRONMENT}, "1.12.7", environment=seen))


@pytest.mark.parametrize(
    ("written", "environment", "read"),
    [
        ('"<${A}>"', {"A": "x"}, "<x>"),
        ('"<$A>"', {"A": "x"}, "<$A>"),
        ('"<$${A}>"', {"A": "x"}, "<$x>"),
        ('"<${A:-y}>"', {}, "<y>"),
        ('"<${A:-}>"', {}, "<>"),
        ('"<${A:-y}>"', {"A": ""}, "<>"),
        ('"<${A-y}>"', {"A": "x"}, "<>"),
        ('"<${A:=y}>"', {"A": "x"}, "<${A:=y}>"),
        ('"<${A:-a:b}>"', {}, "<a:b>"),
        ("${A}", {"A": '"x"'}, "x"),
        ('"<${A:-y}>"', None, "<y>"),
        ('"<${A}>"', None, "<${A}>"),
        ("${A}", None, "${A}"),
    ],
)
def test_variables_are_replaced_as_orthanc_does(written: str, environment: dict[str, str] | None, read: str) -> None:
    """The first nine as Orthanc 1.12.7 and 1.13.0 did with /system's Name."""
    assert reading.read({"a.json": f'{{"Name": {written}}}'}, environment)[0] == {"Name": read}


@pytest.mark.parametrize(
    "option",
    [
        '"DicomPort": ${X}',
        '"DicomModalities": {"us1": ["${X}", "${X}", ${X}]}',
        '"DicomModalities": {"us1": {"AET": "${X}", "Host": "${X}", "Port": ${X}, "Manufacturer": "${X}"}}',
        '"DicomModalities": ${X}',
        '"DicomModalities": {"${X}": ["US1", "192.0.2.1", 104]}',
        '"IngestTranscoding": "${X}"',
        '"IndexDirectory": "${X}/index"',
        '"OverwriteInstances": ${X}',
        '"MaximumStorageSize": ${X}, "MaximumStorageMode": "${X}"',
        '"Worklists": {"Enable": true, "Database": "${X}"}',
        '"Worklists": {"Enable": ${X}}',
        '"DicomWeb": {"Root": "${X}", "Ssl": ${X}}',
        '"OrthancPeers": {"b": {"Url": "${X}", "Username": "${X}", "Password": "${X}"}}',
        '"LuaScripts": ["${X}"]',
    ],
)
def test_nothing_is_said_of_what_is_not_known(option: str) -> None:
    assert found(f"{{{CLOSED}, {option}}}") == [("from_environment", "orthanc.json")]


def test_nothing_is_said_of_a_folder_of_the_environment() -> None:
    text = '{"StorageDirectory": "${DATA}/db", "AuthenticationEnabled": ${AUTH}, "RegisteredUsers": ${USERS}}'
    assert found(text) == [("from_environment", "orthanc.json")]
    assert not {"no_password", "no_users"} & every_rule(text).keys()


def test_a_text_in_quotes_stays_a_text() -> None:
    """Orthanc puts the value in, and the quotes stay: it must be an integer."""
    assert ("wrong_value", "HttpPort") in found(f'{{{CLOSED}, "HttpPort": "${{X}}"}}')


@pytest.mark.parametrize("rest", ["k\n", "}", ' {"HttpPort": 1}', " /* not closed"])
def test_what_stands_after_the_end_hides_nothing(rest: str) -> None:
    text = f'{{{CLOSED}, "IngestTranscoding": "1.2.840.10008.1.2.4.91"}}{rest}'
    assert found(text) == [("text_after_end", "orthanc.json"), ("lossy_ingest", "IngestTranscoding")]
    assert every_rule(text)["text_after_end"] == "warning"
    assert found(f"k{{{CLOSED}}}") == found(f"{{{CLOSED} # x\n}}") == [("bad_json", "orthanc.json")]
    assert found(f"// c\n{{{CLOSED}}} // x\n") == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        *((name, "Generic") for name in ("ClearCanvas", "MedInria", "EFilm2", "Dcm4Chee")),
        *((name, "GenericNoWildcardInDates") for name in ("SyngoVia", "AgfaImpax")),
    ],
)
def test_an_obsolete_manufacturer_is_a_warning(old: str, new: str) -> None:
    """Orthanc 1.12.7 and 1.13.0 start, and name the same ones to use."""
    for device in (
        f'["OLD", "192.0.2.7", 104, "{old}"]',
        f'{{"AET": "OLD", "Host": "pacs", "Port": 104, "Manufacturer": "{old}"}}',
    ):
        text = f'{{{CLOSED}, "DicomCheckModalityHost": true, "DicomModalities": {{"old": {device}}}}}'
        (item, *others) = [item for item in problems({"a.json": text}, "1.13.0") if item["rule"] not in OPEN]
        assert (item["rule"], item["severity"]) == ("obsolete_value", "warning")
        assert f'write "{new}"' in item["remedy"]
        assert [other["rule"] for other in others] == ([] if device.startswith("[") else ["host_is_a_name"])
    assert every_rule(text.replace(old, old.lower()))["wrong_value"] == "error"


NEW_WORKLISTS = (
    '{%s, "Plugins": [%s], "Worklists": {"Enable": true, "SaveInOrthancDatabase": true, '
    '"DeleteWorklistsOnStableStudy": true, "HousekeepingInterval": 30}}'
)


def test_a_folder_may_hold_either_worklist_plugin() -> None:
    folder = NEW_WORKLISTS % (CLOSED, '"/usr/share/orthanc/plugins"')
    assert found(folder, "1.12.11") == []
    assert found(folder, "1.12.11", plugins=["libOrthancWorklists.so"]) == []
    new = [
        ("unknown_option", f"Worklists.{name}") for name in ("SaveInOrthancDatabase", "DeleteWorklistsOnStableStudy")
    ]
    legacy = [*new, ("unknown_option", "Worklists.HousekeepingInterval"), ("worklist_folder", "Worklists")]
    assert found(folder, "1.12.11", plugins=["libModalityWorklists.so", "libOrthancDicomWeb.so"]) == legacy
    assert found(NEW_WORKLISTS % (CLOSED, '"/opt/libModalityWorklists.so"'), "1.12.11") == legacy
    assert found(NEW_WORKLISTS % (CLOSED, '"/opt/libOrthancWorklists.so"'), "1.12.11") == []
    both = [("worklist_folder", "Worklists")]
    assert (
        found(f'{{{CLOSED}, "Worklists": {{"Enable": true, "Database": "/a", "SaveInOrthancDatabase": true}}}}') == both
    )


def test_one_misspelt_option_hides_nothing() -> None:
    text = (
        '{"StorageDirectory": "/var/lib/orthanc/db", "DicomCheckModalityHost": true, "DicomModalities": {"us1": '
        '{"AET": "US", "Host": "192.0.2.11", "Port": 104, "AlowStore": true}, "us2": ["US", "us2.clinic.example", '
        "104]}, "
        '"DicomWeb": {"Host": "localhost", "Port": 8042}, "Worklists": {"Enable": true, "Port": 105}}'
    )
    assert sorted(found(text)) == [
        ("fixed_host", "DicomWeb.Host"),
        ("host_is_a_name", "DicomModalities.us2.Host"),
        ("one_aet_twice", "DicomModalities.us2"),
        ("unknown_option", "DicomModalities.us1.AlowStore"),
        ("unknown_option", "DicomWeb.Port"),
        ("unknown_option", "Worklists.Port"),
        ("worklist_folder", "Worklists"),
    ]


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        # a wrong value hides its own entry alone
        (
            '"RegisteredUsers": {"a": 1, "b": "orthanc"}',
            ["wrong_value RegisteredUsers.a", "weak_password RegisteredUsers.b"],
        ),
        ('"RegisteredUsers": {"a": 1}', ["wrong_value RegisteredUsers.a"]),
        (
            '"DicomModalities": {"a b": ["X", "192.0.2.1", 104], "c": ["US", "pacs", 104]}',
            ["wrong_value DicomModalities", "host_is_a_name DicomModalities.c.Host"],
        ),
        (
            '"DicomModalities": {"a": ["X", "192.0.2.1"], "b": ["X", "192.0.2.1", 104, "Acme"], '
            '"c": ["US", "pacs", 104]}',
            [
                "wrong_value DicomModalities.b[3]",
                "wrong_value DicomModalities.a",
                "host_is_a_name DicomModalities.c.Host",
            ],
        ),
        ('"Worklists": {"Enable": true, "Database": 1}', ["wrong_value Worklists.Database"]),
        (
            '"Worklists": {"Enable": true, "LimitAnswers": "1"}',
            ["wrong_value Worklists.LimitAnswers", "worklist_folder Worklists"],
        ),
        ('"DicomWeb": {"Host": "a", "Ssl": "true"}', ["wrong_value DicomWeb.Ssl", "fixed_host DicomWeb.Host"]),
        ('"StorageDirectory": 1', ["wrong_value StorageDirectory"]),
        ('"MaximumStorageSize": 5, "MaximumStorageMode": "Rejct"', ["wrong_value MaximumStorageMode"]),
        (
            '"MaximumStorageSize": 5, "MaximumPatientCount": "x"',
            ["wrong_value MaximumPatientCount", "recycles_images MaximumStorageSize"],
        ),
        ('"HttpPort": "8042", "DicomTlsEnabled": "true"', ["wrong_value HttpPort", "wrong_value DicomTlsEnabled"]),
    ],
)
def test_one_wrong_value_hides_nothing_and_adds_nothing(option: str, expected: list[str]) -> None:
    base = f'"DicomCheckModalityHost": true, "AuthenticationEnabled": true, {option}'
    base += "" if "RegisteredUsers" in option else ', "RegisteredUsers": {"it": "long-enough-password"}'
    base += "" if "StorageDirectory" in option else f", {STORAGE}"
    assert sorted(" ".join(pair) for pair in found(f"{{{base}}}")) == sorted(expected)
    assert "no_users" not in every_rule(f"{{{base}}}")


def test_sections_of_published_plugins_are_known() -> None:
    sections = {"Transfers": {"Threads": 4}, "GoogleCloudPlatform": {"Accounts": {}}, "Java": {"Enabled": True}}
    sections |= {name: {"Enable": True} for name in ("Indexer", "ConnectivityChecks", "PixelsMasker", "Gdcm")}
    sections["OrthancPeers"] = {"b": {"Url": "https://b.clinic.example/", "RemoteSelf": "A"}}
    assert found(f"{{{CLOSED}, {json.dumps(sections)[1:]}") == []
    # whose options are not listed one by one has a page to read them on
    for name, section in rules.SCHEMA["properties"].items():
        if "x-plugin" in section and "properties" not in section:
            assert section["x-source"].startswith("https://"), name


def test_a_clinic_s_own_option_is_waived_by_its_name() -> None:
    own = f'{{{CLOSED}, "ClinicRouter": {{"Rules": []}}, "DicomWeb": {{"QidoCaseSensitiv": true}}}}'
    (router, typo) = [item for item in problems({"a.json": own}, "1.12.7") if item["rule"] not in OPEN]
    assert (router["path"], typo["path"]) == ("ClinicRouter", "DicomWeb.QidoCaseSensitiv")
    assert "orthanc_waivers: {unknown_option.ClinicRouter: <your reason>}" in router["remedy"]
    reason = "our own script /etc/orthanc/router.py reads it"
    waivers = {"unknown_option.ClinicRouter": reason}
    listed = problems({"a.json": own}, "1.12.7", waivers)
    waived = {item["path"]: item for item in listed if item["rule"] == "unknown_option"}
    assert (waived["ClinicRouter"]["severity"], waived["DicomWeb.QidoCaseSensitiv"]["severity"]) == ("waived", "error")
    assert reason in waived["ClinicRouter"]["remedy"]
    # and by the same name in the inventory
    settings = with_change("settings", {"ClinicRouter": {"Rules": []}})
    (item,) = configuration.problems({**settings, "waivers": waivers})
    assert (item["severity"], item["path"]) == ("waived", "orthanc_config_settings.ClinicRouter")
    for name, says in (
        ("unknown_option", "not a rule that can be waived"),
        ("newer_option.ZipUseUtf8", "not a rule that can be waived"),
        ("unknown_option.", "not a rule that can be waived"),
    ):
        wrong = configuration.problems({**settings, "waivers": {name: reason}})
        assert [item["message"] for item in wrong if item["path"] == f"orthanc_waivers.{name}"] == [f"is {says}"]
    (idle,) = [
        item for item in problems({"a.json": f"{{{CLOSED}}}"}, "1.12.7", waivers) if item["rule"] == "idle_waiver"
    ]
    assert idle["path"] == "orthanc_waivers.unknown_option.ClinicRouter"


def test_relative_folders_are_named_with_where_they_lie() -> None:
    text = '{"StorageDirectory": "./OrthancStorage", "Worklists": {"Enable": true, "Database": "./worklists-db"}}'
    assert found(text) == [("relative_storage", "StorageDirectory"), ("relative_storage", "Worklists.Database")]
    (storage, worklists) = [item for item in problems({"a.json": text}, "1.12.7") if item["rule"] == "relative_storage"]
    assert "relative to the directory of the configuration file" in storage["message"]
    assert "not to the directory of the configuration file" in worklists["message"]
    assert "(/srv/pacs/OrthancStorage)" in " ".join(
        item["message"] for item in problems({"/srv/pacs/orthanc.json": text}, "1.12.7")
    )
    index = f'{{{CLOSED}, "IndexDirectory": "db"}}'
    assert ("relative_storage", "IndexDirectory") in found(index)
    one = '{"StorageDirectory": "/srv/pacs/db", "IndexDirectory": "db"}'
    assert [
        item["rule"] for item in problems({"/srv/pacs/a.json": one}, "1.12.7") if item["path"] == "IndexDirectory"
    ] == ["relative_storage"]
    windows = '{"StorageDirectory": "C:\\\\Orthanc", "Worklists": {"Enable": true, "Directory": "D:/Worklists"}}'
    assert found(windows) == []


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("GDCM", "Gdcm"),
        ("DICOMWEB", "DicomWeb"),
        ("dicomWeb", "DicomWeb"),
        ("POSTGRESQL", "PostgreSQL"),
        ("OHIf", "OHIF"),
        ("httpport", "HttpPort"),
        ("STABLE_AGE", "StableAge"),
    ],
)
def test_a_guess_looks_past_capitals(written: str, meant: str) -> None:
    (item,) = [
        item for item in problems({"a.json": f'{{{CLOSED}, "{written}": {{}}}}'}, "1.12.7") if item["path"] == written
    ]
    assert f"did you mean {meant}?" in item["remedy"]


def test_every_guess_looks_past_capitals() -> None:
    from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import monitoring, variables

    assert rules.nearest("ALLOWSTORE", ["AllowEcho", "AllowStore"]) == "did you mean AllowStore?"
    assert "did you mean orthanc_modalities?" in variables.problems(["orthanc_MODALITIES"])[0]["remedy"]
    (item,) = monitoring._thresholds({"DAYS_UNTIL_FULL": 3})
    assert "did you mean days_until_full?" in item["remedy"]
    assert "did you mean webdav?" in rules.waive([], {"WEBDAV": "a sentence that says why"})[0]["remedy"]


ENVIRONMENT = {
    "PATH": "/usr/bin",
    "VERBOSE_STARTUP": "true",
    "DICOM_WEB_PLUGIN_ENABLED": "true",
    "ORTHANC__NAME": "Clinic",
    "ORTHANC__REGISTERED_USERS": '{"demo": "demo"}',
    "ORTHANC__DICOM_WEB__ROOT": "/dicom-web/",
    "ORTHANC__STABLE_AGE": "30",
    "ORTHANC__CASE_SENSITIVE_PN": "true",
    "ORTHANC__POSTGRESQL__HOST": "index-db",
    "ORTHANC__DICOM_ALWAYS_ALLOW_STORE": "False",
    "ORTHANC__DICOMWEB__ENABLE": "true",
    "ORTHANC_JSON": '{"IngestTranscoding": "1.2.840.10008.1.2.4.50", // lossy\n "DicomWeb": {"Host": "localhost"}}',
}


def test_a_container_that_its_environment_sets_up_is_read() -> None:
    read, wrong = image.read({}, ENVIRONMENT, (1, 12, 7))
    assert wrong == []
    assert read == {
        "Name": "Clinic",
        "RegisteredUsers": {"demo": "demo"},
        "DicomWeb": {"Root": "/dicom-web/", "Host": "localhost", "Enable": True},
        "StableAge": 30,
        "CaseSensitivePN": True,
        "PostgreSQL": {"Host": "index-db"},
        "DicomAlwaysAllowStore": "False",
        "Dicomweb": {"Enable": True},
        "IngestTranscoding": "1.2.840.10008.1.2.4.50",
        **image.IMAGE["defaults"],
    }
    listed = problems({}, "1.12.7", environment=ENVIRONMENT, image=True)
    assert sorted((item["rule"], item["path"]) for item in listed if item["rule"] not in OPEN) == [
        ("fixed_host", "DicomWeb.Host"),
        ("lossy_ingest", "IngestTranscoding"),
        ("unknown_option", "Dicomweb"),
        ("weak_password", "RegisteredUsers.demo"),
        ("wrong_value", "DicomAlwaysAllowStore"),
    ]
    assert not [item for item in listed if item["rule"] in ("no_password", "no_users", "relative_storage")]
    (guess,) = [item["remedy"] for item in listed if item["rule"] == "unknown_option"]
    assert "did you mean DicomWeb?" in guess


def test_files_variables_and_secrets_are_merged_in_the_image_s_order() -> None:
    files = {
        "/etc/orthanc/a.json": '{"Name": "$WHO", "StableAge": 1, "DicomWeb": {"Ssl": true, "Root": "/a/"}} // end',
        "/run/secrets/b.json": '{"StableAge": 2, "DicomWeb": {"Root": "/b/"}, "RegisteredUsers": {"it": "a$$b"}}',
        "/run/secrets/ORTHANC__POSTGRESQL__PASSWORD": "from-its-name\n",
        "/run/secrets/password": '{"it": "from-a-variable"}',
        "/run/secrets/other": "not ours",
    }
    environment = {
        "WHO": "Clinic",
        "ORTHANC__STABLE_AGE": "3",
        "ORTHANC__REGISTERED_USERS_SECRET": "password",
        "ORTHANC_PASSWORD": "of-26.7.0",
        "WORKLISTS_PLUGIN_ENABLED": "true",
        "DICOM_AET": "CLINIC",
    }
    read, wrong = image.read(files, environment, (1, 12, 7))
    assert [(item["rule"], item["severity"], item["path"]) for item in wrong] == [
        ("old_variable", "warning", "DICOM_AET")
    ]
    assert "ORTHANC__DICOM_AET" in wrong[0]["remedy"]
    expected = {
        "Name": "Clinic",
        "StableAge": 3,
        "DicomWeb": {"Ssl": True, "Root": "/b/"},
        "RegisteredUsers": {"it": "from-a-variable", "orthanc": "of-26.7.0"},
        "PostgreSQL": {"Password": "from-its-name"},
        "Worklists": {"Enable": True, "Database": "/var/lib/orthanc/worklists"},
        "DicomAet": "CLINIC",
    }
    assert {name: read[name] for name in expected} == expected
    assert "Database" not in image.read(files, environment, (1, 13, 0))[0]["Worklists"]
    # a trailing comma is enough: the image drops the file, and Orthanc starts without what it closes
    for broken in ('{"DicomAlwaysAllowStore": false,}', "{", '{"Name": "a"}k'):
        (item,) = [
            item for item in image.read({"/etc/orthanc/a.json": broken}, {}, (999,))[1] if item["rule"] == "bad_json"
        ]
        assert item["path"] == "/etc/orthanc/a.json"


@pytest.mark.parametrize("option", ["StableAge", "DicomWeb.StudiesMetadata", "CaseSensitivePN", "HttpsCACertificates"])
def test_a_variable_names_its_option_and_back(option: str) -> None:
    assert ".".join(image.path_of(image.variable(option))) == option


# Texts as people write them: cut off, with variables, comments and what stands after the end.
SIGNS = '{ } [ ] " \\ , : ${ ${A ${A} ${A:- $A // /* */ \uf8ff 1 true null k "Name" "DicomModalities" "Worklists" "AET"'
PIECES = st.sampled_from([*SIGNS.split(" "), " ", "\n"])


@given(st.lists(PIECES, max_size=25).map("".join), st.none() | st.just({"A": '"b"'}), st.booleans())
def test_any_text_gives_problems_not_a_traceback(text: str, environment: dict[str, str] | None, made: bool) -> None:
    for whole in (text, f"{{{text}}}", f'{{"Name": {text}}}', f'{{"DicomModalities": {{"a": {text}}}}}'):
        listed = problems({"/etc/orthanc/a.json": whole}, "1.12.7", environment=environment, image=made)
        assert all(item["remedy"] for item in listed)


@given(
    st.dictionaries(st.sampled_from([*ENVIRONMENT, "ORTHANC__A__B", "ORTHANC__", "ORTHANC__A", "A_SECRET"]), st.text())
)
def test_any_environment_gives_problems_not_a_traceback(environment: dict[str, str]) -> None:
    files = {"/run/secrets/x": "y", "/run/secrets/ORTHANC__NAME": '{"a": 1}', "/etc/orthanc/a.json": '{"Name": 1}'}
    assert isinstance(problems(files, "1.13.0", environment=environment, image=True), list)
