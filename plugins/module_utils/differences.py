# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The differences between two orthanc.json in words, without values, which may be secrets. Without Ansible."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def list_differences(before: str, after: str) -> list[str]:
    """'DicomModalities: 1 added', 'Name changed': one for each option; empty if either text is not JSON."""
    try:
        old, new = json.loads(before), json.loads(after)
    except ValueError:
        return []
    if not isinstance(old, dict) or not isinstance(new, dict):
        return []
    return [line for key in sorted({*old, *new}) for line in compare(key, old.get(key), new.get(key))]


def compare(key: str, old: Any, new: Any) -> Iterator[str]:
    if old == new:
        return
    if old is None or new is None:
        yield f"{key} {'added' if old is None else 'removed'}"
    elif isinstance(old, dict) and isinstance(new, dict):
        counts = {
            "added": len(new.keys() - old.keys()),
            "removed": len(old.keys() - new.keys()),
            "changed": sum(old[name] != new[name] for name in old.keys() & new.keys()),
        }
        yield f"{key}: {', '.join(f'{number} {what}' for what, number in counts.items() if number)}"
    else:
        yield f"{key} changed"
