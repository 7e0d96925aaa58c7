"""What is somebody else's before a first deploy."""

from __future__ import annotations

import contextlib
import pwd
import sqlite3
from pathlib import Path

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils import occupied
from test_files_and_units import call


def index(directory: Path, images: int) -> Path:
    """An index as Orthanc has it, as far as it is read."""
    (directory / "ab" / "cd").mkdir(parents=True)
    if images:
        (directory / "ab" / "cd" / "abcd0000-0000-4000-8000-000000000000").touch()
    with contextlib.closing(sqlite3.connect(directory / "index")) as database:
        database.execute("CREATE TABLE Resources(internalId INTEGER PRIMARY KEY, resourceType INTEGER, publicId TEXT)")
        database.executemany("INSERT INTO Resources VALUES (NULL, ?, '')", [(1,), (2,), (3,), *[(4,)] * images])
        database.commit()
    return directory


def test_images_of_another_orthanc_are_counted_and_named(tmp_path: Path) -> None:
    directory = index(tmp_path / "db-v6", 7)
    assert occupied.find_indexes([tmp_path]) == [directory]
    [problem] = occupied.check_images(directory)
    assert problem.what == str(directory)
    assert "holds 7 images" in problem.message
    assert f"set orthanc_storage_dir: {directory} " in problem.remedy


def test_images_that_the_index_has_not_written_back_are_seen_as_files(tmp_path: Path) -> None:
    directory = index(tmp_path / "db-v6", 0)
    (directory / "ab" / "cd" / "abcd0000-0000-4000-8000-000000000000").touch()
    assert occupied.count_images(directory) == 1


def test_where_it_would_be_lost_nobody_is_told_to_stay(tmp_path: Path) -> None:
    volume = index(tmp_path / "docker/volumes/orthanc/_data", 2)
    assert "move its files to their own directory" in occupied.check_images(volume)[0].remedy
    apart = index(tmp_path / "index-apart", 2)
    next(occupied.find_attachments(apart)).unlink()
    assert "the files of its StorageDirectory" in occupied.check_images(apart)[0].remedy


@pytest.mark.parametrize("kind", ["empty", "another program's", "of a deploy"])
def test_nothing_is_said_of_what_is_none(tmp_path: Path, kind: str) -> None:
    directory = index(tmp_path / "db", 3 if kind == "of a deploy" else 0)
    if kind == "another program's":
        (directory / "index").write_text("of a book")
    elif kind == "of a deploy":
        (directory / ".orthanc-storage").touch()
    assert occupied.check_images(directory) == []


def test_the_directory_of_the_settings_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occupied, "DIRECTORY", tmp_path)
    monkeypatch.setattr(occupied, "check_account", lambda: [])
    monkeypatch.setattr(occupied, "list_containers", lambda: [])
    monkeypatch.setattr(occupied, "check_sites", lambda **_: [])
    directory = index(tmp_path / "db-v6", 7)
    assert [one.what for one in occupied.list_problems(tmp_path / "db", [])] == [str(directory)]
    assert occupied.list_problems(directory, []) == []


