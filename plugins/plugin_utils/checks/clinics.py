# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks what the clinics of an inventory may not share, and puts the problems of all clinics into one table.

No message contains a secret.
"""

from __future__ import annotations

import posixpath
import re
import textwrap
import urllib.parse
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ansible_collections.clinicops.orthanc.plugins.module_utils.server.backup import ssh
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import evaluate
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

# what two clinics may not share
COMPARED = (
    "orthanc_proxy_hostname",
    "orthanc_proxy_ca_directory",
    "orthanc_proxy_users",
    "orthanc_config_name",
    "orthanc_backup_repository",
    "orthanc_backup_host",
    "orthanc_backup_password",
    "orthanc_verify_report_key",
)
# what decides which machine Ansible reaches, in addition to the address, with its defaults: clinics may have the same
# private addresses
WAY = {
    "ansible_port": "22",
    "ansible_connection": "ssh",
    "ansible_ssh_common_args": "",
    "ansible_ssh_extra_args": "",
    "ansible_ssh_args": "",
}
CONNECTION = ("ansible_host", *WAY)
SEVERITIES = ("error", "warning", "waived")
NAMED = 6  # more clinics than these are counted
LEFT = 24  # columns of the clinics' names


class Finding(NamedTuple):
    """A problem, and the clinics that have it in the order of the inventory."""

    problem: Problem
    clinics: list[str]


# --- what clinics may not share -------------------------------------------------------------------
def find_shared(
    checked: Mapping[str, Mapping[str, Any]], others: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Finding]:
    """The problems of settings that two clinics may not share, if one of them is checked.

    `checked`: own settings and CONNECTION by host; `others`: the same of clinics that --limit leaves out.
    """
    found = _find_shared({**checked, **(others or {})})
    own = [each for each in found if not checked.keys().isdisjoint(each.clinics)]
    return [*(_weigh(each, checked) for each in own), *_find_rollouts(checked)]


def _weigh(finding: Finding, checked: Mapping[str, Any]) -> Finding:
    """One address may be two machines, to which the controller has a way at different times, as with a VPN for each
    clinic. Within one run it cannot."""
    apart = finding.problem["path"] == "ansible_host" and len(checked.keys() & {*finding.clinics}) == 1
    return finding._replace(problem={**finding.problem, "severity": "warning"}) if apart else finding


def _find_shared(clinics: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    return [
        *_find_names(clinics),
        *_find_equal(
            clinics,
            _place_of_backups,
            "orthanc_backup_host",
            "is the same for these clinics in one repository: each would remove the snapshots of the others",
            "give each a name of its own (the default is its name in the inventory), or a repository of its own",
        ),
        *_find_equal(
            clinics,
            _place_of_machine,
            "ansible_host",
            "leads to one machine under several names",
            "correct the address, or remove all names but one",
        ),
        *_find_equal(
            clinics,
            lambda settings: str(settings.get("orthanc_config_name") or "") or None,
            "orthanc_name",
            "is the same for these clinics: the overview and the reports cannot tell them apart",
            "give each clinic a name of its own",
            "warning",
        ),
        *_find_secrets(clinics),
    ]


def _group(clinics: Mapping[str, Any], key: Callable[[Any], Hashable | None]) -> Iterator[list[str]]:
    """The clinics with the same key, if there are several; None is no key."""
    groups: dict[Hashable, list[str]] = {}
    for name, settings in clinics.items():
        found = key(settings)
        if found is not None:
            groups.setdefault(found, []).append(name)
    return (group for group in groups.values() if len(group) > 1)


def _find_equal(
    clinics: Mapping[str, Any],
    key: Callable[[Any], Hashable | None],
    path: str,
    message: str,
    remedy: str,
    severity: str = "error",
) -> Iterator[Finding]:
    for group in _group(clinics, key):
        yield Finding(problem(path, message, remedy, "shared_setting", severity), group)


def _find_names(clinics: Mapping[str, Any]) -> Iterator[Finding]:
    """Clinics of one host name. Whoever keeps their CAs apart does so on purpose, with a DNS for each clinic."""
    for group in _group(clinics, _host_name):
        name = _host_name(clinics[group[0]])
        apart = len({_directory(clinics[one]) for one in group}) == len(group)
        remedy = "give each clinic a name of its own"
        message = f"{name} is the host name of several clinics"
        if not apart:
            message += ": their CAs' roots would be one file on the controller"
        yield Finding(
            problem("orthanc_hostname", message, remedy, "shared_setting", "warning" if apart else "error"), group
        )


def _host_name(settings: Mapping[str, Any]) -> str | None:
    name = settings.get("orthanc_proxy_hostname")
    return name.lower().rstrip(".") or None if isinstance(name, str) else None


def _directory(settings: Mapping[str, Any]) -> str:
    return posixpath.normpath(str(settings.get("orthanc_proxy_ca_directory") or ""))


def _place_of_backups(settings: Mapping[str, Any]) -> Hashable | None:
    """The repository and the name in it; a path is a disk of the machine's own."""
    repository, host = settings.get("orthanc_backup_repository"), settings.get("orthanc_backup_host")
    if not isinstance(repository, str) or not re.match(r"[a-z0-9]+:", repository) or repository.startswith("local:"):
        return None
    return (_spell(repository), str(host)) if host else None


