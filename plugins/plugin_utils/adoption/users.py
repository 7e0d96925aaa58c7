# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The users of the old server, and which of them need a new password. Without Ansible."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ansible_collections.clinicops.orthanc.plugins.plugin_utils import questions, reading, rules
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.adoption.devices import Change
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.adoption.old import Old
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.adoption.options import (
    KEPT,
    REFUSED,
    REPLACED,
    Verdict,
    Verdicts,
)
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.configuration import RESERVED_NAMES

NAME = re.compile(r"[A-Za-z0-9._-]+")
LAST_WITH_DEFAULT = (1, 12, 8)  # until then, without users, orthanc may log in with password orthanc


BAD_NAME = "nobody could log in with this name: use letters, digits, dot, hyphen and _"
NOT_GIVEN = "the list of users that was given does not name this one"


class User(NamedTuple):
    """A user of the old server. `entry` is the one of orthanc_users, or None; `why` says why there is none, or why the
    password is a new one."""

    name: str
    entry: dict[str, Any] | None
    why: str


def read_users(old: Old, given: Mapping[str, Mapping[str, Any]], generate: Callable[[], str]) -> list[User]:
    """The users that may log in today. `given` are those that were decided, by name; without any, roles are open.

    A single user is the administrator, whom every deploy needs.
    """
    found: list[User] = []
    written = old.section("RegisteredUsers")
    usable = [name for name in written if _may_have(name, [])]
    for name, password in written.items():
        taken = [one.name.lower() for one in found if one.entry]
        if not _may_have(name, taken) or (given and name not in given):
            found.append(User(str(name), None, NOT_GIVEN if _may_have(name, taken) else BAD_NAME))
            continue
        decided = given.get(name, {})
        unknown = reading.is_unknown(password)
        why = "comes from an environment that cannot be read" if unknown else rules.password_problem(name, password)
        if decided.get("password"):
            why, password = "was replaced by the one that was given", decided["password"]
        elif why:
            password = generate()
        role = decided.get("role", "admin" if len(usable) == 1 and not given else "")
        found.append(User(str(name), {"name": name, "password": password, "role": role}, why))
    return found


def _may_have(name: Any, taken: list[str]) -> bool:
    return bool(NAME.fullmatch(str(name))) and str(name).lower() not in (*RESERVED_NAMES, *taken)


def list_entries(
    users: list[User], given: Mapping[str, Mapping[str, Any]], generate: Callable[[], str]
) -> list[dict[str, Any]]:
    """orthanc_users: those of the old server, and those of `given` that are new. Without any, the usual ones."""
    entries = [one.entry for one in users if one.entry]
    names = [one["name"] for one in entries]
    usual = [] if entries or given else questions.list_defaults()["orthanc_users"]
    new = [*(one for name, one in given.items() if name not in names), *usual]
    return [
        *entries,
        *({"name": one["name"], "password": one.get("password") or generate(), "role": one["role"]} for one in new),
    ]


def judge_users(users: list[User]) -> Verdicts:
    """The verdicts on RegisteredUsers."""
    if not users:
        return {("RegisteredUsers",): Verdict(REPLACED, "orthanc_users, with new users")}
    found: Verdicts = {}
    for one in users:
        verdict = Verdict(KEPT, "orthanc_users, with the same password")
        if not one.entry:
            verdict = Verdict(REFUSED, one.why)
        elif one.why:
            verdict = Verdict(REPLACED, f"orthanc_users, with a new password: the old one {one.why}")
        found["RegisteredUsers", one.name] = verdict
    return found


def list_user_changes(old: Old, users: list[User], entries: list[dict[str, Any]]) -> Iterator[Change]:
    """Whose password or rights change."""
    open_today = old.effective("AuthenticationEnabled") is not True
    for one in users:
        if not one.entry:
            who = f"User {one.name}" if one.why == NOT_GIVEN else "A user with a name that cannot be used"
            yield Change(who, "may do everything", "cannot log in")
        elif one.why:
            yield Change(f"User {one.name}", f"has a password that {one.why}", "has the new password in vault.yml")
    if not old.section("RegisteredUsers") and not open_today and rules.release(old.version) <= LAST_WITH_DEFAULT:
        yield Change("User orthanc", "may log in with the password orthanc", "cannot log in")
    if open_today:
        yield Change("Whoever reaches Orthanc over HTTP", "needs no password", "needs a user and a password")
    for entry in entries:
        if entry["role"] != "admin" and any(one.name == entry["name"] for one in users):
            role = f"has the role {entry['role']}" if entry["role"] else "has the role that you choose"
            yield Change(f"User {entry['name']}", "may do everything", role)
