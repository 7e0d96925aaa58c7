# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes the inventory of a server that is adopted, and the page about it. Without Ansible."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.module_utils import masking
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.escaping import escape
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import inventory, questions, rules, specs
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.adoption.devices import count
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.adoption.plan import Adoption, Decision

PAGE = "adoption.md"
OPTIONS = "orthanc_config_settings"
UNITS = ("bytes", "kB", "MB", "GB", "TB")


def write_files(
    adoption: Adoption, connection: Mapping[str, Any], generate: Callable[[], str], *, encrypted: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """The text of each file by its path in the inventory, and the same with masked secrets. The page is not in it."""
    given = {name: value for name, value in adoption.settings.items() if name not in (OPTIONS, *questions.OWN)}
    settings, vault = inventory.separate_secrets(given, generate)
    options = _separate_options(adoption.settings.get(OPTIONS, {}), vault)
    order = [name for group in specs.read_groups() for name in group["settings"]]
    settings = dict(sorted(settings.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))
    hostname = settings["orthanc_hostname"] or connection["ansible_host"]
    host = f"{hostname}-server" if hostname in inventory.GROUPS else hostname
    values = {
        "host": host,
        "connection": connection,
        "settings": settings,
        "options": options,
        "closed": [(one.option, json.dumps(one.value)) for one in adoption.closed if _is_plain(one.value)],
        "waivers": list(dict.fromkeys(one.rule for one in adoption.closed)),
        "reasons": rules.WAIVABLE,
        "unlisted": adoption.unlisted,
        "decisions": decide_by_setting(adoption.decisions),
        "vault": vault,
        "page": PAGE,
    }
    masked = {**values, "vault": dict.fromkeys(vault, masking.MASK)}
    names = {"hosts.yml": "hosts.yml", inventory.SETTINGS: "adopted.yml", inventory.VAULT: "vault.yml"}
    if not encrypted:
        names[".gitignore"] = "gitignore"
    texts = (
        {path: inventory.read_template(f"{name}.j2").render(**shown) for path, name in names.items()}
        for shown in (values, masked)
    )
    return next(texts), next(texts)


def _separate_options(options: Mapping[str, Any], vault: dict[str, Any]) -> dict[str, Any]:
    """Orthanc's options with references in place of those that contain secrets, which go into the vault."""
    plain: dict[str, Any] = {}
    for name, value in options.items():
        if masking.mask({name: value}) == {name: value}:
            plain[name] = value
        else:
            vault[f"vault_orthanc_option_{name}"] = value
            plain[name] = f"{{{{ vault_orthanc_option_{name} }}}}"
    return plain


def _is_plain(value: Any) -> bool:
    """Whether a comment can show the value in one line, and Ansible would evaluate nothing of it."""
    return isinstance(value, (bool, int)) or bool(re.fullmatch(r"[\w. -]*", str(value)))


def decide_by_setting(decisions: Iterable[Decision]) -> dict[str, list[str]]:
    """The questions by the setting that answers them."""
    found: dict[str, list[str]] = {}
    for one in decisions:
        found.setdefault(one.setting.partition("[")[0].partition(".")[0], []).append(escape(one.question))
    return found


def write_page(adoption: Adoption, command: str) -> str:
    """The page about the adoption, in Markdown."""
    old, found = adoption.old, adoption.found
    counted = Counter(one.verdict for one in adoption.lines)
    page: str = inventory.read_template("adoption.md.j2").render(
        old=old,
        found=found,
        index=found["index"],
        senders=sorted({str(one["aet"]) for one in found["index"].get("senders", []) if one["aet"]}),
        command=command,
        decisions=adoption.decisions,
        changes=adoption.changes,
        losses=adoption.losses,
        closed=adoption.closed,
        reasons=rules.WAIVABLE,
        lines=adoption.lines,
        counted=counted,
        devices=adoption.settings["orthanc_modalities"],
        unlisted=adoption.unlisted,
        aet=adoption.settings.get("orthanc_aet", specs.list_public()["orthanc_aet"].default),
        port=adoption.settings.get("orthanc_dicom_port", specs.list_public()["orthanc_dicom_port"].default),
        problems=[f"{one['path']} {one['message']}" for one in old.problems],
        settings=inventory.SETTINGS,
        vault=inventory.VAULT,
        cell=show_cell,
        size=show_size,
        count=count,
    )
    return page


def show_cell(value: Any) -> str:
    """Text for a cell of a table or a line of a list, in which Markdown and HTML mean nothing."""
    return re.sub(r"([|`*<>\[\]\\&])", r"\\\1", escape(value))


def show_size(number: float) -> str:
    """'1.5 GB' of a number of bytes."""
    for unit in UNITS:
        if number < 1000 or unit == UNITS[-1]:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError
