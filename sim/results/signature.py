"""An Ed25519 signature over the head of a run's or a study's log, beside which a timestamp of others may stand.

The head stands for every line before it, and these for files, settings and runs: who keeps the public key, or the head,
where the folder's owner cannot reach them, can prove the rest. The timestamp (text, or a file such as an RFC 3161
token) is kept and signed, and not interpreted.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from sim.results.audit_log import AUDIT_FILE, SIGNATURE_FILE
from sim.results.reading import read_json, refuse
from sim.results.store import write_atomically
from sim.results.study_log import STUDY_LOG, read_log

MOST_BYTES = 1_000_000
"""Of a key, a signature's file or a timestamp's."""


def log_of(folder: Path) -> Path:
    """Return the log of a run's or a study's folder."""
    found = [folder / name for name in (AUDIT_FILE, STUDY_LOG) if (folder / name).is_file()]
    if not found:
        refuse(
            folder, f"holds no {STUDY_LOG} and no {AUDIT_FILE}; name a study's folder, OUT/<study>, or a finished run's"
        )
    return found[0]


def sign(folder: Path, key: Path, timestamp: str | None = None) -> Path:
    """Sign the head of a folder's log as it is now.

    The signature's file in that folder, which takes the place of one that was there.

    Raises ScenarioError if the log is not sound, or a file cannot be used.

    Parameters
    ----------
    key : Path
        An unencrypted PEM file of an Ed25519 private key.
    timestamp : str, optional
        Text, or the name of a file whose bytes are kept.
    """
    log = log_of(folder)
    chain = read_log(folder, log.name)
    if chain.fault or not chain.entries:
        refuse(log, f"{chain.fault or 'is empty'}; only a sound log is signed")
    kind, timestamp = _timestamp(timestamp)
    signed = {
        "log": log.name,
        "lines": len(chain.entries),
        "head": chain.head,
        "timestamp": timestamp,
        "timestamp-is": kind,
    }
    signature = base64.b64encode(_private(key).sign(_message(signed))).decode()
    path = folder / SIGNATURE_FILE
    write_atomically(path, json.dumps({**signed, "algorithm": "Ed25519", "signature": signature}, indent=1) + "\n")
    return path


def signature_faults(folder: Path, public_key: Path) -> tuple[list[str], str]:
    """Check a folder's signature.

    Raises ScenarioError if the key cannot be used.

    Parameters
    ----------
    public_key : Path
        A PEM file of an Ed25519 public key.

    Returns
    -------
    faults : list of str
        A line for what is wrong.
    said : str
        What the signature is over, if nothing is.
    """
    verifier, path = _public(public_key), folder / SIGNATURE_FILE
    log = log_of(folder)
    told = read_json(folder, SIGNATURE_FILE)
    if told is None:
        return [f"{path}: is missing, so that there is no signature to check"], ""
    try:
        signed = {name: told[name] for name in ("log", "lines", "head", "timestamp", "timestamp-is")}
        verifier.verify(base64.b64decode(told["signature"], validate=True), _message(signed))
    except InvalidSignature:
        return [f"{path}: the signature is not by the key in {public_key}, or not over what the file says"], ""
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        return [f"{path}: is no signature"], ""
    chain = read_log(folder, log.name)
    if signed["log"] != log.name or signed["head"] not in chain.heads[signed["lines"] - 1 : signed["lines"]]:
        return [f"{log}: line {signed['lines']}: is not the head that was signed"], ""
    stamp = f"; timestamp ({signed['timestamp-is']}, not interpreted): {signed['timestamp']}"
    said = f"signed up to line {signed['lines']} of {len(chain.heads)}" + (stamp if signed["timestamp"] else "")
    return [], f"{path}: {said}"


def _timestamp(given: str | None) -> tuple[str | None, str | None]:
    """Return of what kind a timestamp is, and the text that is kept."""
    if given is None:
        return None, None
    try:
        a_file = Path(given).is_file()
    except (OSError, ValueError):  # longer than a path can be
        a_file = False
    if a_file:
        return "base64", base64.b64encode(_content(Path(given), "a timestamp")).decode()
    return "text", given


def _message(signed: dict[str, Any]) -> bytes:
    return b"suture log head\n" + json.dumps(signed, sort_keys=True, separators=(",", ":")).encode()


def _content(path: Path, what: str) -> bytes:
    if not path.is_file():
        refuse(path, f"is no file; name that of {what}")
    if path.stat().st_size > MOST_BYTES:
        refuse(path, f"is larger than {what} may be, {MOST_BYTES} bytes")
    return path.read_bytes()


def _private(path: Path) -> Ed25519PrivateKey:
    content, make = _content(path, "a private key"), "make one with openssl genpkey -algorithm ed25519"
    try:
        key = load_pem_private_key(content, None)
    except TypeError:
        refuse(path, "this key is encrypted; give an unencrypted one (openssl pkey -in ... -out ...)")
    except (ValueError, UnsupportedAlgorithm):
        refuse(path, f"is no private key; {make}")
    if not isinstance(key, Ed25519PrivateKey):
        refuse(path, f"is no Ed25519 key; {make}")
    return key


def _public(path: Path) -> Ed25519PublicKey:
    content = _content(path, "a public key")
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        refuse(path, "is no public key; openssl pkey -in KEY.pem -pubout writes it")
    if not isinstance(key, Ed25519PublicKey):
        refuse(path, "is no Ed25519 key")
    return key
