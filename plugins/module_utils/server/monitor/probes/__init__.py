# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the monitor looks at, one file a subject. A probe is a function of a Context that yields samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ...core.errors import Refused
from ...core.journal import WARNING, say
from ..context import Context, Sample, observe
from . import disk, firewall, log, orthanc, proxy, system, tasks, updates, worklist

Probe = Callable[[Context], Iterable[Sample]]
# by the name under which a failing probe is reported; the order matters where one needs what another found
PROBES: dict[str, Probe] = {
    "configuration": orthanc.probe_configuration,
    "mount": disk.probe_mount,
    "disks": disk.probe_disks,
    "process": orthanc.probe_process,
    "log": log.probe_log,
    "service": orthanc.probe_service,
    "dicom": orthanc.probe_dicom,
    "proxy": proxy.probe_proxy,
    "own CA": proxy.probe_own_ca,
    "client certificates": proxy.probe_client_certificates,
    "firewall": firewall.probe_firewall,
    "backup": tasks.probe_backup,
    "units": tasks.probe_units,
    "acceptance": tasks.probe_acceptance,
    "worklist": worklist.probe_worklist,
    "clock": system.probe_clock,
    "vulnerabilities": updates.probe_vulnerabilities,
    "updates": updates.probe_updates,
    "lists": updates.probe_lists,
    "restarts": updates.probe_restarts,
    "support": system.probe_support,
}


def run_probes(context: Context) -> Iterator[Sample]:
    """The samples of one check. Each probe runs on its own: one that fails does not hide the rest."""
    yield observe("time_seconds", int(context.now))
    for name, probe in PROBES.items():
        why = ""
        try:
            for sample in probe(context):
                yield sample._replace(probe=name)
        except Exception as error:  # whatever it is: one probe must not end the check
            why = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
            say(f"cannot check {name}: {why}", WARNING)
        yield observe("blind", bool(why), "what", name, why)
