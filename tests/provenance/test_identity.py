import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lipsmith.errors import ProvenanceError
from lipsmith.provenance import inspect as inspecting
from lipsmith.provenance import load_identity, load_or_create_identity, sign
from lipsmith.provenance.identity import (
    CLAIM_SIGNING_USAGES,
    IDENTITY_FILE,
    IDENTITY_VARIABLE,
    local_certificates,
)
from lipsmith.provenance.inspect import CredentialsState, SignerTrust

PEM = serialization.Encoding.PEM
NOW = datetime.now(UTC)


def make_certificates(
    folder: Path,
    *,
    key=None,
    days: tuple[float, float] = (-1, 30),
    usages=(ExtendedKeyUsageOID.EMAIL_PROTECTION,),
    digital_signature: bool = True,
    self_signed: bool = False,
    authority: bool = False,
) -> tuple[Path, Path, Path]:
    """(chain, private key, root) as PEM files: a small authority and a signer's certificate."""
    folder.mkdir(exist_ok=True)
    root_key = ec.generate_private_key(ec.SECP256R1())
    key = key or ec.generate_private_key(ec.SECP256R1())

    def named(name: str) -> x509.Name:
        return x509.Name(
            [x509.NameAttribute(oid, name) for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)]
        )

    def build(name: str, issuer: str, public, ca: bool) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(issuer))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + timedelta(days=days[0]))
            .not_valid_after(NOW + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=digital_signature and not ca,
                    content_commitment=not ca,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=ca,
                    crl_sign=ca,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
        )

    root = build("Test Authority", "Test Authority", root_key.public_key(), True).sign(
        root_key, hashes.SHA256()
    )
    leaf = build(
        "Test Studio", "Test Studio" if self_signed else "Test Authority", key.public_key(), authority
    )
    if usages:
        leaf = leaf.add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
    leaf = leaf.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False
    ).sign(
        key if self_signed else root_key,
        hashes.SHA256() if not self_signed or not isinstance(key, ed25519.Ed25519PrivateKey) else None,
    )
    paths = folder / "chain.pem", folder / "key.pem", folder / "root.pem"
    paths[0].write_bytes(leaf.public_bytes(PEM) + root.public_bytes(PEM))
    paths[1].write_bytes(
        key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    paths[2].write_bytes(root.public_bytes(PEM))
    return paths


def test_identity_is_made_once_and_reused(tmp_path):
    first = load_or_create_identity(tmp_path / "new" / "folder")
    second = load_or_create_identity(tmp_path / "new" / "folder")
    assert first == second
    assert first.algorithm == "es256" and first.is_local
    assert first != load_or_create_identity(tmp_path / "other")


def test_variable_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(IDENTITY_VARIABLE, str(tmp_path / "named"))
    load_or_create_identity()
    assert (tmp_path / "named" / IDENTITY_FILE).is_file()


@pytest.mark.skipif(os.name != "posix", reason="file modes of POSIX")
def test_key_is_readable_by_its_owner_only(tmp_path):
    previous = os.umask(0)
    try:
        load_or_create_identity(tmp_path)
    finally:
        os.umask(previous)
    path = tmp_path / IDENTITY_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == [IDENTITY_FILE]
    path.chmod(0o644)
    load_or_create_identity(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.name != "posix", reason="file modes of POSIX")
def test_an_identity_whose_mode_cannot_be_changed_signs_too(tmp_path, monkeypatch):
    """A secret that is mounted for reading, a file system without modes."""
    identity = load_or_create_identity(tmp_path)
    (tmp_path / IDENTITY_FILE).chmod(0o644)

    def refuse(*_arguments, **_settings):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    assert load_or_create_identity(tmp_path) == identity


def test_those_who_start_together_get_the_same(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        identities = list(pool.map(lambda _: load_or_create_identity(tmp_path), range(16)))
    assert len({identity.chain_pem for identity in identities}) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_chain_is_what_c2pa_asks_for(tmp_path):
    load_or_create_identity(tmp_path)
    leaf, root = local_certificates(tmp_path)
    assert leaf.issuer == root.subject and leaf.subject != root.subject
    leaf.verify_directly_issued_by(root)
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.EMAIL_PROTECTION]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProvenanceError, match=r"cannot be read or made \(.+\)\. Point LIPSMITH_IDENTITY at"):
        load_or_create_identity(tmp_path / "file" / "folder")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_is_one_clear_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ProvenanceError, match="Permission denied"):
            load_or_create_identity(tmp_path)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_damaged_identity_says_what_to_do(tmp_path, content):
    (tmp_path / IDENTITY_FILE).write_bytes(content)
    with pytest.raises(ProvenanceError, match=r"is damaged\. Remove it"):
        load_or_create_identity(tmp_path)
    assert local_certificates(tmp_path) == []


def test_identity_whose_key_is_of_another_certificate_is_damaged(tmp_path):
    for name in ("one", "two"):
        load_or_create_identity(tmp_path / name)
    one, two = (tmp_path / name / IDENTITY_FILE for name in ("one", "two"))
    key = one.read_bytes().partition(b"-----BEGIN CERTIFICATE")[0]
    two.write_bytes(key + b"".join(two.read_bytes().partition(b"-----BEGIN CERTIFICATE")[1:]))
    with pytest.raises(ProvenanceError, match=r"is damaged\. Remove it"):
        load_or_create_identity(tmp_path / "two")


