# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Settings that are true or false, in the spellings of Ansible's filter `bool`; `--extra-vars name=true` is text."""

from __future__ import annotations

TRUE = ("true", "yes", "on", "1")
FALSE = ("false", "no", "off", "0")


def is_boolean(value: object) -> bool:
    """Whether the value is true or false for the roles, and not only for some of Ansible."""
    return str(value).lower() in TRUE + FALSE


def is_false(value: object) -> bool:
    """Whether the roles take the value for false."""
    return str(value).lower() in FALSE
