#!/usr/bin/env python3
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Generates the documentation of the settings from the specs of the roles, its only source.

It writes docs/variables.md, the README of each role and the comments of its defaults; `make docs` calls it.
"""

from __future__ import annotations

import re
import sys
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import specs
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.inventory import Lines

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 118
REQUIRED = ("orthanc_hostname", "orthanc_users")
GENERATED = "<!-- Written by `make docs` from meta/argument_specs.yml: change it there. -->"
INTRODUCTION = """# Settings

What a clinic can set in its inventory. The first three or four are enough."""
CLOSING = """`orthanc_config_settings` is checked as [configuration.md](configuration.md) describes; set an option
that a variable above controls through that variable. Names that begin with `orthanc_` belong to this collection: an
unknown one is refused as a misspelling, or named in a warning. One that the playbooks set themselves is refused, and
the message names the settings that it is made of.

Emptying a setting and deploying removes what the setting created: schedule, settings and command of the backup,
accounts of worklist writers, the settings of the mail server, node_exporter and its port. Another
`orthanc_proxy_certificate` removes the key and the renewal of the one before. Backups, the ledger of studies, the
server's own CA with the certificates that it issued, and Debian's packages are kept.

A password that contains `{{` needs Ansible's tag `!unsafe`; otherwise it is read as a template. The directories must
be used by Orthanc only: those of the system and of other people are refused. Orthanc's own ports (`orthanc_dicom_port`,
`orthanc_dicom_tls_port`, `orthanc_http_port`) cannot be 22, 80 or 443."""


@cache
def read_examples() -> dict[str, Any]:
    """The settings of the example in each role's README, and their values."""
    content: dict[str, Any] = specs.read_yaml(ROOT / "tools/settings.yml")
    return content


def write_markdown(text: str, docs: str) -> str:
    """The markup of a spec as Markdown; `docs` is the path from the page to the directory docs."""
    text = " ".join(text.split())
    text = re.sub(r"[CV]\(([^)]*)\)", r"`\1`", text)
    return re.sub(r"docs/([a-z-]+\.md)", lambda match: f"[{match[1]}]({docs}{match[1]})", text)


def describe(spec: dict[str, Any], docs: str) -> str:
    """The text of a table cell on an option: its description, its values, and its own options."""
    said = write_markdown(spec["description"], docs)
    choices = [f"`{choice}`" for choice in spec.get("choices", [])]
    if choices and not all(choice in said for choice in choices):
        said += f" One of {', '.join(choices)}."
    if spec.get("options"):
        kind = "Each has" if spec["type"] == "list" else "It has"
        parts = [f"`{name}`: {describe(option, docs)}" for name, option in spec["options"].items()]
        said += f" {kind} {' '.join(parts)}"
    return said


def show_default(setting: specs.Setting) -> str:
    """The default as a cell of a table shows it."""
    if setting.name in REQUIRED:
        return "required"
    if setting.default in ("", None):
        return "empty"
    if isinstance(setting.default, bool):
        return f"`{str(setting.default).lower()}`"
    if isinstance(setting.default, (list, dict)):
        shown = yaml.safe_dump(setting.default, default_flow_style=True, sort_keys=False, width=1000).strip()
        return f"`{shown}`"
    names = {each.own: each.name for role in specs.list_roles() for each in specs.list_settings(role)}
    shown = re.sub(r"\{\{ (\w+) \}\}", lambda match: f"<{names.get(match[1], match[1])}>", str(setting.default))
    return f"`{shown}`"


def write_table(settings: list[specs.Setting], docs: str) -> str:
    rows = [f"| {each.name} | {show_default(each)} | {describe(each.spec, docs)} |" for each in settings]
    return "\n".join(["| variable | default | meaning |", "| --- | --- | --- |", *rows])


def write_variables() -> str:
    """docs/variables.md."""
    parts = [INTRODUCTION, GENERATED]
    for group in specs.read_groups():
        settings = [specs.list_public()[name] for name in group["settings"]]
        parts += [f"## {group['title']}", group["description"], write_table(settings, "")]
    return "\n\n".join([*parts, "## Good to know", CLOSING]) + "\n"


def write_readme(role: str) -> str:
    """The README of a role: its purpose, its settings, and an example play."""
    docs = "../../docs/"
    settings = specs.list_settings(role)
    parts = [f"# clinicops.orthanc.{role}", GENERATED]
    for entry, spec in specs.read_specs(role).items():
        if entry != "main":
            parts.append(f"## tasks_from: {entry}")
        parts += [f"{spec['short_description']}.", write_markdown(" ".join(spec["description"]), docs)]
        public = [each for each in settings if each.entry == entry and each.own not in specs.read_wiring()]
        if public:
            parts += ["## Settings" if entry == "main" else "Its settings:", write_table(public, docs)]
        wired = [each for each in settings if each.entry == entry and each.own in specs.read_wiring()]
        if wired:
            said = "The playbooks of the collection set these. If you use the role alone, set them in the play."
            parts += ["## Settings that the playbooks set", said, write_table(wired, docs)]
    example = read_examples()["examples"][role]
    play: dict[str, Any] = {
        "name": specs.read_specs(role)["main"]["short_description"],
        "hosts": "orthanc",
        "become": True,
    }
    play["roles"] = [f"clinicops.orthanc.{role}"]
    if example:
        play["vars"] = {name: read_examples()["values"][name] for name in example}
    shown = yaml.dump([play], Dumper=Lines, sort_keys=False, width=WIDTH, allow_unicode=True)
    said = "The playbook `clinicops.orthanc.deploy` runs this role with all others; every setting is in"
    said += f" [variables.md]({docs}variables.md)."
    return "\n\n".join([*parts, "## Example", f"```yaml\n{shown}```", textwrap.fill(said, WIDTH)]) + "\n"


def write_defaults(role: str) -> str:
    """The defaults of a role with the text of the specs above each of its own; the values stay as they are."""
    settings = {each.own: each for each in specs.list_settings(role)}
    lines = (ROOT / "roles" / role / "defaults/main.yml").read_text(encoding="utf-8").splitlines()
    kept = ["---", "# Comments: `make docs`, from meta/argument_specs.yml."]
    for line in lines:
        if line.startswith(("#", "---")):
            continue
        own = line.partition(":")[0]
        if own in settings and settings[own].name == own:
            said = specs.write_plain(settings[own].spec["description"])
            kept += textwrap.wrap(
                said, WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False
            )
        kept.append(line)
    return "\n".join(kept) + "\n"


def write_all() -> dict[Path, str]:
    """Each file that this program writes, with its content."""
    files = {ROOT / "docs/variables.md": write_variables()}
    for role in specs.list_roles():
        files[ROOT / "roles" / role / "README.md"] = write_readme(role)
        files[ROOT / "roles" / role / "defaults/main.yml"] = write_defaults(role)
    return files


def main() -> None:
    grouped = {name for group in specs.read_groups() for name in group["settings"]}
    if lacking := sorted({*specs.list_public()} - grouped):
        remedy = "add it in plugins/plugin_utils/groups.yml"
        sys.exit(f"{', '.join(lacking)}: not in any group of docs/variables.md. Remedy: {remedy}.")
    for path, content in write_all().items():
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
