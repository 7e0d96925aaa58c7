# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible warnings about one host, wrapped to the width of the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from ansible.utils.display import Display


def warn_of_host(sentences: Iterable[str], host: str) -> None:
    """Shows each sentence. Ansible shows identical warnings of two hosts once, so each begins with the host's name."""
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
