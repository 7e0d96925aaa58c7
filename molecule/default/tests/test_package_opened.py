"""`.orthanc-version` says who has opened the index, which closes the way back to an older Orthanc."""

from __future__ import annotations

import os

from clients import wait_for
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
OPENED = "/var/lib/orthanc/db/.orthanc-version"
DROP_IN = "/run/systemd/system/orthanc.service.d/zz-broken.conf"
BROKEN = "[Service]\\nExecStart=\\nExecStart=/usr/sbin/Orthanc /etc/orthanc/site/nowhere.json\\nRestartSec=1\\n"


def test_an_orthanc_that_does_not_come_up_has_not_opened_the_index(host: Host) -> None:
    version = host.check_output("Orthanc --version | sed -n '1s/.* //p'")
    assert host.file(OPENED).content_string == f"{version}\n"
    host.check_output(f"systemctl stop orthanc && echo 1.0.0 > {OPENED}")
    host.check_output(f"mkdir -p $(dirname {DROP_IN}) && printf '{BROKEN}' > {DROP_IN} && systemctl daemon-reload")
    host.run("systemctl start orthanc")
    failed = "systemctl show --property=NRestarts --value orthanc"
    wait_for(lambda: int(host.check_output(failed)) >= 1, "Orthanc has failed")
    assert host.file(OPENED).content_string == "1.0.0\n"
    host.check_output(f"rm {DROP_IN} && systemctl daemon-reload && systemctl restart orthanc")
    wait_for(lambda: host.file(OPENED).content_string == f"{version}\n", "Orthanc has noted its release")
    assert host.check_output(f"stat --format '%U %a' {OPENED}") == "orthanc 640"
