# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Warnings of Ansible's that are about one host, in lines that end where the terminal ends."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from ansible.utils.display import Display


def warn_of_host(sentences: Iterable[str], host: str) -> None:
    """Shows each; Ansible shows once what is the same for two hosts, so the host's name begins it."""
    display = Display()
    before = len("[WARNING]: ")
    for sentence in sentences:
        lines = textwrap.wrap(
            f"{host}: {sentence}",
            min(display.columns, 100),
            initial_indent=" " * before,
            break_long_words=False,
            break_on_hyphens=False,
        )
        display.warning("\n".join(lines)[before:])
