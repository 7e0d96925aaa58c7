# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Text from outside, fit for a terminal, a line of the journal, a mail, a file of reasons.

A device chooses accession numbers and names, an application chooses file names: a line break in one of them would begin
a line of its own, and an escape sequence would speak to the terminal of whoever reads it.
"""

from __future__ import annotations

import unicodedata

# controls, formats (the bidirectional ones among them), lone surrogates, separators of lines and of paragraphs
UNFIT = {"Cc", "Cf", "Cs", "Zl", "Zp"}
JOINERS = {"\u200c", "\u200d"}  # Persian and Indian names are written with them


def escape(text: object) -> str:
    """The text in one line, every character that would act instead of being seen written as \\x1b or \\u202e.

    What is escaped stays as it is when it is escaped again."""
    return "".join(escape_character(letter) for letter in str(text))


def escape_character(letter: str) -> str:
    """The character itself, or its escape where it would act instead of being seen."""
    if letter.isascii():
        return letter if letter.isprintable() else f"\\x{ord(letter):02x}"
    if letter in JOINERS or unicodedata.category(letter) not in UNFIT:
        return letter
    number = ord(letter)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
