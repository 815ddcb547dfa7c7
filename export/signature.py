"""A bundle signed with a key that maker and site share: HMAC-SHA-256 of the manifest.

The manifest holds the hash of every other file, so that signing it signs the bundle.
"""

import hashlib
import hmac
import secrets
from pathlib import Path

from casebook.documents import write_bytes
from casebook.errors import ConfigError, ModelError
from export.bundle import MANIFEST

SIGNATURE = "manifest.sig"
KEY_BYTES = 32


def make_key(path: Path) -> None:
    """Write a new key, readable by its owner only.

    Raises:
        ConfigError: the file is there already.
    """
    if path.exists():
        raise ConfigError(f"{path} is there already; a key is never written over; give another")
    write_bytes(path, secrets.token_hex(KEY_BYTES).encode() + b"\n", mode=0o600)


def read_key(path: Path) -> bytes:
    """A key from its file.

    Raises:
        ConfigError: missing, or no key of 32 bytes in hexadecimal.
    """
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except OSError as problem:
        raise ConfigError(
            f"key {path} cannot be read ({problem.strerror}); correct --key"
        ) from None
    except ValueError:
        key = b""
    if len(key) < KEY_BYTES:
        raise ConfigError(
            f"{path} holds no key of {KEY_BYTES} bytes in hexadecimal; ask who signed the bundle"
        )
    return key


def _mac(folder: Path, key: bytes) -> str:
    return hmac.new(key, (folder / MANIFEST).read_bytes(), hashlib.sha256).hexdigest()


def sign(folder: Path, key: bytes) -> None:
    """Write the signature of a bundle beside its manifest."""
    write_bytes(folder / SIGNATURE, f"{_mac(folder, key)}\n".encode())


def check_signature(folder: Path, key: bytes) -> None:
    """Make sure a bundle was signed with a key.

    Raises:
        ModelError: it was not, or was changed since.
    """
    try:
        found = (folder / SIGNATURE).read_text(encoding="ascii").strip()
    except OSError:
        raise ModelError(
            f"{folder} has no {SIGNATURE}; ask for a signed bundle or run without --key"
        ) from None
    except ValueError:
        found = ""
    if not hmac.compare_digest(found.encode(), _mac(folder, key).encode()):
        raise ModelError(
            f"{folder}: the signature is not of this key and this manifest; copy the bundle again "
            "or give the key it was signed with"
        )
