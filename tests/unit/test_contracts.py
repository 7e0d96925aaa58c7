"""What holds between files: defaults, argument specs, documentation."""

from __future__ import annotations

import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.orthanc import log
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.orthanc.rights import RIGHTS
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.verify import acceptance, report
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import rules

ROOT = Path(__file__).resolve().parents[2]
# the settings that several roles read, with their only default; the specs of those roles describe them
SHARED_ROLE = "orthanc"
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.name != SHARED_ROLE)
PYTHON_TYPES = {"str": str, "path": str, "int": int, "bool": bool, "list": list, "dict": dict}


def load(role: str, file: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "roles" / role / file).read_text()) or {}
    return content


@pytest.mark.parametrize("role", ROLES)
def test_specs_equal_defaults(role: str) -> None:
    defaults = load(role, "defaults/main.yml")
    entries = load(role, "meta/argument_specs.yml")["argument_specs"].values()
    options = {name: spec for entry in entries for name, spec in entry["options"].items()}
    assert set(options) == set(defaults)
    for name, value in defaults.items():
        if isinstance(value, str) and "{{" in value:
            assert "default" not in options[name], name
        else:
            assert options[name]["default"] == value, name
            assert isinstance(value, PYTHON_TYPES[options[name]["type"]]), name


@pytest.mark.parametrize("role", ROLES)
def test_a_role_s_variables_carry_its_name(role: str) -> None:
    files = list((ROOT / "roles" / role / "vars").glob("*.yml"))
    names = [name for path in files for name in yaml.safe_load(path.read_text())]
    for name in [*names, *load(role, "defaults/main.yml")]:
        assert name.startswith((f"{role}_", f"__{role}_")), name


def list_shared() -> dict[str, Any]:
    return load(SHARED_ROLE, "defaults/main.yml")


def test_the_default_of_a_shared_setting_is_written_once() -> None:
    assert len(list_shared()) > 10
    texts = {
        path.relative_to(ROOT): path.read_text()
        for pattern in ("roles/*/*/*.yml", "roles/*/templates/*", "playbooks/**/*.yml")
        for path in ROOT.glob(pattern)
    }
    assert len(texts) > 100
    names = "|".join(list_shared())
    again = {path: re.findall(rf"\b(?:{names})\s*\|\s*(?:default|d)\b.*", text) for path, text in texts.items()}
    assert {path: found for path, found in again.items() if found} == {}
    # nor beside it, under the role's own name: no other default has one of these values
    telling = {name: value for name, value in list_shared().items() if value not in ("", [], {}, True)}
    assert len(telling) == 9
    copies = [
        own for role in ROLES for own, value in load(role, "defaults/main.yml").items() if value in telling.values()
    ]
    assert copies == []


@pytest.mark.parametrize("role", ROLES)
def test_a_role_that_reads_a_shared_setting_depends_on_its_default(role: str) -> None:
    files = [
        path for part in ("defaults", "tasks", "templates", "vars") for path in (ROOT / "roles" / role / part).glob("*")
    ]
    code = "".join(re.sub(r"(?m)^\s*#.*", "", path.read_text()) for path in files)
    reads = {name for name in list_shared() if re.search(rf"(?<![\w.]){name}\b(?!:)", code)}
    named = [one["role"] for one in load(role, "meta/main.yml")["dependencies"]]
    assert named == (["clinicops.orthanc.orthanc"] if reads else [])


def test_every_shared_setting_is_read_and_documented() -> None:
    documented = (ROOT / "docs" / "variables.md").read_text()
    defaults = "".join((ROOT / "roles" / role / "defaults/main.yml").read_text() for role in ROLES)
    for name in list_shared():
        assert f"{{{{ {name} }}}}" in defaults, name
        assert f"| {name} |" in documented, name