def _spell(repository: str) -> str:
    """The repository in one spelling, whichever the inventory has: restic knows two for SFTP, and a user with a
    password is not part of the place."""
    if place := ssh.find_place(repository):
        url, short = ssh.URL.match(repository), ssh.SHORT.match(repository)
        # the short form's pattern ends with the first letter of the path
        path = repository[url.end() if url else short.end() - 1 if short else 0 :]
        # a path that does not begin with a slash is below the account's own directory
        top = "" if path.startswith("/") else f"~{place.user}/"
        return f"sftp:{place.names[0]}:{top}{posixpath.normpath(path).lstrip('/')}"
    return re.sub(r"(//)[^/@]+@", r"\1", repository).rstrip("/")


def _place_of_machine(settings: Mapping[str, Any]) -> Hashable | None:
    """The address and the way to it."""
    address = settings.get("ansible_host")
    return (str(address), *(str(settings.get(name) or usual) for name, usual in WAY.items())) if address else None


def _find_secrets(clinics: Mapping[str, Any]) -> Iterator[Finding]:
    """Passwords that open several clinics; one row for each user, and one for the repository."""
    remedy = "generate one for each clinic, in host_vars/<clinic>/vault.yml"
    for name in dict.fromkeys(user for settings in clinics.values() for user in _passwords(settings)):

        def read(settings: Mapping[str, Any], name: str = name) -> str | None:
            return _passwords(settings).get(name)

        message = f"gives {name} the same password in several clinics"
        yield from _find_equal(clinics, read, "orthanc_users", message, remedy, "warning")
    message = "is the same in several clinics: whoever reads one clinic's backups reads those of the others"
    yield from _find_equal(
        clinics,
        lambda settings: str(settings.get("orthanc_backup_password") or "") or None,
        "orthanc_backup_password",
        message,
        remedy,
        "warning",
    )
    yield from _find_equal(
        clinics,
        lambda settings: str(settings.get("orthanc_verify_report_key") or "") or None,
        "orthanc_verify_report_key",
        "is the same in several clinics: whoever has one clinic's server writes the reports of the others",
        remedy,
        "warning",
    )


def _passwords(settings: Mapping[str, Any]) -> dict[str, str]:
    users = settings.get("orthanc_proxy_users")
    return {
        str(user["name"]): str(user["password"])
        for user in (users if isinstance(users, list) else [])
        if isinstance(user, dict) and user.get("name") and user.get("password")
    }


def _find_rollouts(clinics: Mapping[str, Any]) -> Iterator[Finding]:
    sizes = {name: str(settings.get("orthanc_verify_rollout")) for name, settings in clinics.items()}
    if len(set(sizes.values())) > 1:
        first, *_others = sizes.values()
        remedy = "set it once, for all, in group_vars/orthanc"
        wrong = problem("orthanc_rollout", "differs between clinics", remedy, "different_setting")
        yield Finding(wrong, [name for name, size in sizes.items() if size != first])


