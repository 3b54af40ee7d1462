"""Keys come from the commands that the documentation names, so that their formats are the real."""

import pathlib
import shutil
import subprocess
import sys

import pytest

from cbam_flax.predict import Predictor, signature
from data_prep.cli import UserError

pytest.importorskip("cryptography")
for command in ("openssl", "ssh-keygen"):
    if not shutil.which(command):
        pytest.skip(f"{command} is not installed", allow_module_level=True)


def call(*arguments: object) -> None:
    subprocess.run([str(argument) for argument in arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    """By who made them: the files of the private and of the public key."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("openssl", "other"):
        call("openssl", "genpkey", "-algorithm", "ed25519", "-out", folder / name)
        call("openssl", "pkey", "-in", folder / name, "-pubout", "-out", folder / f"{name}.pub")
    call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "ssh")
    return {name: (folder / name, folder / f"{name}.pub") for name in ("openssl", "other", "ssh")}


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    (tmp_path / "bundle.json").write_text('{"schema": 1}')
    return tmp_path


@pytest.mark.parametrize("maker", ["openssl", "ssh"])
def test_a_signature_holds_for_its_key_and_content_alone(folder, keys, maker):
    private, public = keys[maker]
    signature.sign(folder, signature.private_key(private))
    signature.verify(folder, signature.public_key(public))
    with pytest.raises(UserError, match="is not the signature of"):
        signature.verify(folder, signature.public_key(keys["other"][1]))
    (folder / "bundle.json").write_text('{"schema": 2}')
    with pytest.raises(UserError, match="is not the signature of"):
        signature.verify(folder, signature.public_key(public))


def test_openssl_makes_and_checks_the_same_signature(folder, keys):
    private, public = keys["openssl"]
    files = ("-rawin", "-in", folder / "bundle.json")
    signature.sign(folder, signature.private_key(private))
    check = ("-verify", "-pubin", "-inkey", public, "-sigfile", folder / signature.NAME)
    call("openssl", "pkeyutl", *check, *files)
    (folder / signature.NAME).unlink()
    call("openssl", "pkeyutl", "-sign", "-inkey", private, "-out", folder / signature.NAME, *files)
    signature.verify(folder, signature.public_key(public))


def test_an_unsigned_bundle_and_a_damaged_signature_are_refused(folder, keys):
    private = signature.private_key(keys["ssh"][0])
    public = signature.public_key(keys["ssh"][1])
    with pytest.raises(UserError, match="is not signed: it has no"):
        signature.verify(folder, public)
    signature.sign(folder, private)
    whole = (folder / signature.NAME).read_bytes()
    for damaged in (b"", whole[:-1], whole + b"\n", bytes(64)):
        (folder / signature.NAME).write_bytes(damaged)
        with pytest.raises(UserError, match="is not the signature"):
            signature.verify(folder, public)
    # Loading asks for the signature before it believes anything that bundle.json says.
    with pytest.raises(UserError, match="is not the signature"):
        Predictor.load(folder, verify_with=keys["ssh"][1])


def test_what_is_no_such_key_is_refused_with_the_command_that_makes_one(tmp_path, keys):
    path = tmp_path / "key"
    for content in (b"", b"no key", b"ssh-ed25519 AAAA", keys["openssl"][1].read_bytes()):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"no Ed25519 private key .* openssl genpkey"):
            signature.private_key(path)
    path.write_bytes(keys["openssl"][0].read_bytes())
    with pytest.raises(UserError, match=r"no Ed25519 public key; .* openssl pkey"):
        signature.public_key(path)
    path.unlink()
    call("openssl", "genpkey", "-algorithm", "x25519", "-out", path)
    with pytest.raises(UserError, match="no Ed25519 private key"):
        signature.private_key(path)
    for secret in (
        ("ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f"),
        ("openssl", "genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:secret", "-out"),
    ):
        path.unlink()
        call(*secret, path)
        with pytest.raises(UserError, match="without a passphrase"):
            signature.private_key(path)


def test_the_package_is_named_where_it_is_missing(keys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(UserError, match="pip install cryptography"):
        signature.private_key(keys["ssh"][0])
