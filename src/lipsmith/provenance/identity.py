"""Who signs: an identity made on this computer, or the user's own certificate and key.

The local identity is a root certificate and a leaf that the root signed, as C2PA asks; the root's key is
thrown away at once, so that it can sign nothing else. Nobody vouches for it: readers show "signer not
trusted", and still any later change of the file is detected. A certificate from an authority takes its
place on request.
"""

import errno
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipsmith.errors import ProvenanceError

if TYPE_CHECKING:
    from cryptography import x509

IDENTITY_VARIABLE = "LIPSMITH_IDENTITY"
IDENTITY_FILE = "signing-identity.pem"
LOCAL_ORGANIZATION = "Lipsmith local identity (self-issued)"

# No time stamp proves when a file was signed, so a signature counts only while its certificate is valid.
_VALIDITY = timedelta(days=3650)
_CLOCK_TOLERANCE = timedelta(days=1)

# Extended key usages that C2PA accepts for signing claims: e-mail protection, document signing, C2PA claim signing.
CLAIM_SIGNING_USAGES = {
    "1.3.6.1.5.5.7.3.4": "e-mail protection",
    "1.3.6.1.5.5.7.3.36": "document signing",
    "1.3.6.1.4.1.62558.2.1": "C2PA claim signing",
}
_ANY_USAGE = "2.5.29.37.0"


@dataclass(frozen=True)
class Identity:
    """A certificate chain (leaf first) and the leaf's private key, PEM, and C2PA's name of the algorithm."""

    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    algorithm: str
    name: str
    is_local: bool


def identity_folder(folder: Path | None = None) -> Path:
    """`folder`, else the one that LIPSMITH_IDENTITY names, else one in the user's configuration."""
    if folder is not None:
        return folder
    if named := os.environ.get(IDENTITY_VARIABLE):
        return Path(named).expanduser()
    import platformdirs

    return platformdirs.user_config_path("lipsmith") / "identity"


