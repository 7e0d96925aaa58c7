# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The acceptance report as lines that fit a terminal."""

from __future__ import annotations

import textwrap
from typing import Any

from ..core.escaping import escape

LINE = 90  # a terminal of 100, minus the indentation of Ansible's messages
NAME = 50  # of a check; a longer one moves its result to the right


def list_lines(report: dict[str, Any]) -> list[str]:
    """A line for each check and each waiver, the totals, and at the end the failures."""
    return [*list_results(report), *list_failures(report)]


def list_results(report: dict[str, Any]) -> list[str]:
    """A line for each check that passed or is waived, and one for each waiver."""
    checks = [check for check in report["checks"] if not is_failed(check)]
    width = min(max((len(check["name"]) for check in checks), default=0), NAME)
    found = []
    for check in checks:
        seen = describe_result(check) if check["waiver"] else check["seen"]
        found.append(f"{'waived' if check['waiver'] else 'passed'}  {check['name']:{width}}  {seen}")
    found += [f"waived  {rule}: {reason}" for rule, reason in report["waivers"].items()]
    return [line if len(line) <= LINE else f"{line[: LINE - 4].rstrip()} ..." for line in map(escape, found)]


def list_failures(report: dict[str, Any]) -> list[str]:
    """The totals, and for each failed check its name, the expected and the actual result, and the remedy."""
    checks = report["checks"]
    passed = sum(check["passed"] for check in checks)
    found = [f"{passed} passed, {len(checks) - passed} failed"]
    for check in checks:
        if is_failed(check):
            remedy = [f"Remedy: {check['remedy']}"] if check.get("remedy") else []
            found += ["", *wrap(f"FAILED  {check['name']}")]
            for text in (describe_result(check), *remedy):
                found += wrap(text, " " * 8)
    return found


def describe_result(check: dict[str, Any]) -> str:
    """What was expected and what was seen, for a check that did not pass."""
    return f"expected: {check['expected']}; actual: {check['seen']}"


def wrap(text: str, indent: str = "") -> list[str]:
    """The text in lines that keep addresses and commands in one piece, so that they can be copied."""
    return textwrap.wrap(
        escape(text),
        LINE,
        initial_indent=indent,
        subsequent_indent=" " * 8,
        break_long_words=False,
        break_on_hyphens=False,
    )


def is_failed(check: dict[str, Any]) -> bool:
    """Whether a check did not pass and is not waived."""
    return not check["passed"] and not check.get("waiver")
