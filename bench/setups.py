"""How a server is set up besides its store: plain, with accounts, or with TLS; the same for all of them.

The other two issue no tokens: they are shown some by a key of the benchmark's own, made before the clock starts, and Portside those that it
issues. Certificate and cipher suites are the same, and what a server does not have to be told stays as it comes.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import secrets
import ssl
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm

from auth.gate import ACCOUNTS_SETTING
from auth.passwords import hash_password
from auth.policy import parse_actions
from storage.people import Actor, Effect, Kind, Rule
from storage.sql_metadata import SQLMetadata
from storage.sql_people import SQLPeople
from storage.sqlite import SQLiteDatabase

SERVICE = "portside"
"""Issuer and audience of every token."""
REALM = "http://127.0.0.1/auth/token"
"""Where the others send those who bring no token; nobody goes."""
USER = "bench"
PASSWORD = "only for the benchmark"
"""Of every account."""
HTPASSWD = f"{USER}:$2y$05$KbTq0jJxq5mO8wY3nV1x7ucIIGFHtX5RZxsBF/zuKZubSMS8CTXRG\n"
"""Of the same user and password, with the cost that ``htpasswd -B`` takes, which the documentation of both says to use."""
PATTERN = "bench/*"
TOKEN_LIFETIME = datetime.timedelta(days=1)

_BY = Actor("local")


@dataclass(frozen=True, slots=True)
class Material:
    """Keys and files that the setups need, in a folder."""

    folder: Path
    signing: ec.EllipticCurvePrivateKey = field(repr=False)
    versitygw: Path | None = None
    """An S3 service's program."""

    @property
    def certificate(self) -> Path:
        """Of ECDSA P-256, for 127.0.0.1."""
        return self.folder / "certificate.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def authority(self) -> Path:
        """The certificate of the certificate's issuer."""
        return self.folder / "authority.pem"

    @property
    def jwks(self) -> Path:
        """The public key of the tokens, as distribution reads it."""
        return self.folder / "jwks.json"

    @property
    def public_key(self) -> Path:
        """The same, as zot reads it."""
        return self.folder / "tokens.pem"

    @property
    def htpasswd(self) -> Path:
        return self.folder / "htpasswd"

    def token(self, repository: str) -> str:
        """A token (distribution, docs/content/spec/auth/jwt.md) with which a repository may be read and written."""
        now = datetime.datetime.now(datetime.UTC)
        claims = {
            "iss": SERVICE,
            "sub": USER,
            "aud": SERVICE,
            "exp": now + TOKEN_LIFETIME,
            "nbf": now,
            "iat": now,
            "jti": secrets.token_urlsafe(12),
            "access": [{"type": "repository", "name": repository, "actions": ["pull", "push"]}],
        }
        return jwt.encode(claims, self.signing, "ES256", {"kid": SERVICE})


def make_material(folder: Path, versitygw: Path | None = None) -> Material:
    """Make everything anew, and the folder."""
    folder.mkdir(mode=0o700)
    material = Material(folder, ec.generate_private_key(ec.SECP256R1()), versitygw)
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    issued = authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA)
    authority.cert_pem.write_to_path(material.authority)
    issued.cert_chain_pems[0].write_to_path(material.certificate)
    issued.private_key_pem.write_to_path(material.key)
    public = material.signing.public_key()
    published = ECAlgorithm.to_jwk(public, as_dict=True) | {"kid": SERVICE, "use": "sig", "alg": "ES256"}
    material.jwks.write_text(json.dumps({"keys": [published]}))
    material.public_key.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    material.htpasswd.write_text(HTPASSWD)
    return material


class Setup:
    """A plain one: no accounts, no TLS. ``ready`` is the status of ``GET /v2/`` without credentials."""

    ready = 200

    def portside(self, root: Path) -> list[str]:
        """More options of ``portside serve``; makes in the root what they need there."""
        return []

    def distribution(self, document: dict[str, Any]) -> None:
        """Add to distribution's configuration."""

    def zot(self, document: dict[str, Any]) -> None:
        """Add to zot's configuration."""

    def context(self) -> ssl.SSLContext | None:
        """With which clients in Python connect, None without TLS."""
        return None

    def beside(self, root: Path) -> AbstractContextManager[None]:
        """What has to run beside the server, with its data below ``root``; before its command line is asked for."""
        return contextlib.nullcontext()

    def environment(self) -> Mapping[str, str]:
        """More of a server's environment."""
        return {}


PLAIN = Setup()


def plain(material: Material) -> Setup:
    """What needs no material."""
    return PLAIN


@dataclass(frozen=True, slots=True)
class Accounts(Setup):
    """One user, who may read and write the benchmark's repositories."""

    material: Material
    ready = 401

    def portside(self, root: Path) -> list[str]:
        add_people(root, [USER])
        return []


class Tokens(Accounts):
    """Accounts; clients bring a token."""

    def distribution(self, document: dict[str, Any]) -> None:
        words = {"realm": REALM, "service": SERVICE, "issuer": SERVICE, "jwks": str(self.material.jwks)}
        document["auth"] = {"token": words}

    def zot(self, document: dict[str, Any]) -> None:
        words = {"realm": REALM, "service": SERVICE, "cert": str(self.material.public_key)}
        document["http"]["auth"] = {"bearer": words}


class Passwords(Accounts):
    """Accounts; clients send name and password with each request."""

    def distribution(self, document: dict[str, Any]) -> None:
        document["auth"] = {"htpasswd": {"realm": SERVICE, "path": str(self.material.htpasswd)}}

    def zot(self, document: dict[str, Any]) -> None:
        document["http"]["auth"] = {"htpasswd": {"path": str(self.material.htpasswd)}}


@dataclass(frozen=True, slots=True)
class Tls(Setup):
    """TLS with a certificate of one's own; no accounts."""

    material: Material

    def portside(self, root: Path) -> list[str]:
        return ["--tls-cert", str(self.material.certificate), "--tls-key", str(self.material.key)]

    def distribution(self, document: dict[str, Any]) -> None:
        document["http"]["tls"] = {"certificate": str(self.material.certificate), "key": str(self.material.key)}

    def zot(self, document: dict[str, Any]) -> None:
        document["http"]["tls"] = {"cert": str(self.material.certificate), "key": str(self.material.key)}

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.material.authority))


def add_people(root: Path, names: Iterable[str]) -> None:
    """Give a root accounts of one password, also while a server runs on it. The benchmark's own may read and write its repositories."""
    root.mkdir(parents=True, exist_ok=True)
    hashed = hash_password(PASSWORD)
    metadata = SQLMetadata(SQLiteDatabase(root))
    try:
        people = SQLPeople(metadata.database)
        for name in names:
            people.add_account(name, Kind.USER, _BY)
            people.set_password(name, hashed, _BY)
            if name == USER:
                people.set_setting(ACCOUNTS_SETTING, "on", _BY)
                people.put_rule(Rule(USER, PATTERN, Effect.ALLOW, parse_actions("pull,push")), _BY)
    finally:
        metadata.close()


def basic(name: str = USER, password: str = PASSWORD) -> str:
    """The value of an Authorization header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode("ascii")
