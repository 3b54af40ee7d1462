"""bundle.json.sig: an Ed25519 signature of bundle.json, which names every other file by its hash.

Its 64 bytes are what `openssl pkeyutl -sign -rawin` writes, so openssl can check or make them too.
"""

import pathlib
from typing import TYPE_CHECKING, Any

from data_prep.cli import UserError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

NAME = "bundle.json.sig"


def private_key(path: pathlib.Path) -> "Ed25519PrivateKey":
    """The Ed25519 private key in a file that openssl or ssh-keygen wrote, without a passphrase.

    Raises:
        UserError: it is no such key, or the package cryptography is missing.
    """
    mend = " without a passphrase; make one with: openssl genpkey -algorithm ed25519"
    return _read_key(path, "private", mend)


def public_key(path: pathlib.Path) -> "Ed25519PublicKey":
    """The Ed25519 public key in a file that openssl or ssh-keygen wrote; raises `UserError`."""
    return _read_key(path, "public", "; make it of the private one with: openssl pkey -pubout")


def sign(folder: pathlib.Path, key: "Ed25519PrivateKey") -> None:
    """Writes the signature of the bundle in `folder`."""
    (folder / NAME).write_bytes(key.sign((folder / "bundle.json").read_bytes()))


def verify(folder: pathlib.Path, key: "Ed25519PublicKey") -> None:
    """Checks the signature of the bundle in `folder`.

    Raises:
        UserError: there is none, or it was not made of bundle.json with the key's private half.
    """
    from cryptography.exceptions import InvalidSignature

    path = folder / NAME
    if not path.is_file():
        raise UserError(f"the bundle {folder} is not signed: it has no {NAME}; get a signed one")
    try:
        key.verify(path.read_bytes(), (folder / "bundle.json").read_bytes())
    except InvalidSignature as error:
        raise UserError(
            f"{path} is not the signature of bundle.json by this key; get the bundle or the key "
            f"again from whom you trust"
        ) from error


def _read_key(path: pathlib.Path, half: str, mend: str) -> Any:
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ModuleNotFoundError as error:
        raise UserError(
            "signatures need the package cryptography; install it with: pip install cryptography"
        ) from error
    data = path.read_bytes()
    is_ssh = data.startswith((b"ssh-", b"-----BEGIN OPENSSH"))
    read = getattr(serialization, f"load_{'ssh' if is_ssh else 'pem'}_{half}_key")
    wanted = getattr(ed25519, f"Ed25519{half.title()}Key")
    try:
        key = read(data, None) if half == "private" else read(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it has a passphrase
        key = None
    if not isinstance(key, wanted):
        raise UserError(f"{path} is no Ed25519 {half} key{mend}")
    return key
