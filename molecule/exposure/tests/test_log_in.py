"""Wrong passwords: those who guess are slowed down, nobody else is, and the logs tell who it was and no more."""

from __future__ import annotations

import os

import pytest
from bed import address6
from clients import ADDRESSES, CLIENTS, IT, OFFICE, PASSWORDS, client, https, name_of, put, wait_for
from exposure import Request, ask_all
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from verified import Sabotage

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
WRONG = 80
NAMES = ("viewer", "nobody")
STUDIES = "/dicom-web/studies?PatientName=GEHEIM"


@pytest.fixture(scope="module")
def guessed(host: Host) -> list[int]:
    """Statuses of: the right password, 80 wrong ones, the right one, and five times one that is right and new there."""
    address = ADDRESSES[name_of(host)][1]
    right = Request("GET", STUDIES, "viewer", address)
    wrong = [Request("GET", STUDIES, NAMES[number % 2], address, password=f"wrong-{number}") for number in range(WRONG)]
    new = Request("GET", STUDIES, "gateway", address)
    return [status for status, _ in ask_all(IT, authority(host), [right, *wrong, right, *[new] * 5])]


def authority(host: Host) -> bytes:
    content: bytes = host.file("/etc/nginx/orthanc/ca.crt").content
    return content


def test_who_guesses_is_slowed_down(guessed: list[int]) -> None:
    wrong = guessed[1 : 1 + WRONG]
    assert set(wrong[::2]) == set(wrong[1::2]) == {401, 429}  # and nobody learns which names there are
    assert wrong.index(429) >= 15  # a burst of 20 is let through


@pytest.mark.campaign
def test_who_guesses_gets_one_try_in_two_seconds(host: Host, guessed: list[int]) -> None:
    """All of it takes a few seconds when nothing else runs: hardly more than the burst is let through."""
    assert guessed[1 : 1 + WRONG].count(401) <= 25


def test_a_password_that_was_right_before_still_is(guessed: list[int]) -> None:
    assert guessed[0] == 200
    assert guessed[1 + WRONG] == 200


def test_a_right_password_that_was_never_used_from_there_has_to_wait(guessed: list[int]) -> None:
    assert 429 in guessed[2 + WRONG :]


def test_an_application_with_an_old_password_does_not_lock_out_others_at_its_address(host: Host) -> None:
    six = f"[{address6(ADDRESSES[name_of(host)][1])}]"
    old = Request("GET", STUDIES, "viewer", six, password="of-last-year")
    new = Request("GET", STUDIES, "gateway", six)
    statuses = [status for status, _ in ask_all(IT, authority(host), [*[old] * WRONG, new])]
    assert statuses == [401] * WRONG + [200]


def test_a_corrected_password_works_although_it_was_refused_before(host: Host) -> None:
    user = "gateway:a-password-of-tomorrow"
    assert https(host, OFFICE, "/dicom-web/studies", user=user)[0] == 401
    edit = "it['RegisteredUsers']['gateway'] = 'a-password-of-tomorrow'"
    with Sabotage("a corrected password", "", edit=edit).done(name_of(host)):
        wait_for(lambda: https(host, OFFICE, "/dicom-web/studies", user=user)[0] == 200, "the corrected password")


def test_other_addresses_are_not_slowed_down(host: Host, guessed: list[int]) -> None:
    machine = name_of(host)
    six = f"[{address6(ADDRESSES[machine][1])}]"
    asked = [Request("GET", STUDIES, "gateway", six), Request("GET", STUDIES, "viewer", six, password="wrong-again")]
    assert [status for status, _ in ask_all(OFFICE, authority(host), asked)] == [200, 401]


def test_it_is_over_when_nobody_guesses(host: Host, guessed: list[int]) -> None:
    gateway = f"gateway:{PASSWORDS['gateway']}"
    wait_for(lambda: https(host, IT, "/dicom-web/studies", user=gateway)[0] == 200, "the right password")


def test_fail2ban_s_own_filter_knows_who_it_was(host: Host, guessed: list[int]) -> None:
    install = "command -v fail2ban-regex || { apt-get update && apt-get install -y --no-install-recommends fail2ban; }"
    assert client(IT, "sh", "-c", f"{{ {install}; }} >/dev/null 2>&1").returncode == 0
    put(IT, "/tmp/orthanc_error.log", host.file("/var/log/nginx/orthanc_error.log").content)
    done = client(IT, "fail2ban-regex", "--out", "ip", "/tmp/orthanc_error.log", "nginx-limit-req")
    assert CLIENTS[IT][0] in done.stdout.decode().split(), done.stdout + done.stderr


def test_the_logs_name_the_user_and_no_patient(host: Host, guessed: list[int]) -> None:
    before = host.check_output("wc -l < /var/log/nginx/orthanc_access.log")
    assert https(host, OFFICE, STUDIES)[0] == 200
    assert https(host, OFFICE, "/system?PatientName=GEHEIM")[0] == 403
    host.check_output("systemctl stop orthanc")
    down = https(host, OFFICE, STUDIES)[0]
    host.check_output("systemctl start orthanc")
    assert down == 502
    lines = host.check_output(f"tail -n +$(({before} + 1)) /var/log/nginx/orthanc_access.log").splitlines()
    assert [line.split()[:2] for line in lines] == [[CLIENTS[OFFICE][0], "viewer"]] * 3
    assert '"GET /dicom-web/studies" 200' in lines[0]
    assert host.run("grep -rl GEHEIM /var/log").stdout == ""
    assert "GEHEIM" not in host.check_output("journalctl --no-pager")
    wait_for(lambda: https(host, OFFICE, "/dicom-web/studies")[0] == 200, "Orthanc is back")
