# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What becomes of each option of the old configuration. Without Ansible."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ansible_collections.clinicops.orthanc.plugins.module_utils import masking
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import configuration, rules
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.adoption.old import Old, Path, find_sources, list_leaves

KEPT, REPLACED, REFUSED = "kept", "replaced", "refused"
PREFIX = "orthanc_config_settings."
LONGEST = 60
SHORTEST = 8  # a shorter password may be a word, or a part of one


class Verdict(NamedTuple):
    """`verdict` is kept, replaced or refused; `what` says as what, by what or why."""

    verdict: str
    what: str


class Line(NamedTuple):
    """What becomes of one option: its path, where it was written, its value without secrets, and the verdict."""

    path: str
    source: str
    today: str
    verdict: str
    what: str


class Open(NamedTuple):
    """An option with which today's server is open, and the waiver that would keep it so."""

    rule: str
    option: str
    value: Any


Verdicts = dict[Path, Verdict]


def judge_options(
    old: Old, known: Mapping[Path, Verdict], settings: Mapping[str, Any]
) -> tuple[Verdicts, dict[str, Any], list[Open]]:
    """A verdict on each option that has none in `known`, the options that the inventory keeps, and what it closes.

    `settings` are those of the inventory, without the prefix, as configuration.build and problems take them.
    """
    built = configuration.build({"worklist_plugin": settings["worklist_plugin"]})
    verdicts: Verdicts = {}
    candidates: dict[Path, Any] = {}
    for path, value in list_leaves(old.configuration):
        found = known.get(path) or _judge(path, value, built)
        if found:
            verdicts[path] = found
        else:
            candidates[path] = value
    closed = [*_find_open(old)]
    for path, one in _find_refused(candidates, settings):
        verdict = Verdict(REFUSED, f"{one['message']}")
        if one["rule"] in rules.WAIVABLE:
            closed.append(Open(one["rule"], ".".join(path), candidates[path]))
            verdict = Verdict(REPLACED, f"Orthanc's default; it {one['message']}")
        verdicts[path] = verdict
        del candidates[path]
    verdicts |= dict.fromkeys(candidates, Verdict(KEPT, "orthanc_config_settings"))
    return verdicts, nest(candidates), closed


def _judge(path: Path, value: Any, built: Mapping[str, Any]) -> Verdict | None:
    """The verdict by the option's value alone; None if the inventory must name it, if the check accepts it."""
    name = ".".join(path)
    if name in configuration.FIXED or path[0] in configuration.CLOSED:
        wanted = configuration.FIXED.get(name, configuration.CLOSED.get(path[0]))
        if value == wanted:
            return Verdict(KEPT, "the same in every deploy")
        return Verdict(REPLACED, f"{show(wanted)} in every deploy")
    if path[0] in ("DicomWeb", "Worklists") and path[-1] in _get(built, path[:1]):
        wanted = _get(built, path)
        if value == wanted:
            return Verdict(KEPT, "the same in every deploy")
    default = _default_of(path)
    wanted = _get(built, path)
    if wanted is not None:
        if value == wanted:
            return Verdict(KEPT, "the same in every deploy")
        return Verdict(REPLACED, f"{show(wanted)}, the default of a deploy") if value == default else None
    if value == default or (value in ({}, []) and default in (None, {}, [])):
        return Verdict(KEPT, "Orthanc's default, which need not be set")
    return None


def _get(section: Any, path: Path) -> Any:
    for name in path:
        section = section.get(name) if isinstance(section, dict) else None
    return section


def _default_of(path: Path) -> Any:
    """Orthanc's default of an option; None if it has none."""
    part: Any = {"properties": rules.SCHEMA["properties"]}
    for number, name in enumerate(path):
        part = part.get("properties", {}).get(name)
        if not isinstance(part, dict):
            return None
        if isinstance(part.get("default"), dict) and number < len(path) - 1:
            return _get(part["default"], path[number + 1 :])
    return part.get("default")


def _find_open(old: Old) -> Iterator[Open]:
    """The options by which today's server is open, also those that are not written."""
    for name, (rule, safe) in rules.SWITCHES.items():
        since = rules.release(rules.SCHEMA["properties"][name]["x-since"])
        if name in configuration.CLOSED and name != "RemoteAccessAllowed" and since <= rules.release(old.version):
            value = old.effective(name)
            if value != safe:
                yield Open(rule, name, value)


def _find_refused(candidates: Mapping[Path, Any], settings: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, str]]]:
    """The options that the check of the settings refuses, each with its problem."""
    left = dict(candidates)
    while left:
        found = configuration.problems({**settings, "settings": nest(left)})
        errors = [one for one in found if one["severity"] == "error" and one["path"].startswith(PREFIX)]
        refused = {path: one for one in errors for path in left if is_about(one["path"].removeprefix(PREFIX), path)}
        if not refused:
            return
        for path, one in refused.items():
            del left[path]
            yield path, one


def is_about(named: str, path: Path) -> bool:
    """Whether a problem's path names the option, a section around it, or a part of it."""
    own = ".".join(path)
    return own == named or own.startswith(f"{named}.") or bool(re.match(rf"{re.escape(own)}[.\[]", named))


def nest(options: Mapping[Path, Any]) -> dict[str, Any]:
    """The options as sections."""
    whole: dict[str, Any] = {}
    for path, value in options.items():
        place = whole
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = value
    return whole


def list_lines(old: Old, verdicts: Mapping[Path, Verdict]) -> list[Line]:
    """Each option of the old configuration with its verdict, in the order of the files."""
    sources = find_sources(old)
    whole = without_known_passwords(old.configuration)
    # what is empty is no secret
    shown = [
        show(value if value in ("", None) else masked)
        for (_path, value), (_same, masked) in zip(list_leaves(whole), list_leaves(masking.mask(whole)), strict=True)
    ]
    return [
        Line(
            masking.hide(".".join(path), whole),
            sources.get(path, ""),
            today,
            verdicts[path].verdict,
            masking.hide(verdicts[path].what, whole),
        )
        for (path, _value), today in zip(list_leaves(old.configuration), shown, strict=True)
    ]


def without_known_passwords(whole: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without passwords that are words, which would be masked wherever they appear."""
    users = whole.get("RegisteredUsers")
    if not isinstance(users, dict):
        return dict(whole)
    known = (*rules.KNOWN_PASSWORDS, *(str(name).lower() for name in users))
    tame = {
        name: masking.MASK if len(str(password)) < SHORTEST or str(password).lower() in known else password
        for name, password in users.items()
    }
    return {**whole, "RegisteredUsers": tame}


def show(value: Any) -> str:
    """A value in JSON, shortened."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
