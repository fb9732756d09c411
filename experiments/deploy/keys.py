"""The secrets of one federation: its authority, the SuperLink's certificate, a key for every SuperNode.

    ca.crt, ca.key          the authority; every other host needs ca.crt alone
    server.crt, server.key  the SuperLink's, for the names and addresses it is reached by
    superexec.secret        shared by the SuperLink and the process that runs its ServerApps
    nodeI, nodeI.pub        of SuperNode I, in OpenSSH's format (Flower answers others with an internal error)

Secrets can be read by their owner only. What is there is kept: asking for more nodes adds keys, and asking for
other hosts signs a new server certificate with the same authority, so that no SuperNode needs a new file.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedlab.errors import BadInput
from fedlab.tracking.run_directory import write_atomically

DAYS = 365
PRIVATE = 0o600
UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm)
"""What reading a key raises: damaged, behind a password, of an unknown kind."""
HOST_NAME = re.compile(r"[\w*-]+(\.[\w-]+)*", re.ASCII)


class Keys:
    """Where the secrets of a federation lie.

    Args:
        folder: Folder of the files that the module's docstring lists.

    Attributes:
        authority, authority_key: Certificate that a client checks the SuperLink's own with, and its private key.
        certificate, certificate_key: The SuperLink's certificate, and its private key.
        secret: What SuperLink and SuperExec share.
    """

    def __init__(self, folder: Path):
        self.folder, self.secret = folder, folder / "superexec.secret"
        self.authority, self.authority_key = folder / "ca.crt", folder / "ca.key"
        self.certificate, self.certificate_key = folder / "server.crt", folder / "server.key"

    def node(self, number: int) -> Path:
        """The private key of a SuperNode; beside it lies the public one, with the suffix .pub."""
        return self.folder / f"node{number}"

    def public(self) -> list[Path]:
        """The public keys of all SuperNodes, in their order."""
        files = {path.stem.removeprefix("node"): path for path in self.folder.glob("node*.pub")}
        return [files[number] for number in sorted(filter(str.isdecimal, files), key=int)]


def make_keys(folder: Path, hosts: Sequence[str], nodes: int) -> Keys:
    """Make what is missing of a federation's secrets, and the SuperLink's certificate for these hosts.

    Args:
        folder: Folder of the secrets; it is made, readable by its owner only.
        hosts: Names and addresses that the SuperLink is reached by.
        nodes: Number of SuperNodes that shall have a key.

    Raises:
        BadInput: No host, no node, a host that is no name, or the folder holds an authority without its key or
            secrets that are damaged.
    """
    if not hosts or nodes < 1:
        raise BadInput(
            f"{len(hosts)} hosts and {nodes} nodes make no federation: name at least one host that the "
            "SuperLink is reached by, and one node"
        )
    names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
    keys = Keys(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if keys.authority.exists() and not keys.authority_key.exists():
        raise BadInput(
            f"{keys.authority} has no {keys.authority_key.name} beside it, so nothing can be signed with it: put the "
            "key there, or name another folder"
        )
    if not keys.authority.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        _write(keys.authority_key, _pem(key))
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedlab federation")])
        _write(keys.authority, _certify(key, name, key, name, None), mode=0o644)
    _certify_server(keys, hosts[0], names)
    if not keys.secret.exists():
        _write(keys.secret, secrets.token_bytes(32))
    for number in range(nodes):
        _make_node(keys.node(number))
    return keys


def _certify_server(keys: Keys, host: str, names: x509.SubjectAlternativeName) -> None:
    authority, signing = _authority(keys)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    _write(keys.certificate_key, _pem(key))
    _write(keys.certificate, _certify(key, subject, signing, authority.subject, names), mode=0o644)


def _authority(keys: Keys) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        authority = x509.load_pem_x509_certificate(keys.authority.read_bytes())
        signing = load_pem_private_key(keys.authority_key.read_bytes(), password=None)
        if not isinstance(signing, ec.EllipticCurvePrivateKey) or signing.public_key() != authority.public_key():
            raise ValueError("the key is not the certificate's")
    except UNREADABLE as error:
        raise BadInput(
            f"{keys.authority} and {keys.authority_key.name} can sign nothing ({error}): put back the pair that was "
            "made together, or name another folder for a federation of new keys"
        ) from error
    return authority, signing


def _certify(
    key: ec.EllipticCurvePrivateKey,
    subject: x509.Name,
    signing: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    hosts: x509.SubjectAlternativeName | None,
) -> bytes:
    """Return a certificate in PEM: an authority's where there are no hosts, a server's otherwise."""
    is_authority = hosts is None
    now = datetime.now(UTC)
    never = "content_commitment key_encipherment data_encipherment key_agreement encipher_only decipher_only"
    own = {"digital_signature": not is_authority, "key_cert_sign": is_authority, "crl_sign": is_authority}
    usage = x509.KeyUsage(**own, **dict.fromkeys(never.split(), False))
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks differ between hosts.
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
    )
    if hosts is not None:
        server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.add_extension(hosts, critical=False).add_extension(server, critical=False)
    return builder.sign(signing, hashes.SHA256()).public_bytes(Encoding.PEM)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    if not HOST_NAME.fullmatch(host):
        raise BadInput(f"host {host!r} is neither an address nor an ASCII name: e.g. 10.0.0.1 or superlink.lan")
    return x509.DNSName(host)


def _make_node(path: Path) -> None:
    if path.exists() and path.with_suffix(".pub").exists():
        return
    key = _read_node(path) if path.exists() else ec.generate_private_key(ec.SECP384R1())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n"
    _write(path.with_suffix(".pub"), public, mode=0o644)
    # Last: where it lies, the pair is whole.
    _write(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


def _read_node(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("it is of no elliptic curve")
    except UNREADABLE as error:
        raise BadInput(
            f"{path} is no private key of a SuperNode ({error}): put it back, or remove it for a new one"
        ) from error
    return key


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    write_atomically(path, data, mode)
    path.chmod(mode)  # a umask may have kept from others what everyone needs
