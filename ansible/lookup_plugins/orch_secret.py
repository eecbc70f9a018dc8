"""The fleet's secrets: each is made when it is first asked for, and kept in one file that ansible-vault encrypts.

The file, `secrets.vault` in `orch_secrets_dir`, is JSON inside. It is changed under a lock and replaced as a whole, so
that Ansible's forks may ask at the same time and an interruption loses nothing. What cannot be read is never made anew:
a new value beside servers that have the old one would lock the fleet out of itself.
"""

from __future__ import annotations

import base64
import datetime
import fcntl
import ipaddress
import json
import os
import secrets
import string
import tempfile
import uuid
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ansible.errors import AnsibleLookupError
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import AnsibleVaultError, VaultLib, get_file_vault_secret
from ansible.plugins.lookup import LookupBase
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DOCUMENTATION = r"""
name: orch_secret
short_description: A secret of the fleet, made when it is first asked for
description:
  - A text, or for C(ca) and C(certificate) a dictionary of C(certificate) and C(key), both PEM, and C(expires).
  - The file is in C(orch_secrets_dir), its password in the file C(orch_vault_password_file), or said by that program.
options:
  _terms: {description: The secret's name., required: true}
  kind:
    description: What to make where there is none yet.
    choices: [password, cookie, uuid, key, ca, certificate]
    default: password
  former:
    description: Return what it was before it was last made anew; empty where it never was.
    type: bool
    default: false
  renew: {description: Make it anew., type: bool, default: false}
  names: {description: DNS names of a certificate., type: list, elements: str, default: []}
  addresses: {description: IP addresses of a certificate., type: list, elements: str, default: []}
  issuer: {description: The secret of kind C(ca) that signs a certificate., type: str, default: tls_ca}
"""

VAULT = "secrets.vault"
FORMER = " (former)"
PASSWORD_LENGTH = 40
GOSSIP_KEY_BYTES = 32
# A certificate that runs out stops the whole fleet, and only a deployment renews it: hence years, the last of which is
# there to do it in.
CA_DAYS = 20 * 365
CERTIFICATE_DAYS = 5 * 365
RENEWED_BEFORE_DAYS = 365
# A VM whose clock is behind must not refuse the others.
VALID_SINCE = datetime.timedelta(days=1)


class LookupModule(LookupBase):
    """Returns the secret of each name."""

    def run(self, terms, variables=None, **options):
        self.set_options(var_options=variables, direct=options)
        directory, password_file = (
            Path(os.path.expanduser(str(self._templar.template(variables[name]))))
            for name in ("orch_secrets_dir", "orch_vault_password_file")
        )
        store = Store(directory, password_file)
        kind = self.get_option("kind")
        make, is_good = MAKERS.get(kind), lambda value: True
        if kind == "certificate":
            issuer = store.get(str(self.get_option("issuer")), make_ca)
            wanted = {part: [str(each) for each in self.get_option(part)] for part in ("names", "addresses")}
            wanted["issuer"] = fingerprint(issuer["certificate"])
            make, is_good = partial(make_certificate, issuer, wanted), partial(fits, wanted)
        if self.get_option("former"):
            return [store.former(str(name)) for name in terms]
        return [store.get(str(name), make, is_good, renew=self.get_option("renew")) for name in terms]