@pytest.mark.parametrize("setting", ["orthanc_storage_dir", "orthanc_tmp_dir"])
def test_files_of_others_are_not_given_to_orthanc(tmp_path: Path, setting: str) -> None:
    data, link = tmp_path / "data", tmp_path / "link"
    for name in ("nextcloud", "share", "mail", "postgresql", "www", "ab"):
        (data / name).mkdir(parents=True)
    [problem] = occupied.check_directory(setting, data)
    assert problem.what == setting
    assert f"{data} holds what Orthanc does not keep there (mail, nextcloud, postgresql and 2 more)" in problem.message
    assert f"set {setting}: {data}/orthanc" in problem.remedy
    assert ("touch" in problem.remedy) == (setting == "orthanc_storage_dir")
    link.symlink_to(data)
    assert len(occupied.check_directory(setting, link)) == 1


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("lost+found", ".Trash-0", ".snapshot", "aquota.user", "aquota.group"),  # a disk of its own
        ("00", "ab", "ff"),  # images whose index is elsewhere
        ("ab", ".adoption-names", ".adoption-file.part", ".restore-attachments", ".orthanc-version"),
        ("index", "index-wal", "ab", "worklists"),
        (".orthanc-storage", "pictures of the old server"),
        ("Orthanc-1234-0b9ff7e5-3c2f-4b3e-9d6e-1a2b3c4d5e6f.zip", "0b9ff7e5-3c2f-4b3e-9d6e-1a2b3c4d5e6f"),
    ],
)
def test_what_orthanc_or_a_new_disk_has_is_nobody_else_s(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert occupied.check_directory("orthanc_storage_dir", tmp_path) == []
    assert occupied.check_directory("orthanc_storage_dir", tmp_path / "not" / "yet") == []


def test_what_belongs_to_orthanc_already_stays_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes of the vendor").touch()
    monkeypatch.setattr(occupied, "NAME", tmp_path.owner())
    assert occupied.check_directory("orthanc_storage_dir", tmp_path) == []


def test_the_images_that_are_adopted_are_no_files_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("check_account", "list_containers", "find_indexes"):
        monkeypatch.setattr(occupied, name, lambda *_: [])
    monkeypatch.setattr(occupied, "check_sites", lambda **_: [])
    monkeypatch.setattr(occupied.adoption, "find_problems", lambda *_: [])
    (tmp_path / "images" / "script of the vendor").mkdir(parents=True)
    (tmp_path / "share" / "letters").mkdir(parents=True)

    def list_settings(storage: str, adopted: str = "") -> list[str]:
        given = {
            "method": "package",
            "container": "",
            "storage_dir": tmp_path / adopted,
            "index_dir": "/x",
            "sites": [],
        }
        wanted = occupied.adoption.read_wanted(given, tmp_path / storage) if adopted else None
        return [one.what for one in occupied.list_problems(tmp_path / storage, [], adopted=wanted)]

    assert list_settings("images") == ["orthanc_storage_dir"]
    assert list_settings("images", adopted="images") == []
    assert list_settings("share", adopted="images") == ["orthanc_storage_dir"]


def test_another_temporary_directory_is_looked_at_before_each_deploy(tmp_path: Path) -> None:
    (tmp_path / "letters").touch()
    answer = call("orthanc_occupied", {"storage_dir": "/srv/nothing", "deployed": True, "tmp_dir": str(tmp_path)})
    assert [one["what"] for one in answer["problems"] if one["what"].startswith("orthanc_")] == ["orthanc_tmp_dir"]


def test_a_person_is_told_from_a_service() -> None:
    person = next((one.pw_name for one in pwd.getpwall() if one.pw_uid >= occupied.FIRST_PERSON), "")
    [problem] = occupied.check_account(person)
    assert f"usermod --login NEW-NAME {person}" in problem.remedy
    assert occupied.check_account("daemon") == occupied.check_account("nobody-has-this-name") == []


@pytest.mark.parametrize(
    ("container", "said"),
    [
        (occupied.Container("pacs", runs=True, mounted=[]), "docker stop pacs"),
        (occupied.Container("pacs", runs=False, mounted=[]), ""),
        (occupied.Container("orthanc", runs=False, mounted=[]), "docker rename orthanc orthanc-before"),
    ],
)
def test_a_container_is_in_the_way_by_its_ports_or_its_name(container: occupied.Container, said: str) -> None:
    found = occupied.check_container(container)
    assert [said in problem.remedy for problem in found] == ([True] if said else [])


@pytest.mark.parametrize(
    ("site", "said"),
    [
        ("server { listen 443 ssl default_server; server_name shop.example; }", "default server at port 443"),
        ("server {\n listen [::]:443 ssl\n  default_server;\n}", "default server at port 443"),
        ("location / { proxy_pass http://127.0.0.1:8042/; }", "bypasses the proxy's roles"),
        ("upstream pacs { server 127.0.0.1:8042; }", "bypasses the proxy's roles"),
        ("server { listen 443 ssl; server_name shop.example; }", ""),
        ("server { listen *:443 ssl default; }", "default server at port 443"),
        ("server { listen 198.51.100.13:443 ssl; }", "listens only at 198.51.100.13:443"),
        ("server { listen 127.0.0.1:443 ssl default_server; }", ""),
        ("server { listen unix:/run/shop.sock default_server; listen 8443 ssl default_server; }", ""),
        ("server { listen 80 default_server; root /var/www/html; } # proxy_pass http://localhost:8042;", ""),
    ],
)
def test_a_site_of_somebody_else_s_is_named_where_it_is_in_the_way(tmp_path: Path, site: str, said: str) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/shop.conf").write_text(site)
    found = occupied.check_sites(tmp_path)
    assert [said in problem.message for problem in found] == ([True] if said else [])


@pytest.mark.parametrize(
    ("number", "listen", "said"),
    [
        (8443, "443 ssl default_server", []),
        (8443, "198.51.100.13:443 ssl", []),
        (8443, "8443 ssl default_server", ["is nginx's default server at port 8443, and so is the proxy's"]),
        (443, "443 ssl default_server", ["is nginx's default server at port 443, and so is the proxy's"]),
    ],
)
def test_a_site_is_in_the_way_at_the_proxy_s_own_port(
    tmp_path: Path, number: int, listen: str, said: list[str]
) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/shop.conf").write_text(f"server {{ listen {listen}; }}")
    found = occupied.check_sites(tmp_path, [occupied.Port("https", number, [])], closes=False)
    assert [problem.message for problem in found] == said


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        ("198.51.100.47:443 ssl default_server", ""),
        ("[2001:db8::1]:443 ssl", ""),
        ("[::]:443 ssl default_server", ""),  # IPv6 alone
        ("8443 ssl", ""),
        ("443 ssl", "listens at every address, and at 198.51.100.10"),
        ("198.51.100.10:443 ssl default_server", "is nginx's default server at port 443"),
        ("198.51.100.10:443 ssl", "which a deploy closes to all sources except 198.51.100.64/26"),
    ],
)
def test_a_site_at_another_address_is_not_in_the_way(tmp_path: Path, listen: str, said: str) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/shop.conf").write_text(f"server {{ listen {listen}; }}")
    ours = occupied.Port("https", 443, ["198.51.100.64/26"], "198.51.100.10")
    found = occupied.check_sites(tmp_path, [ours])
    assert any(said in one.message for one in found) if said else found == []


