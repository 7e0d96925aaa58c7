# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The questions that a clinic answers for its first inventory, and how an answer is read. Without Ansible."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.orthanc.rights import RIGHTS
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import specs
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

NONE = "none"  # the answer for an empty list or text
DIRECTORY, ADDRESS, USER = OWN = ("orthanc_init_directory", "orthanc_init_address", "orthanc_init_user")
# a name in DNS or in ~/.ssh/config, or an address of either version; never an option of ssh
HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:-]*")
ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*")
# users with their roles, as somebody types them
ROLE_OF_EACH = re.compile(r"[^\s:,]+:[a-z_]+([\s,]+[^\s:,]+:[a-z_]+)*")


class Question(NamedTuple):
    """A value that a clinic decides. `default` is None if there is none that suits every clinic."""

    variable: str
    text: str
    example: str
    default: str | None = None


QUESTIONS = (
    Question(DIRECTORY, "Directory for the inventory", "inventory", "inventory"),
    Question(ADDRESS, "Address or host name of the server, for SSH", "198.51.100.10"),
    Question(USER, "User on the server, who may use sudo; if empty, your SSH configuration decides", "ansible", ""),
    Question(
        "orthanc_install_method", "Orthanc from Debian's package, or in a container: package, docker", "", "package"
    ),
    Question("orthanc_hostname", "Name of the server in https://<name>/", "pacs.clinic.example"),
    Question(
        "orthanc_modalities",
        "The DICOM devices: name, AE title, address, port, and what each may do; [] for none",
        "[{name: us1, aet: US1, host: 198.51.100.21, port: 104, may: [echo, store, find_worklist]}]",
    ),
    Question(
        "orthanc_https_sources",
        "Addresses and networks from which users and systems read over HTTPS, separated by spaces; or none",
        "198.51.100.64/26",
    ),
    Question(
        "orthanc_admin_sources",
        "Addresses of administrators' computers, which see Orthanc's own pages; or none",
        "198.51.100.90",
        NONE,
    ),
    Question(
        "orthanc_users",
        "Users, each with a role: admin, dicomweb_reader, dicomweb_writer. Passwords are generated",
        "",
        "it:admin viewer:dicomweb_reader gateway:dicomweb_writer",
    ),
    Question(
        "orthanc_backup_repository",
        "Where backups go: a path, sftp:user@host:/path, rest:https://host/, s3:...; or none for no backup",
        "sftp:backup@198.51.100.95:/orthanc",
    ),
)
# On a device, by its keys.
DEVICE = (
    Question("name", "Name of the next DICOM device; none ends the list", "us1", NONE),
    Question("aet", "    AE title of this device", "US1"),
    Question("host", "    IP address of this device", "198.51.100.21"),
    Question("port", "    DICOM port of this device", "", "104"),
    Question("may", f"    What this device may do: {', '.join(RIGHTS)}", "", "echo store find_worklist"),
)
# What a device is taken for until it is described; no other device has this AE title.
UNKNOWN = {"name": "", "aet": "~", "host": "192.0.2.1", "port": "104", "may": "echo"}


def find_missing(given: Iterable[str]) -> list[Question]:
    """The questions without a default that are not answered."""
    known = set(given)
    return [one for one in QUESTIONS if one.default is None and one.variable not in known]


def list_defaults() -> dict[str, Any]:
    """The answers that suit every clinic."""
    return {one.variable: read_answer(one.variable, one.default) for one in QUESTIONS if one.default is not None}


def list_examples() -> dict[str, Any]:
    """Valid answers to all but the directory, with which one answer can be checked before the others are given."""
    examples = {one.variable: read_answer(one.variable, one.example) for one in QUESTIONS if one.default is None}
    return {name: value for name, value in {**list_defaults(), **examples}.items() if name != DIRECTORY}


