"""What a transfer can fail with. Every message says what happened, to what, and, where that is known, what to do."""

from __future__ import annotations

from collections.abc import Sequence

TRANSIENT_STATUSES = frozenset({408, 429, 499, 500, 502, 503, 504})
"""Answers that may be another one a moment later (RFC 9110 section 15; 499 is nginx's and ours: the line broke on the way there)."""


class RemoteError(Exception):
    """Whatever a transfer could not do. ``transient`` says whether trying again may help; ``retry_after`` is in seconds."""

    transient = False
    retry_after: float | None = None


class Unreachable(RemoteError):
    """No answer: the name does not resolve, nobody listens, the connection broke before the answer's head, TLS failed."""

    def __init__(self, host: str, reason: str, *, transient: bool = True) -> None:
        self.host, self.transient = host, transient
        super().__init__(f"{host} does not answer: {reason}")


class Interrupted(RemoteError):
    """The connection broke inside a body; the bytes before the cut are good."""

    transient = True


class RegistryError(RemoteError):
    """An answer that says no. ``codes`` are those of the error body (distribution-spec, "Error Codes"), possibly none."""

    def __init__(
        self,
        status: int,
        reason: str,
        codes: Sequence[str],
        message: str,
        request: str,
        retry_after: float | None = None,
    ) -> None:
        self.status, self.codes, self.message, self.request = status, tuple(codes), message, request
        self.retry_after = retry_after
        self.transient = status in TRANSIENT_STATUSES
        said = ": ".join(part for part in (", ".join(codes), message) if part)
        hint = _HINTS.get(status, "")
        super().__init__(f"{request} was answered {status} {reason}".rstrip() + (f" ({said})" if said else "") + hint)


_HINTS = {
    401: "; log in with `docker login` or `podman login` if the name is right",
    403: "; the account that is logged in may not do this",
    429: "; the registry limits how often it may be asked: log in or wait",
    507: "; the registry's disk is full: free space there, then repeat the command",
}


class InvalidContent(RemoteError):
    """What arrived is not what was announced: a wrong digest or size, or a manifest that cannot be."""


class InvalidLocation(RemoteError):
    """A source or destination that cannot be used as it was named."""


class CredentialError(RemoteError):
    """A credential file or helper that cannot be read."""


class Cancelled(RemoteError):
    """The transfer was told to stop."""

    def __init__(self) -> None:
        super().__init__("the transfer was stopped")