def find_rollout_problems(rollout: Any) -> list[Problem]:
    """The problems of the sizes of batches: whole numbers of clinics, or percentages of them."""
    sizes = rollout if isinstance(rollout, list) else [rollout]
    wrong = [size for size in sizes if not re.fullmatch(r"[1-9][0-9]{0,5}|(?:[1-9][0-9]?|100)%", str(size))]
    if sizes and not wrong:
        return []
    message = f"contains {wrong[0]!r}, which is not a size of a batch" if wrong else "is empty"
    return [problem("orthanc_rollout", message, "write numbers of clinics, or percentages, such as [1, 10%, 100%]")]


def names_host(url: str) -> bool:
    """Whether a client can read the host and port of a URL, if it has any."""
    try:
        place = urllib.parse.urlsplit(url)
        (place.hostname or "").encode("idna")
        return place.port != 0
    except ValueError:
        return False


def find_report_url_problems(url: str, key: str = "", known_hosts: str = "") -> list[Problem]:
    """The problems of the directory to which reports are sent, and of what SFTP needs for it; the URL may hold a
    password, and no message shows it."""
    if not url:
        return []
    setting = "orthanc_verify_report_url"
    if not names_host(url):
        return [
            problem(setting, "does not name a valid host and port", "write a host, and a port from 1 to 65535 if any")
        ]
    if not url.startswith("sftp:"):
        if re.fullmatch(r"https://(?:[^\s/@]+@)?[^\s/@?#]+/(?:[^\s?#]+/)?", url):
            return []
        remedy = "write https://user:password@host/path/ or sftp://user@host/path/, with a slash at the end"
        return [problem(setting, "is not the URL of a directory over HTTPS or SFTP", remedy)]
    found = []
    if not re.fullmatch(r"sftp://[^\s/@:\"\\-][^\s/@:\"\\]*@[^\s/@?#\"\\-][^\s/@?#\"\\]*/(?:[^\s?#*\[\"\\]+/)?", url):
        remedy = "write sftp://user@host/path/, without a password and with a slash at the end"
        found.append(problem(setting, "is not the URL of a directory over SFTP", remedy))
    for name, value, remedy in (
        ("orthanc_verify_report_key", key, "write the private key of an account for these reports, from a vault"),
        ("orthanc_verify_report_known_hosts", known_hosts, "write what `ssh-keyscan` prints for that host, compared"),
    ):
        if not value.strip():
            found.append(problem(name, f"is not set, and {setting} is over SFTP", remedy))
    return found


# --- the table ------------------------------------------------------------------------------------
def merge(problems: Mapping[str, Iterable[Problem]], shared: Iterable[Finding] = ()) -> list[Finding]:
    """The problems of each clinic and those between clinics: equal ones once, errors first."""
    merged: dict[tuple[str, ...], Finding] = {}
    for name, found in problems.items():
        for one in found:
            merged.setdefault(tuple(one.values()), Finding(one, [])).clinics.append(name)
    found = [*merged.values(), *shared]
    return sorted(found, key=lambda each: SEVERITIES.index(each.problem["severity"]))


def count_clinics(findings: Iterable[Finding]) -> int:
    """How many clinics have at least one of these problems."""
    return len({name for each in findings for name in each.clinics})


def write_table(findings: Iterable[Finding], clinics: Collection[str], width: int) -> str:
    """The problems as a table of text: which of the checked `clinics`, what is wrong, what to do."""
    rows = []
    for each in findings:
        said, _separator, remedy = evaluate.say_marked(each.problem).partition(" Remedy: ")
        right = [line for text in (said, f"Remedy: {remedy}") for line in _wrap(text, width - LEFT - 2)]
        left = _wrap(_name(each.clinics, clinics), LEFT)
        height = max(len(left), len(right))
        left += [""] * (height - len(left))
        right += [""] * (height - len(right))
        rows += [f"{name:{LEFT}}  {text}".rstrip() for name, text in zip(left, right, strict=True)]
    return "\n".join(rows)


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _name(names: list[str], clinics: Collection[str]) -> str:
    if len(names) > 1 and set(names) == set(clinics):
        return f"all {len(names)} clinics"
    if len(names) > NAMED:
        return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"
    return ", ".join(names)
