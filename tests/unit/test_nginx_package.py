"""Which nginx is installed: one that knows every directive of the site."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).resolve().parents[2] / "roles/orthanc_proxy"
# what the light flavour is built without before nginx 1.22 (light_configure_flags in Debian's packaging rules)
LIGHT_LACKS = ("geo", "limit_req", "limit_req_zone", "limit_conn", "limit_conn_zone", "split_clients", "userid")


@pytest.mark.parametrize(
    ("system", "release", "package"),
    [
        ("Debian", "12", "nginx-light"),
        ("Debian", "13", "nginx-light"),
        ("Ubuntu", "22.04", "nginx-core"),
        ("Ubuntu", "24.04", "nginx-light"),
        ("Ubuntu", "26.04", "nginx-light"),
    ],
)
def test_the_package_has_the_modules_of_the_site(system: str, release: str, package: str) -> None:
    site = (ROLE / "templates/orthanc.conf.j2").read_text()
    assert {name for name in LIGHT_LACKS if re.search(rf"^\s*{name}\s", site, re.MULTILINE)} >= {"geo", "limit_req"}
    text = yaml.safe_load((ROLE / "vars/main.yml").read_text())["orthanc_proxy_server"]
    facts = {"distribution": system, "distribution_version": release}
    assert choose(text, facts) == package
    assert choose(text, {}) == "nginx-light"  # the settings are checked before there are facts


def choose(text: str, facts: dict[str, str]) -> str:
    return str(Templar(DataLoader(), variables={"ansible_facts": facts}).template(trust_as_template(text)))
