"""What a deploy writes into a terminal of 100 columns, where one check fails."""

from __future__ import annotations

import os
import re
from pathlib import Path

from clients import name_of
from terminal import COLUMNS, run_in_terminal
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[:1]
SITE = "/etc/nginx/conf.d/zz-forgotten.conf"
CHECK = "other ports of Orthanc and nginx"


def test_a_deploy_fits_the_terminal_and_ends_with_what_failed(host: Host) -> None:
    inventory = str(Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent)
    options = ["--inventory", inventory, "--limit", name_of(host)]
    server = "server { listen 8080; location / { proxy_pass http://127.0.0.1:8042; } }"
    host.check_output(f"echo '{server}' > {SITE} && systemctl reload nginx")
    try:
        status, lines = run_in_terminal(["ansible-playbook", *options, "clinicops.orthanc.deploy"])
    finally:
        host.check_output(f"rm {SITE} && systemctl reload nginx")
    text = "\n".join(lines)
    assert status == 2, text
    assert [line for line in lines if len(line) > COLUMNS] == []
    steps = [line for line in lines if line.startswith("Step ")]
    total = len(steps)
    assert total > 9
    assert [re.sub(r"  .*", "", line) for line in steps] == [f"Step {n + 1} of {total}" for n in range(total)]
    passed = [line for line in lines if line.startswith("  passed  ")]
    assert len(passed) > 60
    assert len(set(passed)) == len(passed)
    assert text.count(CHECK) == 1
    end = lines[-25:]
    assert f"  FAILED  {CHECK}" in end
    assert any("nginx on 8080" in line for line in end)
    assert any(line.lstrip().startswith("Remedy: ") for line in end[end.index(f"  FAILED  {CHECK}") :])
    assert f"  Verdict   1 of {len(passed) + 1} checks failed" in text
    assert f"  {len(passed)} passed, 1 failed" in lines
    assert re.search(r"^It took (\d+ min )?\d+ (s|min)[.]$", text, re.M)
    for noise in ("Origin:", "fatal:", "[ERROR]", "TASK [", "dispatch"):
        assert noise not in text, noise
