"""From a configuration that somebody wrote to an inventory: what is kept, replaced and refused, and who is told."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.clinicops.orthanc.plugins.module_utils import survey
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import inventory, rules
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.adoption import devices, files, old, plan
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.image import variable
from hypothesis import given, settings
from hypothesis import strategies as st
from test_init_inventory import ENVIRONMENT, ROOT, run

HERE = Path(__file__).parent / "adoption"
GUIDE = (ROOT / "molecule/adopt/files/guide.json").read_text()
STRONG = "a-long-password-of-anna"
READ: dict[str, Any] = {
    "path": "/var/lib/orthanc/db",
    **dict.fromkeys(("patients", "studies", "series", "images", "files", "bytes", "compressed", "protected"), 0),
    **{name: [] for name in ("metadata", "attachments", "labels", "senders")},
    "version": 6,
    "kinds": {},
    "modalities": {},
}
FOUND: dict[str, Any] = {
    "name": "pacs",
    "system": "Debian GNU/Linux 13 (trixie)",
    "runs": True,
    "container": {},
    "ports": [],
    "storage": {"path": "/var/lib/orthanc/db", "where": "machine"},
    "index": READ,
    "worklists": {"path": "", "items": 0},
    "hosts": {},
    "scripts": [],
    "sites": [],
    "ufw": [],
    "firewalls": [],
    "jobs": [],
    "deployed": False,
    "attempted": False,
}
SITES = "/etc/nginx/sites-enabled/"
CONTAINER = {"name": "happy_fermi", "image": "orthancteam/orthanc", "restart": "no", "compose": ""}
DECIDED = {
    "orthanc_hostname": "pacs.clinic.example",
    "orthanc_https_sources": ["198.51.100.64/26"],
    "orthanc_backup_repository": "/mnt/disk/orthanc",
}


def read(texts: dict[str, str], version: str = "1.12.7", /, **more: Any) -> old.Old:
    """The configuration in these files."""
    usual = {"environment": {}, "image": False, "bridge": False, "container": "", "plugins": []}
    return old.Old.of({"files": texts, "version": version, **usual, **more})


def adopt(texts: dict[str, str] | str, version: str = "1.12.7", /, **more: Any) -> plan.Adoption:
    """The adoption of these files; `found` is what the survey found besides, `given` what was decided."""
    found, decided = more.pop("found", {}), more.pop("given", {})
    texts = {"/etc/orthanc/orthanc.json": texts} if isinstance(texts, str) else texts
    numbers = iter(range(1, 100))
    return plan.adopt(
        read(texts, version, **more), {**FOUND, **found}, decided, lambda: f"generated-password-{next(numbers)}"
    )


def shipped(release: str) -> dict[str, str]:
    return {f"/etc/orthanc/{path.name}": path.read_text() for path in sorted((HERE / release).glob("*.json"))}


def verdicts(adoption: plan.Adoption) -> dict[str, str]:
    return {one.path: one.verdict for one in adoption.lines}


def tomorrow(adoption: plan.Adoption) -> dict[str, str]:
    return {one.who: one.tomorrow for one in adoption.changes}


# --- every option -------------------------------------------------------------------------------
@pytest.mark.parametrize(("release", "version"), [("debian12", "1.10.1"), ("debian13", "1.12.7")])
def test_what_debian_ships_is_accounted_for(release: str, version: str) -> None:
    found = adopt(shipped(release), version)
    becomes = verdicts(found)
    replaced = {
        *("RegisteredUsers", "DicomWeb.EnableWado", "DicomWeb.Host", "DicomWeb.Ssl", "Plugins", "WebDavEnabled"),
        *("DicomCheckCalledAet", "DefaultEncoding", "DicomAlwaysAllowEcho", "DicomAlwaysAllowStore"),
        *("DicomCheckModalityHost", "MaximumPduLength", "Worklists.Enable"),
    }
    # the survey found the images elsewhere
    moved = {"StorageDirectory", "IndexDirectory"}
    assert {name for name, verdict in becomes.items() if verdict == "replaced"} - moved == replaced
    assert [name for name, verdict in becomes.items() if verdict == "refused"] == ["DicomWeb.WadoRoot"]
    kept: dict[str, dict[str, Any]] = {
        "1.10.1": {"HttpCompressionEnabled": True, "DeidentifyLogsDicomVersion": "2021b", "ZipLoaderThreads": 0},
        "1.12.7": {"ZipLoaderThreads": 0},
    }
    options = found.settings["orthanc_config_settings"]
    assert options == kept[version]
    assert {one.option for one in found.closed} == {
        *("DicomAlwaysAllowEcho", "DicomAlwaysAllowStore", "DicomCheckModalityHost", "DicomCheckCalledAet"),
        "WebDavEnabled",
    }


def test_the_guide_s_configuration() -> None:
    found = adopt(GUIDE)
    assert [one.path for one in found.lines if one.verdict == "replaced"] == ["RegisteredUsers.orthanc", "Plugins"]
    assert [one.path for one in found.lines if one.verdict == "refused"] == []
    assert "orthanc_config_settings" not in found.settings
    [user] = found.settings["orthanc_users"]
    assert (user["name"], user["role"], user["password"]) == ("orthanc", "admin", "generated-password-1")
    assert tomorrow(found) == {
        "Devices that are not in orthanc_modalities": "are refused, whatever they ask",
        "User orthanc": "has the new password in vault.yml",
        "Clients of WADO-URI": "must use WADO-RS below /dicom-web/",
        "Whoever uses WebDAV": "is refused",
        "Users of Orthanc's own pages": "open them from orthanc_admin_sources, as an admin",
        "Applications that write worklists": "submit to /srv/worklists/incoming, where each item is checked"
        " (docs/worklists.md)",
        "Devices that query a worklist": "see their own items",
    }
    assert {one.setting for one in found.decisions} == {
        *("orthanc_hostname", "orthanc_https_sources", "orthanc_backup_repository")
    }


VALUES = st.one_of(
    st.booleans(), st.integers(0, 99999), st.text(max_size=6), st.lists(st.text(max_size=3), max_size=2), st.none()
)
NAMES = st.one_of(st.sampled_from(sorted(rules.SCHEMA["properties"])), st.text(min_size=1, max_size=8))
INNER = st.one_of(st.sampled_from(["Enable", "Host", "AET", "Port", "AllowStore", "Root"]), st.text(max_size=5))
DEVICES = st.one_of(
    st.tuples(
        st.sampled_from(["US1", "us1", ""]), st.sampled_from(["198.51.100.21", "us1.lan"]), st.integers(0, 11112)
    ),
    st.dictionaries(INNER, VALUES, max_size=4),
    st.lists(VALUES, max_size=4),
)
WHOLE = st.builds(
    lambda one, other: {**one, **other},
    st.dictionaries(
        NAMES, st.one_of(VALUES, st.dictionaries(INNER, st.one_of(VALUES, st.dictionaries(INNER, VALUES))))
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "DicomModalities": st.dictionaries(INNER, DEVICES, max_size=3),
            "RegisteredUsers": st.dictionaries(INNER, st.text(max_size=14), max_size=3),
            "DicomModalitiesInDatabase": st.booleans(),
        },
    ),
)


@settings(max_examples=150)
@given(whole=WHOLE, version=st.sampled_from(["1.10.1", "1.12.7", "1.13.0"]), boxed=st.booleans())
def test_each_option_appears_once_whatever_it_is(whole: dict[str, Any], version: str, boxed: bool) -> None:
    name, box = ("happy_fermi", CONTAINER) if boxed else ("", {})
    found = adopt(json.dumps(whole), version, container=name, found={"container": box})
    leaves = [path for path, _value in old.list_leaves(whole)]
    assert len(found.lines) == len(leaves)
    assert {one.verdict for one in found.lines} <= {"kept", "replaced", "refused"}
    assert all(one.what for one in found.lines)
    # without secrets in the names, the paths are there as they are
    if not whole.get("RegisteredUsers"):
        assert sorted(one.path for one in found.lines) == sorted(".".join(path) for path in leaves)
    texts, _masked = files.write_files(found, {"ansible_host": "pacs"}, lambda: "new", encrypted=True)
    assert files.write_page(found, "deploy")
    for text in texts.values():
        yaml.load(text, Loader=Unsafe)


class Unsafe(yaml.SafeLoader):
    """Reads what Ansible must not evaluate as the text that it is."""


def read_text(loader: Unsafe, node: yaml.ScalarNode) -> Any:
    return loader.construct_scalar(node)


Unsafe.add_constructor("!unsafe", read_text)


def test_options_that_differ_are_kept_and_each_file_is_named() -> None:
    texts = {
        "/etc/orthanc/a.json": '{"StableAge": 30, /* why */ "UserMetadata": {"Reviewed": 1024}, "NoSuch": 1}',
        "/etc/orthanc/b.json": '{"UserContentType": {"report": [1025, "application/pdf"]}, "LimitFindResults": 7}//',
    }
    found = adopt(texts)
    assert found.settings["orthanc_config_settings"] == {
        "StableAge": 30,
        "UserMetadata": {"Reviewed": 1024},
        "UserContentType": {"report": [1025, "application/pdf"]},
        "LimitFindResults": 7,
    }
    sources = {one.path: one.source for one in found.lines}
    assert sources["UserMetadata.Reviewed"] == "/etc/orthanc/a.json"
    assert sources["UserContentType.report"] == "/etc/orthanc/b.json"
    [refused] = [one for one in found.lines if one.verdict == "refused"]
    assert (refused.path, refused.what) == ("NoSuch", "is not an Orthanc option, and Orthanc silently ignores it")


def test_what_loses_images_or_opens_the_server_is_left_out_with_its_waiver() -> None:
    found = adopt('{"OverwriteInstances": true, "MaximumStorageSize": 5000, "DicomAlwaysAllowFind": true}')
    assert {(one.rule, one.option) for one in found.closed} >= {
        ("overwrites_images", "OverwriteInstances"),
        ("recycles_images", "MaximumStorageSize"),
        ("any_device", "DicomAlwaysAllowFind"),
    }
    assert set(verdicts(found).values()) == {"replaced"}
    texts, _masked = files.write_files(found, {"ansible_host": "pacs"}, lambda: "new", encrypted=True)
    text = texts[inventory.SETTINGS]
    assert "\n#  OverwriteInstances: true\n" in text
    assert '\n#  overwrites_images: ""' in text
    # what a person does to keep it: remove the #, write the reason
    opened = re.sub(r"(?m)^#( ?)(?=(orthanc_config_settings|orthanc_waivers):|  \w+: )", "", text)
    settings = yaml.safe_load(opened)
    assert settings["orthanc_config_settings"]["MaximumStorageSize"] == 5000
    assert settings["orthanc_waivers"]["recycles_images"] == ""


def test_options_with_secrets_go_into_the_vault() -> None:
    peers = {"archive": ["http://198.51.100.60:8042/", "clinic", "peer-password-1"]}
    found = adopt(json.dumps({"OrthancPeers": peers, "StableAge": 30, "RegisteredUsers": {"anna": STRONG}}))
    texts, masked = files.write_files(found, {"ansible_host": "pacs"}, lambda: "new", encrypted=True)
    vault = yaml.safe_load(texts[inventory.VAULT])
    assert vault["vault_orthanc_option_OrthancPeers"] == peers
    assert vault["vault_orthanc_anna_password"] == STRONG
    settings = yaml.safe_load(texts[inventory.SETTINGS])
    reference = "{{ vault_orthanc_option_OrthancPeers }}"
    assert settings["orthanc_config_settings"] == {"OrthancPeers": reference, "StableAge": 30}
    page = files.write_page(found, "deploy")
    for secret in ("peer-password-1", STRONG):
        assert secret not in texts[inventory.SETTINGS] + page + "".join(masked.values())


def test_what_ansible_would_evaluate_stays_text() -> None:
    evil = "{{ lookup('pipe', 'id') }}"
    found = adopt(json.dumps({"Name": evil, "UserMetadata": {"A": 1024}, "DefaultPrivateCreator": evil}))
    texts, _masked = files.write_files(found, {"ansible_host": "pacs"}, lambda: "new", encrypted=True)
    lines = [line for line in texts[inventory.SETTINGS].splitlines() if "lookup" in line]
    assert len(lines) == 2
    assert all(": !unsafe " in line for line in lines)


# --- devices ------------------------------------------------------------------------------------
DEVICES_OF = {
    "us1": ["US1", "198.51.100.21", 104],
    "us 2": {"AET": "US2", "Host": "us2.lan", "Port": "11112", "AllowMove": False, "Manufacturer": "GE"},
    "dark": {"AET": "DARK", "Host": "198.51.100.23", "Port": 104, "AllowStore": False},
}


def test_devices_may_do_what_they_may_today() -> None:
    text = json.dumps({"DicomModalities": DEVICES_OF, "DicomAlwaysAllowStore": False})
    found = adopt(text, found={"hosts": {"us2.lan": ["198.51.100.22"]}})
    every = ["echo", "store", "find", "find_worklist", "move", "get", "storage_commitment"]
    assert found.settings["orthanc_modalities"] == [
        {"name": "us1", "aet": "US1", "host": "198.51.100.21", "port": 104, "may": every},
        {"name": "us_2", "aet": "US2", "host": "198.51.100.22", "port": 11112, "may": [*every[:4], *every[5:]]},
        {"name": "dark", "aet": "DARK", "host": "198.51.100.23", "port": 104, "may": [every[0], *every[2:]]},
    ]
    assert verdicts(found)["DicomModalities.us 2.Host"] == "replaced"
    assert verdicts(found)["DicomModalities.us 2.Manufacturer"] == "refused"
    # any device may store: the one option of the list does not take it away
    open_to_all = adopt(json.dumps({"DicomModalities": DEVICES_OF}))
    assert "store" in open_to_all.settings["orthanc_modalities"][2]["may"]
    assert {one.setting for one in open_to_all.decisions} >= {"orthanc_modalities[1].host"}
    before = adopt(text, "1.10.1")
    assert not [one for one in before.settings["orthanc_modalities"] if "storage_commitment" in one["may"]]


def test_who_stored_images_and_is_refused_is_named() -> None:
    senders = [
        {
            "origin": "DicomProtocol",
            "aet": aet,
            "address": address,
            "called": called,
            "user": None,
            "images": 12,
            "last": "",
        }
        for aet, address, called in (
            ("US1", "198.51.100.21", "ORTHANC"),
            ("US1", "198.51.100.31", "ORTHANC"),
            ("us1", "::ffff:198.51.100.21", "PACS"),
            ("DARK", "198.51.100.23", "ORTHANC"),
            ("CT9", "198.51.100.40", "ORTHANC"),
        )
    ]
    senders.append({"origin": "Plugins", "user": "gateway", "images": 3, "aet": None, "address": "127.0.0.1"})
    found = adopt(
        json.dumps({"DicomModalities": DEVICES_OF, "DicomAlwaysAllowStore": False, "DicomAlwaysAllowEcho": False}),
        found={"index": {"path": "/x", "senders": senders}},
    )
    assert {who: what for who, what in tomorrow(found).items() if "198.51" in who or "gateway" in who} == {
        "US1 at 198.51.100.31": "is refused: orthanc_modalities names 198.51.100.21 as its address",
        "us1 at ::ffff:198.51.100.21": "is refused: it calls PACS, and the server is ORTHANC",
        "DARK at 198.51.100.23": "is refused: it may not store",
        "CT9 at 198.51.100.40": "is refused: it is not in orthanc_modalities",
        "User gateway": "needs the role admin, or dicomweb_writer and STOW-RS",
    }
    assert found.unlisted == [
        {"name": "ct9", "aet": "CT9", "host": "198.51.100.40", "port": 104, "may": ["echo", "store"]}
    ]


def test_devices_of_the_index_are_those_that_count() -> None:
    index = {"path": "/x", "modalities": {"us3": {"AET": "US3", "Host": "198.51.100.24", "Port": 104}}}
    text = json.dumps({"DicomModalitiesInDatabase": True, "DicomModalities": {"us1": ["US1", "198.51.100.21", 104]}})
    found = adopt(text, found={"index": index})
    assert [one["aet"] for one in found.settings["orthanc_modalities"]] == ["US3"]
    assert verdicts(found)["DicomModalities.us1"] == "refused"


UNREAD = {"path": "/var/lib/orthanc/db", "why": "a copy of the index could fill /var/tmp"}


def test_whoever_stored_images_is_asked_for_where_the_index_could_not_be_read() -> None:
    asked = [
        one.question for one in adopt(GUIDE, found={"index": UNREAD}).decisions if one.setting == "orthanc_modalities"
    ]
    assert len(asked) == 1
    assert "could not be read (a copy of the index could fill /var/tmp)" in asked[0]
    assert "refuses every device that is not listed" in asked[0]
    assert "orthanc_modalities" not in [one.setting for one in adopt(GUIDE).decisions]


def test_devices_that_are_in_an_index_that_could_not_be_read_are_not_left_out() -> None:
    kept_there = read({"/etc/orthanc/orthanc.json": '{"DicomModalitiesInDatabase": true}'})
    [found] = devices.find_obstacles(kept_there, UNREAD)
    assert found["path"] == "DicomModalitiesInDatabase"
    assert "could not be read: a copy of the index could fill /var/tmp" in found["message"]
    assert (
        devices.find_obstacles(kept_there, READ)
        == devices.find_obstacles(read({"/etc/orthanc/a.json": "{}"}), UNREAD)
        == []
    )


def test_names_of_devices_are_found_in_the_options_and_in_the_index(tmp_path: Path) -> None:
    written: dict[str, Any] = {
        "us1": ["US1", "localhost", 104],
        "us2": {"AET": "US2", "Host": "us2.invalid", "Port": 104},
        "us3": ["US3", "198.51.100.23", 104],
        "us4": {"AET": "US4", "Host": "2001:db8::4", "Port": 104},
        "us5": ["US5", "localhost", 104],
        "_why": "a remark",
        "wrong": ["US6", 5, 104],
        "empty": [],
    }
    assert survey.list_hosts(written) == ["localhost", "us2.invalid"]
    assert survey.list_hosts(None) == survey.list_hosts("a remark") == []
    write_index(tmp_path, f"INSERT INTO GlobalProperties VALUES (20, '{json.dumps(written)}')")
    found = survey.survey(survey.Asked(storage_dir=str(tmp_path), hosts=("us7.invalid",)))
    assert set(found["hosts"]) == {"localhost", "us2.invalid", "us7.invalid"}
    assert "127.0.0.1" in found["hosts"]["localhost"]


# --- users --------------------------------------------------------------------------------------
def test_good_passwords_stay_and_roles_are_chosen() -> None:
    users = {"anna": STRONG, "viewer": "short", "a:b": "another-long-password"}
    found = adopt(json.dumps({"RegisteredUsers": users, "RemoteAccessAllowed": True}))
    assert [(one["name"], one["role"]) for one in found.settings["orthanc_users"]] == [("anna", ""), ("viewer", "")]
    assert found.settings["orthanc_users"][0]["password"] == STRONG
    assert [one.setting for one in found.decisions if "role" in one.setting] == [
        *("orthanc_users[0].role", "orthanc_users[1].role")
    ]
    assert tomorrow(found)["A user with a name that cannot be used"] == "cannot log in"
    assert tomorrow(found)["User viewer"] == "has the role that you choose"
    # the list that is given is the list
    chosen = [
        {"name": "anna", "role": "admin"},
        {"name": "reader", "role": "dicomweb_reader"},
        {"name": "it", "role": "admin", "password": "given-password-of-it"},
    ]
    decided = adopt(json.dumps({"RegisteredUsers": users}), given={"orthanc_users": chosen})
    assert decided.settings["orthanc_users"] == [
        {"name": "anna", "password": STRONG, "role": "admin"},
        {"name": "reader", "password": "generated-password-1", "role": "dicomweb_reader"},
        chosen[2],
    ]
    assert verdicts(decided)["RegisteredUsers.viewer"] == "refused"
    assert tomorrow(decided)["User viewer"] == "cannot log in"


# --- places -------------------------------------------------------------------------------------
def test_images_stay_where_they_are() -> None:
    text = '{"StorageDirectory": "/var/lib/orthanc/db-v6", "IndexDirectory": "/srv/index"}'
    places = {
        "storage": {"path": "/var/lib/orthanc/db-v6", "where": "machine"},
        "index": {"path": "/srv/index", "why": ""},
        "sites": [
            {"path": SITES + "a", "listens": ["443"], "names": ["pacs.clinic.example"], "sources": [], "others": 0},
            {"path": SITES + "b", "listens": ["80"], "names": [], "sources": ["198.51.100.64/26"], "others": 2},
        ],
        "ufw": [
            {"admits": True, "ports": "443", "source": "198.51.100.90/32"},
            {"admits": True, "ports": "22", "source": "0.0.0.0/0"},
        ],
    }
    found = adopt(text, found=places)
    assert found.settings["orthanc_storage_dir"] == "/var/lib/orthanc/db-v6"
    assert found.settings["orthanc_adopt"] == {
        "method": "package",
        "storage_dir": "/var/lib/orthanc/db-v6",
        "index_dir": "/srv/index",
        "sites": ["/etc/nginx/sites-enabled/a"],
    }
    assert found.settings["orthanc_hostname"] == "pacs.clinic.example"
    assert found.settings["orthanc_https_sources"] == ["198.51.100.90", "198.51.100.64/26"]
    assert "has other sites" in tomorrow(found)["Users of the nginx site /etc/nginx/sites-enabled/b"]


def test_a_container_that_is_configured_by_its_environment() -> None:
    """A compose file as people write it, with the variables of orthancteam/orthanc."""
    environment = {
        variable("Name"): "Compose PACS",
        variable("DicomModalities"): '{"us1": ["US1", "198.51.100.21", 104]}',
        variable("RegisteredUsers"): json.dumps({"anna": STRONG}),
        variable("DicomWeb.QidoCaseSensitive"): "false",
        "ORTHANC__ORTHANC_EXPLORER_2__ENABLE": "true",
        "DICOM_WEB_PLUGIN_ENABLED": "true",
        "STORAGE_DIR": "/images",
    }
    compose = {**CONTAINER, "compose": "/srv/pacs/docker-compose.yml", "removed": True}
    volume = "/var/lib/docker/volumes/pacs_images/_data"
    found = adopt(
        {},
        "1.12.9",
        environment=environment,
        image=True,
        bridge=True,
        container="happy_fermi",
        found={
            "container": compose,
            "storage": {"path": volume, "where": "volume"},
            "index": {"path": volume, "why": ""},
            "ports": [
                {"inside": 4242, "outside": 104, "address": ""},
                {"inside": 8042, "outside": 8042, "address": "0.0.0.0"},
            ],
        },
    )
    assert found.settings["orthanc_install_method"] == "docker"
    assert found.settings["orthanc_dicom_port"] == 104
    assert found.settings["orthanc_name"] == "Compose PACS"
    assert found.settings["orthanc_adopt"] == {
        "method": "container",
        "container": "happy_fermi",
        "storage_dir": volume,
    }
    assert "orthanc_storage_dir" not in found.settings  # out of Docker's own directory
    assert found.settings["orthanc_config_settings"]["DicomWeb"] == {"QidoCaseSensitive": False}
    sources = {one.path: one.source for one in found.lines}
    assert sources["StorageDirectory"] == "STORAGE_DIR"
    assert sources["DicomModalities.us1"] == "ORTHANC__DICOM_MODALITIES"
    assert sources["RemoteAccessAllowed"] == old.DEFAULT_SOURCE
    assert verdicts(found)["OrthancExplorer2.Enable"] == "refused"
    assert any(one.startswith("/srv/pacs/docker-compose.yml: the deploy stops its container") for one in found.losses)
    [removed] = [one.question for one in found.decisions if one.setting == "orthanc_adopt.container"]
    assert "do not stop it" in removed
    assert tomorrow(found)["Whoever reads from another machine"] == "use https://<orthanc_hostname>/"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"PostgreSQL": {"EnableIndex": true}}', "PostgreSQL keeps the archive outside"),
        ('{"AwsS3Storage": {"BucketName": "b"}}', "AwsS3Storage keeps the archive outside"),
        ('{"Name": }', "is not JSON"),
    ],
)
def test_what_cannot_be_adopted_is_refused(text: str, said: str) -> None:
    [obstacle] = old.find_obstacles(read({"/etc/orthanc/orthanc.json": text}))
    assert said in f"{obstacle['path']} {obstacle['message']}"


# --- the page -----------------------------------------------------------------------------------
def test_the_page_is_markdown_whatever_a_name_contains() -> None:
    users = {"anna": STRONG}
    text = json.dumps({"Name": "a|b\n# <script>", "RegisteredUsers": users, "DicomModalities": {"x": ["A|B", "h", 1]}})
    page = files.write_page(adopt(text), "ansible-playbook deploy")
    assert "\\<script\\>" in page
    assert "\n# <script>" not in page
    for line in page.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)
            assert len(cells) in (4, 5, 7), line


# --- the index ----------------------------------------------------------------------------------
def test_an_index_that_is_not_there_says_why(tmp_path: Path) -> None:
    assert "contains no index" in survey.read_index(tmp_path)["why"]
    (tmp_path / "index").write_text("not a database at all")
    assert "why" in survey.read_index(tmp_path)


def write_index(directory: Path, *more: str) -> sqlite3.Connection:
    """An index as Orthanc has it, as far as it is read, with what these statements write."""
    writer = sqlite3.connect(directory / "index", isolation_level=None)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.executescript(
        """
        CREATE TABLE Resources(internalId INTEGER PRIMARY KEY, resourceType INTEGER, publicId TEXT);
        CREATE TABLE Metadata(id INTEGER, type INTEGER, value TEXT, PRIMARY KEY(id, type));
        CREATE TABLE AttachedFiles(id INTEGER, fileType INTEGER, compressedSize INTEGER, compressionType INTEGER);
        CREATE TABLE GlobalProperties(property INTEGER PRIMARY KEY, value TEXT);
        CREATE TABLE PatientRecyclingOrder(seq INTEGER PRIMARY KEY, patientId INTEGER);
        INSERT INTO GlobalProperties VALUES (1, '6');
        """
    )
    for statement in more:
        writer.execute(statement)
    return writer


def test_the_index_of_a_running_orthanc_is_read_from_a_copy(tmp_path: Path) -> None:
    """A write that is only in the write-ahead log counts, and nothing is written beside the index."""
    with write_index(tmp_path) as writer:
        writer.executescript(
            """
            INSERT INTO Resources VALUES (1, 1, 'p'), (2, 4, 'i');
            INSERT INTO Metadata VALUES (2, 3, 'US1'), (2, 8, 'DicomProtocol'), (2, 11, '198.51.100.21');
            INSERT INTO Metadata VALUES (1, 1024, 'x');
            INSERT INTO AttachedFiles VALUES (2, 1, 1000, 2), (2, 1026, 20, 1);
            """
        )
        before = sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.iterdir())
        found = survey.read_index(tmp_path)
        assert sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.iterdir()) == before
    assert (found["version"], found["images"], found["bytes"], found["compressed"]) == (6, 1, 1020, 1)
    assert (found["metadata"], found["attachments"], found["protected"]) == ([1024], [1026], 1)
    assert [(one["aet"], one["address"], one["images"]) for one in found["senders"]] == [("US1", "198.51.100.21", 1)]


# --- around it ----------------------------------------------------------------------------------
SITE = (ROOT / "molecule/adopt/files/clinic.conf").read_text()


def test_sites_are_those_that_lead_to_orthanc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "NGINX", tmp_path)
    (tmp_path / "sites-enabled").mkdir()
    (tmp_path / "sites-enabled/clinic").write_text(SITE)
    (tmp_path / "sites-enabled/intranet").write_text(
        "server { listen 81; location / { proxy_pass http://10.0.0.1:80; } }"
    )
    (tmp_path / "sites-enabled/both").write_text(
        "server { listen 82; location / { proxy_pass http://127.0.0.1:8042; } }\nserver { listen 83; root /var/www; }"
    )
    found = {Path(one["path"]).name: one for one in survey.list_sites({8042})}
    assert found.keys() == {"both", "clinic"}
    assert found["both"]["others"] == 1
    assert found["clinic"] == {
        "path": str(tmp_path / "sites-enabled/clinic"),
        "listens": ["80", "8443"],
        "names": ["pacs13.clinic.example"],
        "sources": ["198.51.100.64/26"],
        "others": 0,
    }


def test_jobs_are_named_without_their_arguments(tmp_path: Path) -> None:
    (tmp_path / "etc/cron.d").mkdir(parents=True)
    (tmp_path / "spool").mkdir()
    (tmp_path / "etc/cron.d/copy").write_text(
        "# orthanc\n\n0 3 * * * root P=secret-1 /usr/bin/tar czf x /var/lib/orthanc\n"
    )
    (tmp_path / "spool/root").write_text("0 4 * * * curl -u orthanc:secret-2 http://127.0.0.1:8042/\n")
    found = [*survey.list_jobs(tmp_path / "etc", tmp_path / "spool")]
    assert [(Path(one["file"]).name, one["line"]) for one in found] == [("copy", 3), ("root", 1)]
    assert found[0]["program"] == "/usr/bin/tar"
    assert "secret" not in json.dumps(found)


# --- the playbook's action ----------------------------------------------------------------------
LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}


def play(directory: Path, present: dict[str, Any], *options: str, **settings: Any) -> tuple[int, str]:
    """Exit code and output of the action, for a configuration that was read before, on this machine."""
    task = {
        "name": "Write the inventory",
        "clinicops.orthanc.adopt_inventory": {"present": present},
    }
    book = [{"name": "Adopt", "hosts": "all", "gather_facts": False, "tasks": [task]}]
    (directory / "play.yml").write_text(json.dumps(book))
    (directory / "values.json").write_text(json.dumps({**LOCAL, **settings}))
    command = ["ansible-playbook", "-i", "pacs,", "-e", "@values.json", *options, "play.yml"]
    return run(directory, *command)


def present_of(text: str, **more: Any) -> dict[str, Any]:
    usual = {"environment": {}, "version": "1.12.7", "image": False, "bridge": False, "container": "", "plugins": []}
    return {"files": {"/etc/orthanc/orthanc.json": text}, **usual, **more}


DECENT = {
    "StorageDirectory": "/var/lib/orthanc/db-v6",
    "RegisteredUsers": {"anna": STRONG},
    "RemoteAccessAllowed": True,
    "StableAge": 30,
    "DicomModalities": {"us1": ["US1", "198.51.100.21", 104]},
    "OrthancPeers": {"archive": ["http://198.51.100.60:8042/", "clinic", "peer-password-1"]},
}


def test_a_deploy_accepts_what_was_written_once_it_is_decided(tmp_path: Path) -> None:
    write_index(tmp_path).close()
    here = {**DECENT, "StorageDirectory": str(tmp_path)}
    status, said = play(tmp_path, present_of(json.dumps(here)), "--diff", **DECIDED)
    assert status == 0, said
    assert STRONG not in said
    assert "peer-password-1" not in said
    assert sorted(
        path.relative_to(tmp_path / "inventory").as_posix() for path in tmp_path.rglob("inventory/**/*.*")
    ) == [
        *(".gitignore", "adoption.md", "group_vars/orthanc/settings.yml", "group_vars/orthanc/vault.yml", "hosts.yml")
    ]
    assert (tmp_path / "inventory" / inventory.VAULT).stat().st_mode & 0o777 == 0o600
    assert "\nTo decide, in" not in said, said
    [command] = re.findall(r"^ +(ansible-playbook .*)$", said, re.MULTILINE)
    assert command == "ansible-playbook -i inventory clinicops.orthanc.deploy"
    status, shown = run(tmp_path, *command.split(), "--check", "-e", "ansible_connection=ssh ansible_port=1")
    assert "to correct" not in shown, shown
    assert re.search(r"Check all settings before anything changes\] \**\n(\[WARN.*\n(.+\n)*)?ok", shown), shown
    # never overwritten
    before = (tmp_path / "inventory/adoption.md").read_text()
    status, said = play(tmp_path, present_of(json.dumps(DECENT)), **DECIDED)
    assert status == 2
    assert "is not empty" in said
    assert (tmp_path / "inventory/adoption.md").read_text() == before


def test_what_is_not_decided_is_named_and_nothing_else_is_wrong(tmp_path: Path) -> None:
    users = {"anna": STRONG, "viewer": "short"}
    device = {"us1": ["US1", "us1.invalid", 104]}
    status, said = play(
        tmp_path, present_of(json.dumps({**DECENT, "RegisteredUsers": users, "DicomModalities": device}))
    )
    assert status == 0, said
    named = re.findall(r"^  (orthanc_[\w.\[\]]+): ", said, re.MULTILINE)
    assert named == [
        *("orthanc_hostname", "orthanc_users[0].role", "orthanc_users[1].role", "orthanc_modalities[0].host"),
        # this machine has no index
        *("orthanc_modalities", "orthanc_https_sources", "orthanc_backup_repository"),
    ]
    status, shown = run(tmp_path, "ansible-playbook", "-i", "inventory", "clinicops.orthanc.deploy", "--check")
    assert status == 2
    problems = re.findall(r"^\s*(orthanc_[\w.\[\]]+) ", shown[shown.index("to correct") :], re.MULTILINE)
    assert set(problems) <= set(named), shown


def test_a_second_reading_leaves_the_first_as_it_is(tmp_path: Path) -> None:
    present = present_of(json.dumps(DECENT))
    assert play(tmp_path, present, **DECIDED)[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if "inventory" in path.parts and path.is_file()}
    assert len(before) > 3
    status, said = play(tmp_path, present, **DECIDED)
    assert status == 2
    assert "is not empty" in said
    assert {path: path.read_bytes() for path in before} == before


def test_passwords_of_a_deploy_that_has_begun_are_asked_for() -> None:
    begun = adopt(GUIDE, found={"attempted": True}, given=DECIDED)
    assert "orthanc_backup_password" in [one.setting for one in begun.decisions]
    known = adopt(GUIDE, found={"attempted": True}, given={**DECIDED, "orthanc_backup_password": STRONG})
    assert "orthanc_backup_password" not in [one.setting for one in known.decisions]


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    status, said = play(tmp_path, present_of(json.dumps(DECENT)), "--check", **DECIDED)
    assert status == 0, said
    assert "Nothing was written in check mode" in said
    assert not (tmp_path / "inventory").exists()


@pytest.mark.parametrize(
    ("present", "said"),
    [
        ({"files": {}, "image": False, "of": "", "why": "The container x does not exist."}, "The container x does not"),
        (present_of('{"MySQL": {"EnableIndex": true}}'), "MySQL keeps the archive outside this machine's disk"),
    ],
)
def test_what_cannot_be_read_is_said(present: dict[str, Any], said: str, tmp_path: Path) -> None:
    status, shown = play(tmp_path, present)
    assert status == 2
    assert said in shown
    assert not (tmp_path / "inventory").exists()


def test_the_environment_of_these_tests_has_no_configuration_of_ansible() -> None:
    assert "ANSIBLE_CONFIG" not in ENVIRONMENT
