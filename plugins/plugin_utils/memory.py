# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a machine's memory is enough for: Orthanc's share of it, the caches, and the largest object.

Pure functions over plain data, without Ansible. docs/performance.md, "Memory", has the measurements behind the figures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.words import say_size
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import rules
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

MIB = 1 << 20
UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": MIB, "g": 1 << 30}
LEAST = 512 * MIB  # of Orthanc
# For the system, nginx, the backup and the page cache.
REST_PART, REST_LEAST = 4, 512 * MIB
STEP = 64 * MIB  # a kernel update changes a machine's memory by some kB, which must not restart Orthanc
# Orthanc receives, parses, compares and writes an object, and holds it each time.
COPIES = 4.25
IDLE = 192 * MIB  # Orthanc with its plugins and threads
MOST = 2 * 1000**3  # bytes; larger objects were not tried
COMMON = 200 * 1000**2  # bytes; an ultrasound clip that is not compressed may be as large
# Orthanc's caches, with its defaults in MiB.
CACHES = (
    "MaximumStorageCacheSize",
    "StorageMemoryCapacity",
    "DicomParserMemoryCapacity",
    "DicomParserCacheSize",
    "TranscoderMemoryCapacity",
    "TranscoderCacheSize",
)
CACHES_PART, CACHE_LEAST = 4, 16


def parse_size(text: str) -> int:
    """The bytes of Docker's notation: 512m, 4g, 4294967296. ValueError for another text."""
    found = re.fullmatch(r"([1-9][0-9]*)([kmg]?)b?", text.lower())
    if not found:
        raise ValueError(f"{text!r} is not a size in bytes")
    return int(found[1]) * UNITS[found[2]]


def find_problems(setting: Any) -> list[Problem]:
    """What is wrong with orthanc_install_memory; an empty one is sized by the machine."""
    remedy = "write a number with m or g, such as 4g, or remove it: the machine's memory then decides"
    if setting == "":
        return []
    try:
        bytes_set = parse_size(str(setting))
    except ValueError as error:
        return [problem("orthanc_install_memory", str(error), remedy)]
    if bytes_set < LEAST:
        message = f"{setting} is not enough: Orthanc needs 512m, and 4.25 times the largest object"
        return [problem("orthanc_install_memory", message, remedy)]
    return []


def size(machine: int, setting: str, version: str) -> dict[str, Any]:
    """How Orthanc uses the memory of a machine.

    `machine` are its bytes (0: not known), `setting` is what a clinic sets, or empty. `limit` and `largest` are bytes,
    0 if not known: what Orthanc may use, and the largest object that it takes alone. `caches` are the options of
    orthanc.json that must differ from Orthanc's defaults, in MiB.
    """
    share = max(LEAST, machine - max(machine // REST_PART, REST_LEAST)) // STEP * STEP if machine else 0
    limit = parse_size(setting) if setting else share
    if not limit:
        return {"limit": 0, "largest": 0, "caches": {}}
    # more than the machine has is of no use
    usable = min(limit, share) if share else limit
    caches = size_caches(usable, version)
    held = sum(caches.values()) * MIB
    largest = min(MOST, int(max(0, usable - IDLE - held) / COPIES))
    changed = {name: value for name, value in caches.items() if value != default_of(name)}
    return {"limit": limit, "largest": largest // 10**7 * 10**7, "caches": changed}


def size_caches(limit: int, version: str) -> dict[str, int]:
    """Each cache that this version of Orthanc has, in MiB: its default, or less, so that all of them get a quarter."""
    defaults = {
        name: default_of(name)
        for name in CACHES
        if rules.release(version) >= rules.release(rules.SCHEMA["properties"][name]["x-since"])
    }
    part = min(1.0, limit / CACHES_PART / MIB / max(1, sum(defaults.values())))
    return {name: max(CACHE_LEAST, int(value * part)) for name, value in defaults.items()}


def default_of(name: str) -> int:
    """Orthanc's default for a cache, in MiB."""
    return int(rules.SCHEMA["properties"][name]["default"])


def describe(sizes: Mapping[str, Any], machine: int) -> str:
    """The largest object in a sentence."""
    if not sizes["limit"]:
        return "The largest object that this machine can take is not known: its memory is not known."
    return (
        f"The largest object that this machine can take: {say_size(sizes['largest'])} "
        f"({say_size(machine)} memory, {say_size(sizes['limit'])} of it for Orthanc)."
    )


def list_warnings(sizes: Mapping[str, Any], machine: int) -> list[str]:
    """What a clinic should know about the memory before it deploys, each with its remedy."""
    found = []
    if machine and sizes["limit"] > machine:
        found.append(
            f"orthanc_install_memory gives Orthanc {say_size(sizes['limit'])}, and this machine has "
            f"{say_size(machine)}: the kernel may then end another service. Remedy: remove it."
        )
    if sizes["limit"] and sizes["largest"] < COMMON:
        found.append(
            f"{describe(sizes, machine)} An ultrasound clip that is not compressed may be larger; Orthanc would be "
            f"ended and started again, and the device would see a failure. Remedy: give this machine more memory"
            f" (4 GB or more), or Orthanc more of it (orthanc_install_memory)."
        )
    return found