@pytest.mark.parametrize(
    ("listen", "ours", "said"),
    [
        ("80 default_server", "", ""),
        ("198.51.100.10:80", "", "listens only at 198.51.100.10:80"),
        ("80", "198.51.100.10", "listens at every address, and at 198.51.100.10"),
        ("[::]:80", "198.51.100.10", ""),
        ("[::]:80", "2001:db8::10", "listens at every address, and at 2001:db8::10"),
        ("80", "2001:db8::10", ""),
        ("198.51.100.10:80 default_server", "198.51.100.10", ""),  # server_name tells them apart
        ("198.51.100.47:80", "198.51.100.10", ""),
        ("8080", "198.51.100.10", ""),
    ],
)
def test_a_site_at_port_80_that_gets_challenges_or_loses_its_requests(
    tmp_path: Path, listen: str, ours: str, said: str
) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/shop.conf").write_text(f"server {{ listen {listen}; }}")
    ports = [occupied.Port("https", 443, ["198.51.100.64/26"], ours)]
    assert occupied.check_sites(tmp_path, ports) == []
    found = occupied.check_sites(tmp_path, [*ports, occupied.Port("challenge", 80, ["0.0.0.0/0", "::/0"], ours)])
    assert [said in one.message for one in found] == ([True] if said else [])
    assert all("set orthanc_proxy_acme_dns_hook" in one.remedy for one in found)


def test_a_site_that_leads_to_orthanc_s_own_port_is_named(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/shop.conf").write_text("server { listen 8080; proxy_pass http://127.0.0.1:8052; }")
    assert occupied.check_sites(tmp_path) == []
    [found] = occupied.check_sites(tmp_path, [occupied.Port("http", 8052, [])])
    assert "bypasses the proxy's roles" in found.message


def test_a_site_that_names_no_port_gets_challenges_too(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/shop.conf").write_text("server { server_name shop.example; }")
    challenge = occupied.Port("challenge", 80, ["0.0.0.0/0", "::/0"], "198.51.100.10")
    [found] = occupied.check_sites(tmp_path, [challenge])
    assert "listens at every address, and at 198.51.100.10" in found.message


def test_an_edited_default_site_is_named(tmp_path: Path) -> None:
    assert occupied.check_sites(tmp_path) == []
    enabled, default = tmp_path / "sites-enabled", tmp_path / "sites-enabled/default"
    for directory in (enabled, tmp_path / "sites-available", enabled / "directory"):
        directory.mkdir()
    (enabled / "gone").symlink_to(tmp_path / "nowhere")
    default.write_text("server { listen 80; }")
    assert occupied.check_sites(tmp_path) == []  # it stays
    default.rename(tmp_path / "sites-available/default")
    default.symlink_to(tmp_path / "sites-available/default")
    [problem] = occupied.check_sites(tmp_path)
    assert problem.remedy == f"mv {default} {enabled}/NAME"


def test_what_a_deploy_wrote_is_nobody_else_s(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    for name in occupied.OWN_SITES:
        (tmp_path / "conf.d" / name).write_text(
            "server { listen 443 ssl default_server; } # \nproxy_pass http://127.0.0.1:8042;"
        )
    assert occupied.check_sites(tmp_path) == []
    (tmp_path / "conf.d/orthanc-old.conf").write_text("proxy_pass http://127.0.0.1:8042;")
    assert len(occupied.check_sites(tmp_path)) == 1


@pytest.mark.parametrize(
    ("listen", "sources", "closed"),
    [
        ("443 ssl", ["198.51.100.64/26"], True),
        ("[::]:443 ssl", [], True),
        ("443 ssl", ["198.51.100.64/26", "0.0.0.0/0"], False),
        ("127.0.0.1:443 ssl", [], False),
        ("8443 ssl", [], False),
        ("80", [], False),
    ],
)
def test_a_site_that_the_firewall_would_close_is_named(
    tmp_path: Path, listen: str, sources: list[str], closed: bool
) -> None:
    (tmp_path / "sites-enabled").mkdir()
    site = tmp_path / "sites-enabled/intranet"
    site.write_text(f"server {{ listen {listen}; server_name intranet.clinic.example; }}")
    found = occupied.check_sites(tmp_path, [occupied.Port("https", 443, sources)])
    assert [(one.what, one.rule) for one in found] == ([(str(site), "closes_sites")] if closed else [])
    if closed:
        assert f"closes to all sources except {', '.join(sources) or 'this machine'}" in found[0].message