def read_answer(variable: str, value: Any) -> Any:
    """The value of a setting as its spec wants it, from what somebody typed or passed with -e.

    A list is separated by spaces or commas, or written in YAML; `none` is an empty list or text. What cannot be read is
    returned as it is: the check of the settings explains it.
    """
    setting = specs.list_public().get(variable)
    if variable in OWN:
        return str(value).strip()
    if not isinstance(value, str) or not setting:
        return value
    value, kind = value.strip(), setting.spec["type"]
    if kind in ("str", "path"):
        return "" if value == NONE else value
    if kind == "list" and value in (NONE, ""):
        return []
    if variable == "orthanc_users" and ROLE_OF_EACH.fullmatch(value):
        pairs = (one.split(":") for one in split_words(value))
        return [{"name": name, "role": role} for name, role in pairs]
    if kind == "list" and setting.spec["elements"] != "dict" and not value.startswith("["):
        return [int(one) if one.isdecimal() else one for one in split_words(value)]
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def read_device(texts: Mapping[str, str]) -> dict[str, Any]:
    """A device from the answers to DEVICE."""
    port = texts["port"]
    return {
        **{key: texts[key] for key in ("name", "aet", "host")},
        "port": int(port) if port.isdecimal() else port,
        "may": split_words(texts["may"]),
    }


def split_words(text: str) -> list[str]:
    """Words between spaces and commas."""
    return [one for one in re.split(r"[\s,]+", text) if one]


def find_problems(answers: Mapping[str, Any]) -> list[Problem]:
    """The problems of the answers that are not settings; the directory is left out if it is not given yet."""
    found = []
    if not HOST.fullmatch(answers[ADDRESS]):
        remedy = "write a name in your DNS or an address, such as 198.51.100.10"
        found.append(problem(ADDRESS, f"{answers[ADDRESS]!r} is not a host name or an address", remedy))
    if answers[USER] and not ACCOUNT.fullmatch(answers[USER]):
        remedy = "write the name of an account on the server"
        found.append(problem(USER, f"{answers[USER]!r} is not a user name", remedy))
    return [*found, *(_find_directory_problems(find_directory(answers)) if DIRECTORY in answers else [])]


def find_directory(answers: Mapping[str, Any]) -> Path:
    """The absolute path of the inventory."""
    return Path(answers[DIRECTORY]).expanduser().absolute()


def _find_directory_problems(directory: Path) -> list[Problem]:
    """A problem for a directory that has files, or is not one: nothing is ever overwritten."""
    remedy = "choose another directory, or move the files away"
    if directory.is_dir():
        files = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir())
        if named := sorted(itertools.islice(files, 5)):
            return [problem(DIRECTORY, f"{directory} is not empty: it contains {', '.join(named)}", remedy)]
    elif directory.exists() or directory.is_symlink():
        return [problem(DIRECTORY, f"{directory} is not a directory", remedy)]
    if "," in str(directory):
        return [
            problem(DIRECTORY, f"{directory} has a comma: Ansible reads it as a list of hosts", "choose another name")
        ]
    return []


@dataclasses.dataclass
class Interview:
    """Asks a person for answers until each is right.

    `ask` returns what was typed. `find_errors` returns what is wrong with answers, in sentences, and `tell` shows one.
    """

    ask: Callable[[Question], str]
    find_errors: Callable[[Mapping[str, Any]], list[str]]
    tell: Callable[[str], None]

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The answers with those to all questions that `given` leaves open."""
        answers = dict(given)
        for question in QUESTIONS:
            name = question.variable
            if name in given:
                continue
            if name == "orthanc_modalities":
                answers[name] = self._ask_devices(answers)
            else:
                include = functools.partial(_include_answer, dict(answers), name)
                answers = include(self._ask_one(question, include))
        return answers

    def _ask_devices(self, answers: dict[str, Any]) -> list[dict[str, Any]]:
        devices: list[dict[str, Any]] = []
        while True:
            texts = dict(UNKNOWN)
            for question in DEVICE:
                key = question.variable
                include = functools.partial(_include_device, answers, list(devices), dict(texts), key)
                texts[key] = self._ask_one(question, include)
                if key == "name" and texts[key] == NONE:
                    return devices
            devices.append(read_device(texts))

    def _ask_one(self, question: Question, include: Callable[[str], dict[str, Any]]) -> str:
        """What was typed, or the default. `include` returns the answers with it, for the check."""
        while True:
            text = self.ask(question) or question.default
            if text is None:
                continue
            errors = self.find_errors(include(text))
            if not errors:
                return text
            for error in errors:
                self.tell(error)


def _include_answer(answers: dict[str, Any], name: str, text: str) -> dict[str, Any]:
    return {**answers, name: read_answer(name, text)}


def _include_device(
    answers: dict[str, Any], devices: list[Any], texts: dict[str, str], key: str, text: str
) -> dict[str, Any]:
    return {**answers, "orthanc_modalities": [*devices, read_device({**texts, key: text})]}
