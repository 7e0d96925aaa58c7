"""An inventory of many clinics, as inventories/many_clinics shows one, for tests and for bench/clinics.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "inventories" / "many_clinics"
SECRET = "s3cret-that-nobody-guesses"


def write_inventory(
    directory: Path,
    number: int,
    own: Mapping[str, Mapping[str, Any]],
    shared: Mapping[str, Any],
    region: Mapping[str, Any] | None = None,
) -> None:
    """Clinics of the example's shared settings, in two regions, each with four devices and secrets of its own.

    `own` are further settings of a clinic, `shared` those of all, `region` those of the second half.
    """
    names = [f"clinic-{one:03}" for one in range(number)]
    halves = {"north": names[: number // 2], "south": names[number // 2 :]}
    write_yaml(
        directory / "hosts.yml",
        {"orthanc": {"children": {half: {"hosts": dict.fromkeys(hosts)} for half, hosts in halves.items()}}},
    )
    example = yaml.safe_load((EXAMPLE / "group_vars/orthanc/main.yml").read_text())
    write_yaml(
        directory / "group_vars/orthanc/main.yml",
        {**example, "orthanc_backup_password": "{{ vault_orthanc_backup_password }}", **shared},
    )
    write_yaml(directory / "group_vars/south/main.yml", dict(region or {}))
    for index, name in enumerate(names):
        devices = [
            {"name": f"us{one}", "aet": f"US{one}", "host": f"198.51.100.{20 + one}", "port": 104, "may": ["store"]}
            for one in range(4)
        ]
        settings = {
            "ansible_host": f"192.0.2.{index}",
            "orthanc_name": f"Clinic {index}",
            "orthanc_https_sources": ["198.51.100.64/26"],
            "orthanc_modalities": devices,
        }
        write_yaml(directory / f"host_vars/{name}/main.yml", {**settings, **own.get(name, {})})
        secrets = {f"vault_orthanc_{one}_password": f"{SECRET}-{one}-{name}" for one in ("it", "viewer", "backup")}
        write_yaml(directory / f"host_vars/{name}/vault.yml", secrets)


def write_yaml(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