def load_or_create_identity(folder: Path | None = None) -> Identity:
    """The identity of this computer, made on first use and then reused.

    Key and certificates lie in one file, made for its owner only to read, that appears complete or not at all:
    two processes that start together end up with the same identity. An identity that has run out is
    replaced. Raises ProvenanceError when the folder cannot be written or the file is damaged.
    """
    path = identity_folder(folder) / IDENTITY_FILE
    try:
        try:
            identity = _read_local(path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            return _store(path, _make_pem(), replace=False)
        if identity is None:
            return _store(path, _make_pem(), replace=True)
        return identity
    except OSError as error:
        raise ProvenanceError(
            f"The signing identity {path} cannot be read or made ({_reason(error)}). "
            f"Point {IDENTITY_VARIABLE} at a folder that can be written, sign with your own certificate "
            "and key, or turn provenance off."
        ) from error


def load_identity(certificate: Path, private_key: Path) -> Identity:
    """The user's own identity from PEM files: certificate chain (leaf first) and private key.

    Raises ProvenanceError, with the reason, when a file cannot be read, when key and certificate do not
    belong together, when the certificate is not valid now or not made for signing claims (C2PA
    specification, "Certificate profile"), and when a trial shows that it cannot sign.
    """
    from cryptography.hazmat.primitives import serialization

    certificates = _parse_certificates(_read_bytes(certificate, "certificate"), certificate)
    key = _parse_key(_read_bytes(private_key, "private key"), private_key)
    public = _public_bytes(key.public_key())
    leaf = certificates[0]
    if _public_bytes(leaf.public_key()) != public:
        if any(_public_bytes(other.public_key()) == public for other in certificates[1:]):
            raise ProvenanceError(
                f"In {certificate} the signer's own certificate must come first, the authorities' after it."
            )
        raise ProvenanceError(
            f"The private key {private_key} does not belong to the certificate {certificate}."
        )
    algorithm = _algorithm(key, private_key)
    _check_validity(leaf, certificate)
    _check_profile(leaf, certificate)
    identity = Identity(
        chain_pem=_to_pem(certificates),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        algorithm=algorithm,
        name=_display_name(leaf),
        is_local=False,
    )
    from lipsmith.provenance.content_credentials import try_signing

    try_signing(identity)
    return identity


def local_certificates(folder: Path | None = None) -> "list[x509.Certificate]":
    """The certificates of this computer's identity, leaf first; empty where none can be read."""
    path = identity_folder(folder) / IDENTITY_FILE
    try:
        return _parse_certificates(path.read_bytes(), path)
    except (OSError, ProvenanceError):
        # Reading a file must work for those who never signed one, and for those who may not see the key.
        return []


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _read_bytes(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProvenanceError(f"The {what} {path} cannot be read: {_reason(error)}.") from error


def _parse_certificates(pem: bytes, path: Path) -> "list[x509.Certificate]":
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ProvenanceError(f"{path} holds no certificate in PEM form: {error}") from error


def _parse_key(pem: bytes, path: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        return serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise ProvenanceError(
            f"The private key {path} is protected by a passphrase. "
            "`openssl pkey -in KEY -out PLAIN` takes it off."
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ProvenanceError(f"{path} holds no private key in PEM form: {error}") from error


def _public_bytes(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _to_pem(certificates: "Iterable[x509.Certificate]") -> bytes:
    from cryptography.hazmat.primitives import serialization

    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def _algorithm(key: Any, path: Path) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return "ps256"
    curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in curves:
        return curves[key.curve.name]
    raise ProvenanceError(
        f"The private key {path} is of a kind that Content Credentials do not take. "
        "These work: elliptic curve P-256, P-384 or P-521, Ed25519, RSA from 2048 bits."
    )


def _check_validity(leaf: "x509.Certificate", path: Path) -> None:
    now = datetime.now(UTC)
    if now > leaf.not_valid_after_utc:
        raise ProvenanceError(
            f"The certificate {path} expired on {leaf.not_valid_after_utc:%Y-%m-%d}. Renew it."
        )
    if now < leaf.not_valid_before_utc:
        raise ProvenanceError(
            f"The certificate {path} is valid only from {leaf.not_valid_before_utc:%Y-%m-%d}, "
            f"and this computer's clock says {now:%Y-%m-%d}."
        )


def _check_profile(leaf: "x509.Certificate", path: Path) -> None:
    from cryptography import x509

    def refuse(why: str) -> ProvenanceError:
        return ProvenanceError(
            f"The certificate {path} cannot sign Content Credentials: {why}. It needs the key usage digital "
            f"signature and an extended key usage among {', '.join(CLAIM_SIGNING_USAGES.values())}."
        )

    def extension(kind: Any) -> Any:
        try:
            return leaf.extensions.get_extension_for_class(kind).value
        except x509.ExtensionNotFound:
            return None

    if leaf.issuer == leaf.subject:
        raise refuse("it is signed by itself, not by an authority")
    constraints = extension(x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise refuse("it belongs to an authority, not to a signer")
    key_usage = extension(x509.KeyUsage)
    if key_usage is None or not key_usage.digital_signature:
        raise refuse("its key usage does not include digital signature")
    usages = {usage.dotted_string for usage in extension(x509.ExtendedKeyUsage) or ()}
    if _ANY_USAGE in usages or not usages & CLAIM_SIGNING_USAGES.keys():
        raise refuse("its extended key usage is missing or for another purpose")
    if extension(x509.AuthorityKeyIdentifier) is None:
        raise refuse("it does not name its authority's key")


def _display_name(leaf: "x509.Certificate") -> str:
    from cryptography.x509.oid import NameOID

    for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME):
        if found := leaf.subject.get_attributes_for_oid(oid):
            return str(found[0].value)
    return leaf.subject.rfc4514_string() or "a signer without a name"


def _read_local(path: Path) -> Identity | None:
    """The stored identity; None when it has run out. Raises OSError, ProvenanceError."""
    pem = path.read_bytes()
    if os.name == "posix" and path.stat().st_mode & 0o077:
        with suppress(OSError):  # a mounted secret, or a file system without modes
            path.chmod(0o600)  # a copy or a restored backup may have opened it to others
    try:
        certificates = _parse_certificates(pem, path)
        key = _parse_key(pem, path)
        if _public_bytes(key.public_key()) != _public_bytes(certificates[0].public_key()):
            raise ProvenanceError(f"The key in {path} is of another certificate.")
    except ProvenanceError as error:
        raise ProvenanceError(
            f"The signing identity {path} is damaged. Remove it, and a new one is made."
        ) from error
    leaf = certificates[0]
    if datetime.now(UTC) > leaf.not_valid_after_utc:
        return None
    _check_validity(leaf, path)
    return _local_identity(certificates, key)


def _local_identity(certificates: "list[x509.Certificate]", key: Any) -> Identity:
    from cryptography.hazmat.primitives import serialization

    return Identity(
        chain_pem=_to_pem(certificates),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        algorithm="es256",
        name=_display_name(certificates[0]),
        is_local=True,
    )


def _store(path: Path, pem: bytes, *, replace: bool) -> Identity:
    """Put `pem` at `path` in one step; without `replace`, what another process stored first is kept."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            partial.replace(path)
        else:
            try:
                path.hardlink_to(partial)
            except FileExistsError:
                pass
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                    raise
                partial.replace(path)  # a file system without hard links
    finally:
        partial.unlink(missing_ok=True)
    identity = _read_local(path)
    if identity is None:
        raise ProvenanceError(f"The signing identity {path} is not valid now. Check this computer's clock.")
    return identity


def _make_pem() -> bytes:
    """A fresh key, its certificate and the root that signed it, in PEM, one after the other."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    # Tells one computer's identity from another's without saying whose computer it is.
    tag = secrets.token_hex(4)

    def name(role: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, LOCAL_ORGANIZATION),
                x509.NameAttribute(NameOID.COMMON_NAME, f"Lipsmith {role} {tag}"),
            ]
        )

    def usage(*allowed: str) -> x509.KeyUsage:
        every = (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        )
        return x509.KeyUsage(**{one: one in allowed for one in every})

    start = datetime.now(UTC) - _CLOCK_TOLERANCE
    root_key = ec.generate_private_key(ec.SECP256R1())
    leaf_key = ec.generate_private_key(ec.SECP256R1())

    def certificate(role: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name(role))
            .issuer_name(name("root"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + _VALIDITY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )

    root = (
        certificate("root", root_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage("key_cert_sign", "crl_sign"), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    leaf = (
        certificate("signer", leaf_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False
        )
        .sign(root_key, hashes.SHA256())
    )
    key_pem = leaf_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key_pem + _to_pem([leaf, root])