def test_the_artifact_holds_the_product_alone(tmp_path: Path) -> None:
    subprocess.run(
        ["ansible-galaxy", "collection", "build", "--output-path", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    with tarfile.open(next(tmp_path.iterdir())) as artifact:
        names = {member.name for member in artifact.getmembers()}
    tops = {name.partition("/")[0] for name in names}
    # what is beside Python and no template of a role's
    beside = {path.name for path in (ROOT / "plugins" / "module_utils" / "server" / "verify" / "pages").iterdir()}
    assert {f"plugins/module_utils/server/verify/pages/{name}" for name in beside} <= names
    package = list((ROOT / "plugins" / "module_utils" / "server").rglob("*.py"))
    assert len(package) > 4
    assert {path.relative_to(ROOT).as_posix() for path in package} <= names
    assert not [name for name in names if name.endswith(".pyc")]
    assert tops == {
        *(
            "MANIFEST.json",
            "FILES.json",
            "README.md",
            "LICENSE",
            "CHANGELOG.md",
            "CONTRIBUTING.md",
            "SECURITY.md",
            "requirements.txt",
            "requirements.yml",
        ),
        *("changelogs", "docs", "inventories", "meta", "playbooks", "plugins", "roles"),
    }


def test_a_snapshot_and_a_report_name_the_collection_that_made_them() -> None:
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    assert load("orthanc_backup", "vars/main.yml")["__orthanc_backup_collection"] == version
    assert load("orthanc_verify", "vars/main.yml")["__orthanc_verify_collection"] == version


def test_a_right_of_a_device_is_known_wherever_it_is_told() -> None:
    """Set by the deploy, compared by the acceptance test, put into words for the report, read from Orthanc's log."""
    assert set(acceptance.LISTED) == set(report.RIGHTS_IN_WORDS) == set(log.RIGHT_OF_REQUEST.values()) == set(RIGHTS)
    entries = [
        (role, settings[option]["options"]["may"]["choices"])
        for role in ROLES
        for entry in load(role, "meta/argument_specs.yml")["argument_specs"].values()
        for settings in [entry["options"]]
        for option in settings
        if "may" in settings[option].get("options", {})
    ]
    assert {role for role, _choices in entries} == {"orthanc_config", "orthanc_verify"}
    assert [(role, choices) for role, choices in entries if choices != list(RIGHTS)] == []


def test_every_rule_is_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    source = "".join(
        (ROOT / "plugins" / "plugin_utils" / f"{name}.py").read_text() for name in ("rules", "reading", "image")
    )
    names = {*rules.WAIVABLE, *re.findall(r'"([a-z]+_[a-z_]+)"(?:, "warning")?\)', source)}
    assert len(names) > 20
    assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()


def test_the_proxy_hands_over_the_searches_that_orthanc_answers() -> None:
    site = (ROOT / "roles/orthanc_proxy/templates/orthanc.conf.j2").read_text()
    [handed] = re.findall(r"\(\?<orthanc_searched>(.*)\)/\?\[", site)
    program = (ROOT / "roles/orthanc_config/files/search.py").read_text()
    [uid] = re.findall(r'^UID = "(.*)"$', program, re.MULTILINE)
    [answered] = re.findall(r'^SEARCH = f"/searches/\((.*)\)"$', program, re.MULTILINE)
    assert answered.replace("{UID}", uid) == handed


def test_whatever_is_installed_waits_for_dpkg_s_lock() -> None:
    tasks = [path.read_text() for path in (ROOT / "roles").rglob("*.yml")]
    assert [
        found
        for text in tasks
        for found in re.findall(r"^ +(?:ansible\.builtin\.)?(?:apt|package):", text, re.MULTILINE)
    ] == []
    assert sum(text.count("clinicops.orthanc.orthanc_packages:") for text in tasks) > 10


def find_values(content: Any, key: str) -> list[str]:
    """Every value of a key in YAML, however deep; a list is its items."""
    if isinstance(content, list):
        return [value for part in content for value in find_values(part, key)]
    if not isinstance(content, dict):
        return []
    own = content.get(key, [])
    inner = [value for part in content.values() for value in find_values(part, key)]
    return [*(own if isinstance(own, list) else [own]), *inner]


@pytest.mark.parametrize("role", sorted(path.name for path in (ROOT / "roles").iterdir()))
def test_a_handler_that_is_notified_is_there(role: str) -> None:
    def read(kind: str) -> list[Any]:
        return [yaml.safe_load(path.read_text()) for path in (ROOT / "roles" / role / kind).glob("*.yml")]

    handlers = read("handlers")
    known = {*find_values(handlers, "name"), *find_values(handlers, "listen")}
    assert {*find_values([*read("tasks"), *handlers], "notify")} <= known


def test_lint_is_switched_off_nowhere() -> None:
    """For a file whose imports follow its documentation, as Ansible wants it, pyproject.toml says so."""
    off = re.compile(
        r"#\s*(?:noqa|type:\s*ignore|pylint:|nosec|yamllint disable)|pytest\.mark\.(?:skip|xfail)|pytest\.skip\("
    )
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.yml", "*.j2"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    files = [ROOT / name for name in listed.stdout.split() if (ROOT / name).is_file()]
    assert len(files) > 300
    assert [path.relative_to(ROOT).as_posix() for path in files if off.search(path.read_text(encoding="utf-8"))] == []