class Store:
    """The encrypted file. Not kept open: Ansible's forks share it."""

    def __init__(self, directory: Path, password_file: Path) -> None:
        self._directory = directory
        self._file = directory / VAULT
        self._password_file = password_file

    def get(self, name, make, is_good=lambda value: True, renew=False):
        """Return a secret; one that is not there, or no longer good, is made and kept before it is returned."""
        if not renew:
            value = self._read().get(name)
            if value is not None and is_good(value):
                return value
        with self._locked():
            known = self._read()
            value = known.get(name)
            if renew or value is None or not is_good(value):
                old = self._directory / name
                # Before there was a vault each secret was a file.
                value = old.read_text().strip() if value is None and not renew and old.is_file() else make()
                former = {name + FORMER: known[name]} if name in known else {}
                self._write({**known, **former, name: value})
                old.unlink(missing_ok=True)
            return value

    def former(self, name):
        """Return what a secret was before it was last made anew: a server takes both until every client is told."""
        return self._read().get(name + FORMER, "")

    def _read(self) -> dict:
        try:
            encrypted = self._file.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            return json.loads(self._vault().decrypt(encrypted))
        except (AnsibleVaultError, ValueError) as error:
            raise AnsibleLookupError(
                f"the fleet's secrets in {self._file} cannot be read with the password in {self._password_file}:"
                f" {error}"
            ) from None

    def _write(self, values: dict) -> None:
        encrypted = self._vault().encrypt(json.dumps(values, indent=1, sort_keys=True))
        replace(self._file, encrypted)

    def _vault(self) -> VaultLib:
        if not self._password_file.exists():
            if self._file.exists():
                raise AnsibleLookupError(
                    f"the fleet's secrets in {self._file} are encrypted and their password, {self._password_file}, is"
                    " not here: put it there, or name its place with -e orch_vault_password_file=FILE"
                )
            self._password_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace(self._password_file, make_password().encode() + b"\n")
        secret = get_file_vault_secret(filename=str(self._password_file), loader=DataLoader())
        secret.load()
        return VaultLib([("default", secret)])

    @contextmanager
    def _locked(self):
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._directory / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def replace(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads, as a whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def text_of(alphabet: str) -> str:
    """Return random characters, some 200 bits of them."""
    return "".join(secrets.choice(alphabet) for _ in range(PASSWORD_LENGTH))


def make_password() -> str:
    """Return letters and digits: no file format and no shell gives them a meaning."""
    return text_of(string.ascii_letters + string.digits)


def make_ca() -> dict:
    """Return a new certification authority, which signs certificates and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"orch fleet {uuid.uuid4().hex[:8]}")])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = (
        begin(name, name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return pem(builder, key, key, CA_DAYS)


def make_certificate(issuer: dict, wanted: dict) -> dict:
    """Return a VM's certificate, with which it serves and with which it comes to others."""
    authority = x509.load_pem_x509_certificate(issuer["certificate"].encode())
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wanted["names"][0])])
    others = [x509.DNSName(each) for each in wanted["names"]]
    others += [x509.IPAddress(ipaddress.ip_address(each)) for each in wanted["addresses"]]
    both_ends = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    builder = (
        begin(name, authority.subject, key.public_key(), CERTIFICATE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(both_ends, critical=False)
        .add_extension(x509.SubjectAlternativeName(others), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
    )
    signer = serialization.load_pem_private_key(issuer["key"].encode(), None)
    return {**pem(builder, key, signer, CERTIFICATE_DAYS), **wanted}


def begin(subject, issuer, public_key, days: int) -> x509.CertificateBuilder:
    """Return what every certificate has."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID_SINCE)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def pem(builder, key, signer, days: int) -> dict:
    """Sign a certificate; return it and its key."""
    expires = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    plain = serialization.NoEncryption()
    return {
        "certificate": builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode(),
        "key": key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode(),
        "expires": expires.isoformat(timespec="seconds"),
    }


def fits(wanted: dict, value: dict) -> bool:
    """Say whether a certificate is what is wanted, and will be for long enough."""
    left = datetime.datetime.fromisoformat(value["expires"]) - datetime.datetime.now(datetime.timezone.utc)
    return left.days >= RENEWED_BEFORE_DAYS and all(value.get(part) == wanted[part] for part in wanted)


def fingerprint(certificate: str) -> str:
    """Return what tells one authority from another."""
    return x509.load_pem_x509_certificate(certificate.encode()).fingerprint(hashes.SHA256()).hex()


MAKERS = {
    "password": make_password,
    "cookie": lambda: text_of(string.ascii_uppercase + string.digits),
    "uuid": lambda: str(uuid.uuid4()),
    "key": lambda: base64.b64encode(secrets.token_bytes(GOSSIP_KEY_BYTES)).decode(),
    "ca": make_ca,
}