def test_identity_that_has_run_out_is_replaced(tmp_path):
    chain, key, _ = make_certificates(tmp_path / "old", days=(-30, -1))
    old = chain.read_bytes()
    (tmp_path / IDENTITY_FILE).write_bytes(key.read_bytes() + old)
    assert load_or_create_identity(tmp_path).chain_pem != old
    assert load_or_create_identity(tmp_path) == load_or_create_identity(tmp_path)


@pytest.mark.parametrize(
    ("make_key", "algorithm"),
    [
        (lambda: ec.generate_private_key(ec.SECP256R1()), "es256"),
        (lambda: ec.generate_private_key(ec.SECP384R1()), "es384"),
        (lambda: ec.generate_private_key(ec.SECP521R1()), "es512"),
        (lambda: rsa.generate_private_key(65537, 2048), "ps256"),
        (ed25519.Ed25519PrivateKey.generate, "ed25519"),
    ],
)
def test_own_certificate_signs_and_is_trusted_through_its_root(
    tmp_path, make_video, record, make_key, algorithm
):
    chain, key, root = make_certificates(tmp_path / "own", key=make_key())
    identity = load_identity(chain, key)
    assert (identity.algorithm, identity.name, identity.is_local) == (algorithm, "Test Studio", False)

    video = make_video("video.mp4")
    sign(video, record, parent=make_video("source.mp4"), identity=identity)

    unknown = inspecting.inspect(video).credentials
    assert unknown.state is CredentialsState.VALID
    assert unknown.signer.organization == "Test Studio"
    assert unknown.signer.trust is SignerTrust.UNTRUSTED
    known = inspecting.inspect(video, trust_anchors=root).credentials
    assert known.signer.trust is SignerTrust.TRUSTED


@pytest.mark.parametrize("purpose", CLAIM_SIGNING_USAGES)
def test_every_purpose_that_is_said_to_do_signs_and_is_valid_for_a_reader(
    tmp_path, make_video, record, purpose
):
    chain, key, root = make_certificates(tmp_path / "own", usages=(x509.ObjectIdentifier(purpose),))
    video = make_video("video.mp4")
    sign(video, record, parent=make_video("source.mp4"), identity=load_identity(chain, key))
    assert inspecting.inspect(video).credentials.state is CredentialsState.VALID
    known = inspecting.inspect(video, trust_anchors=root).credentials
    assert known.signer.trust is SignerTrust.TRUSTED


def test_what_only_a_trial_shows_is_told_before_long_work(tmp_path):
    usages = (ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.TIME_STAMPING)
    chain, key, _ = make_certificates(tmp_path / "own", usages=usages)
    with pytest.raises(ProvenanceError, match=r"Test Studio cannot sign: .*the certificate is invalid"):
        load_identity(chain, key)


def test_missing_and_unreadable_files_are_named(tmp_path):
    chain, key, _ = make_certificates(tmp_path / "own")
    text = tmp_path / "text.pem"
    text.write_text("hello")
    with pytest.raises(ProvenanceError, match=r"certificate .*nowhere\.pem cannot be read: No such file"):
        load_identity(tmp_path / "nowhere.pem", key)
    with pytest.raises(ProvenanceError, match=r"private key .*nowhere\.pem cannot be read: No such file"):
        load_identity(chain, tmp_path / "nowhere.pem")
    with pytest.raises(ProvenanceError, match=r"text\.pem holds no certificate"):
        load_identity(text, key)
    with pytest.raises(ProvenanceError, match=r"text\.pem holds no private key"):
        load_identity(chain, text)
    with pytest.raises(ProvenanceError, match=r"key\.pem holds no certificate"):
        load_identity(key, chain)


def test_key_of_another_certificate_is_refused(tmp_path):
    chain, _, _ = make_certificates(tmp_path / "one")
    _, key, _ = make_certificates(tmp_path / "two")
    with pytest.raises(ProvenanceError, match="does not belong to the certificate"):
        load_identity(chain, key)


def test_chain_in_the_wrong_order_says_so(tmp_path):
    chain, key, _ = make_certificates(tmp_path / "own")
    leaf, root = x509.load_pem_x509_certificates(chain.read_bytes())
    chain.write_bytes(root.public_bytes(PEM) + leaf.public_bytes(PEM))
    with pytest.raises(ProvenanceError, match="must come first"):
        load_identity(chain, key)


def test_key_with_a_passphrase_says_how_to_take_it_off(tmp_path):
    chain, key, _ = make_certificates(tmp_path / "own")
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        loaded.private_bytes(
            PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
        )
    )
    with pytest.raises(ProvenanceError, match="passphrase"):
        load_identity(chain, key)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"days": (-30, -1)}, "expired on"),
        ({"days": (1, 30)}, "valid only from"),
        ({"usages": ()}, "extended key usage is missing"),
        ({"usages": (ExtendedKeyUsageOID.SERVER_AUTH,)}, "for another purpose"),
        ({"usages": (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)}, "for another purpose"),
        ({"digital_signature": False}, "does not include digital signature"),
        ({"self_signed": True}, "signed by itself"),
        ({"authority": True}, "belongs to an authority"),
        ({"key": rsa.generate_private_key(65537, 1024)}, "RSA from 2048 bits"),
        ({"key": ec.generate_private_key(ec.SECP256K1())}, "elliptic curve P-256"),
    ],
)
def test_unsuitable_certificate_is_refused_with_the_reason(tmp_path, options, reason):
    chain, key, _ = make_certificates(tmp_path / "own", **options)
    with pytest.raises(ProvenanceError, match=reason):
        load_identity(chain, key)


def test_key_does_not_show_in_messages(identity):
    assert "PRIVATE KEY" not in repr(identity)
