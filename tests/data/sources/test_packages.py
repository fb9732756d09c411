import subprocess
from dataclasses import replace

import pytest

from fedlab.cache_folder import cache_folder
from fedlab.data.sources import packages
from fedlab.data.sources.packages import Package, fetch, is_cached, keep, verified
from fedlab.errors import BadInput

# SHA-256 of b"data"
DATA = "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"
TOY = Package("pypi", "toy", "1.0", megabytes=1, sha256=DATA, licence="MIT")
NPM = replace(TOY, registry="npm")
APT = replace(TOY, registry="apt", version="current", sha256="")


@pytest.fixture
def client(monkeypatch):
    """Stands for the registry's client: writes what it is told into its working folder."""

    class Client:
        content, code, stderr, calls = b"data", 0, "", 0

        def run(self, command, cwd, **options):
            self.calls += 1
            if self.content is not None:
                (cwd / "toy-1.0.tar.gz").write_bytes(self.content)
            return subprocess.CompletedProcess(command, self.code, "", self.stderr)

    client = Client()
    monkeypatch.setattr(packages.subprocess, "run", client.run)
    return client


def test_fetch_says_the_licence_first_and_keeps_archive_and_checksum(cache, client):
    said = []
    path = fetch(TOY, said.append)
    assert "licence: MIT" in said[0]
    assert verified(TOY, "toy") == path == cache / "toy" / "toy-1.0.tar.gz"
    assert path.read_bytes() == b"data"
    assert path.with_name("toy-1.0.tar.gz.sha256").read_text() == f"{DATA}  toy-1.0.tar.gz\n"
    assert sorted(p.name for p in cache.rglob("*") if p.is_file()) == ["toy-1.0.tar.gz", "toy-1.0.tar.gz.sha256"]


def test_an_intact_archive_is_not_fetched_again_and_a_damaged_one_is(cache, client):
    path = fetch(TOY, str)
    fetch(TOY, str)
    assert client.calls == 1
    path.write_bytes(b"dat")
    with pytest.raises(BadInput, match="changed or cut short; run `fedlab data fetch toy` again"):
        verified(TOY, "toy")
    fetch(TOY, str)
    assert client.calls == 2
    assert verified(TOY, "toy").read_bytes() == b"data"


def test_another_file_than_was_published_is_not_kept(cache, client):
    client.content = b"other"
    with pytest.raises(BadInput, match="nothing was kept"):
        fetch(TOY, str)
    assert not is_cached(TOY)
    assert not [p for p in cache.rglob("*") if p.is_file()]


def test_offline_gives_one_line_with_the_reason_and_the_remedy(cache, client):
    client.content, client.code, client.stderr = (None, 1, "WARNING: retrying\nERROR: No matching distribution\nhint\n")
    with pytest.raises(BadInput) as refusal:
        fetch(TOY, str)
    message = str(refusal.value)
    assert message.startswith("pip could not fetch toy 1.0 (exit code 1, ERROR: No matching distribution)")
    assert "online" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("package", "said"),
    [(NPM, r"npm, which is not installed: install Node\.js"), (APT, "apt-get, which .*Debian or Ubuntu")],
)
def test_without_its_client_the_message_says_what_to_do(package, said, cache, monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(BadInput, match=said):
        fetch(package, str)


def test_a_debian_package_is_kept_as_its_files(cache, monkeypatch):
    def run(command, cwd, stdout=None, **options):
        if command[0] == "apt-get":
            (cwd / "toy_1.0-2_all.deb").write_bytes(b"compressed as the distribution likes")
        else:
            assert command == ["dpkg-deb", "--fsys-tarfile", "toy_1.0-2_all.deb"]
            stdout.write(b"files")
        return subprocess.CompletedProcess(command, 0, "", "W: unsandboxed")

    monkeypatch.setattr(packages.subprocess, "run", run)
    monkeypatch.setattr(packages.shutil, "which", lambda name: f"/bin/{name}")
    path = fetch(APT, str)
    assert path == verified(APT, "toy") == cache / "toy" / "toy-current.tar"
    assert path.read_bytes() == b"files"


def test_a_distribution_without_the_package_is_told_to_update_its_lists(cache, client, monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda name: f"/bin/{name}")
    client.content, client.code, client.stderr = None, 100, "W: slow\nE: Unable to locate package toy\n"
    with pytest.raises(BadInput, match=r"E: Unable to locate package toy\): .*apt-get update"):
        fetch(APT, str)


def test_a_client_that_hangs_is_given_up(cache, monkeypatch):
    def run(command, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(packages.subprocess, "run", run)
    with pytest.raises(BadInput, match="in 900 s"):
        fetch(TOY, str)


def test_an_unwritable_cache_names_the_folder_and_the_remedy(tmp_path, monkeypatch, client):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("FEDLAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(BadInput, match=r"cannot write the cache .*set FEDLAB_CACHE"):
        fetch(TOY, str)


def test_an_interrupted_keep_leaves_no_archive(cache, tmp_path, monkeypatch):
    archive = tmp_path / "toy"
    archive.write_bytes(b"data")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packages.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        keep(TOY, archive)
    assert not is_cached(TOY)
    assert not [p for p in cache.rglob("*") if p.is_file()]


def test_the_cache_is_at_home_unless_named(cache, monkeypatch):
    assert cache_folder() == cache
    monkeypatch.delenv("FEDLAB_CACHE")
    assert cache_folder().parts[-2:] == (".cache", "fedlab")


def test_the_commands_are_the_ordinary_clients():
    assert " ".join(TOY.command[1:4]) == "-m pip download"
    assert TOY.command[-4:] == ["--no-deps", "--no-binary", "toy", "toy==1.0"]
    assert NPM.command == ["npm", "pack", "--silent", "toy@1.0"]
    assert APT.command == ["apt-get", "download", "--quiet", "toy"]
