"""Hostile requests from a seed: the same seed gives the same requests.

Each is made of a shape (what of HTTP is abused) and of slots (names, tags, digests, upload ids, ranges, media types, JSON), of
which some are sane, so that requests get far into the handlers, and some are not.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.hostile.words import (
    CHUNKED,
    CONTENT_RANGES,
    DIGESTS,
    FRAMINGS,
    HEADERS,
    MEDIA_TYPES,
    QUERIES,
    RANGES,
    TRAVERSALS,
)
from tests.images import OCI_INDEX, OCI_MANIFEST
from tests.wire.content import digest_of

METHODS = ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE")
SMUGGLED = b"GET /v2/_catalog HTTP/1.1\r\nHost: h\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Hostile:
    """One request as bytes.

    ``is_whole``: the server can answer without waiting for more. ``is_trick``: its framing must not be believed.
    """

    shape: str
    method: str
    raw: bytes
    is_whole: bool = True
    is_trick: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """What exists on the server: the generator uses it to be believed."""

    repository: str
    readable: str
    """A repository that holds the digests: it is read and mounted from, never written to."""
    digests: Sequence[str]
    uploads: Sequence[str]
    """Paths of uploads that are open."""
    secret: str
    """The path of a file outside the root."""


class Generator:
    """Requests without end."""

    def __init__(self, seed: int, known: Known) -> None:
        self._random = random.Random(seed)
        self._known = known
        self._shapes: list[tuple[Callable[[], Hostile], int]] = [
            (self._slots, 60),
            (self._manifest, 25),
            (self._read, 20),
            (self._upload, 25),
            (self._mount, 10),
            (self._chunked, 10),
            (self._smuggling, 10),
            (self._truncated, 10),
            (self._headers, 6),
            (self._noise, 6),
        ]

    def __iter__(self) -> Iterator[Hostile]:
        shapes, weights = zip(*self._shapes, strict=True)
        while True:
            yield self._random.choices(shapes, weights)[0]()

    # -- slots

    def _name(self) -> str:
        rng = self._random
        if rng.random() < 0.4:
            return rng.choice(["a", "a/b", "hostile/x", self._known.repository])
        parts = [rng.choice(["a", "b0", "x_y"]) for _ in range(rng.randint(0, 3))]
        parts.insert(rng.randint(0, len(parts)), rng.choice(TRAVERSALS))
        return "/".join(parts)

    def _digest(self) -> str:
        rng = self._random
        roll = rng.random()
        if roll < 0.3:
            return rng.choice(self._known.digests)
        if roll < 0.5:
            return digest_of(rng.randbytes(4), rng.choice(["sha256", "sha512"]))
        return rng.choice(DIGESTS if roll < 0.8 else TRAVERSALS)

    def _reference(self) -> str:
        rng = self._random
        return rng.choice(
            ["v1", "latest", rng.choice(TRAVERSALS), self._digest(), "t" * 129, "-x", ".x", "a:b:c", "a@b"]
        )

    def _upload_id(self) -> str:
        rng = self._random
        real = rng.choice(self._known.uploads).rpartition("/")[2]
        forged = real[:-1] + rng.choice("0123456789abcdefg")
        return rng.choice(
            [
                real,
                forged,
                real.upper(),
                real + "/..",
                "../" + real,
                "0" * 32,
                "0" * 32 + "-" + "0" * 16,
                rng.choice(TRAVERSALS),
                real + "%00",
                real[:10],
            ]
        )

    def _target(self) -> str:
        rng, name = self._random, self._name()
        path = rng.choice(
            [
                f"/v2/{name}/manifests/{self._reference()}",
                f"/v2/{name}/blobs/{self._digest()}",
                f"/v2/{name}/blobs/uploads/",
                f"/v2/{name}/blobs/uploads/{self._upload_id()}",
                f"/v2/{name}/tags/list",
                f"/v2/{name}/referrers/{self._digest()}",
                "/v2/_catalog",
                f"/v2/{name}",
                f"/{rng.choice(TRAVERSALS)}",
                f"/v2/{rng.choice(TRAVERSALS)}{self._known.secret}",
                f"http://{rng.choice(TRAVERSALS)}/v2/{name}/tags/list",
                f"{rng.choice(['*', 'x', 'h:443', 'ftp://h/', '/v2', '//v2//', '/V2/', '/v2/%2e%2e/'])}",
            ]
        )
        if rng.random() < 0.3:
            path += "?" + "&".join(rng.choice(QUERIES) for _ in range(rng.randint(1, 3)))
        return path.replace(" ", "%20") if rng.random() < 0.95 else path

    def _extra(self) -> list[str]:
        rng = self._random
        chosen = [rng.choice(HEADERS) for _ in range(rng.randint(0, 2))]
        if rng.random() < 0.4:
            chosen.append(f"Range: {rng.choice(RANGES)}")
        if rng.random() < 0.2:
            chosen.append(f"Content-Range: {rng.choice(CONTENT_RANGES)}")
        return chosen

    # -- shapes

    def _request(self, shape: str, method: str, target: str, headers: list[str], body: bytes | None) -> Hostile:
        lines = [f"{method} {target} HTTP/1.1", "Host: h", *headers]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        raw = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")
        return Hostile(shape, method, raw)

    def _slots(self) -> Hostile:
        method = self._random.choice(METHODS)
        body = self._random.randbytes(self._random.randint(0, 300)) if method in ("PUT", "POST", "PATCH") else None
        return self._request("slots", method, self._target(), self._extra(), body)

    def _read(self) -> Hostile:
        """What is really there, under conditions that are not lawful."""
        rng = self._random
        kind = rng.choice(["blobs", "blobs", "manifests", "referrers"])
        target = f"/v2/{self._known.readable}/{kind}/{rng.choice(self._known.digests)}"
        return self._request(
            "read", rng.choice(["GET", "HEAD"]), target, [f"Range: {rng.choice(RANGES)}", *self._extra()], None
        )

    def _manifest(self) -> Hostile:
        rng = self._random
        target = f"/v2/hostile/{rng.choice('abc')}/manifests/{rng.choice(['v1', self._reference()])}"
        body = self._json()
        if rng.random() < 0.1:
            target = f"/v2/hostile/a/manifests/{digest_of(body)}?{rng.choice(QUERIES)}"
        headers = [f"Content-Type: {rng.choice(MEDIA_TYPES if rng.random() < 0.3 else [OCI_MANIFEST, OCI_INDEX])}"]
        return self._request("manifest", "PUT", target, headers, body)

    def _json(self) -> bytes:
        """A manifest of which one or a few fields are of the wrong kind, or no manifest at all."""
        rng = self._random
        good = {"mediaType": "a/b", "digest": rng.choice(self._known.digests), "size": 2}
        value: dict[str, object] = {"schemaVersion": 2, "config": good, "layers": [good], "annotations": {"a": "b"}}
        for _ in range(rng.randint(0, 3)):
            field = rng.choice(
                [
                    "schemaVersion",
                    "mediaType",
                    "config",
                    "layers",
                    "manifests",
                    "subject",
                    "annotations",
                    "artifactType",
                    "x",
                ]
            )
            value[field] = self._value(good)
        text = json.dumps(value)
        damage = rng.random()
        if damage < 0.6:
            return text.encode("utf-8", "surrogatepass")
        deep = rng.choice([70, 1000, 50_000])
        return rng.choice(
            [
                text[: rng.randrange(len(text))].encode(),
                b"[" * deep + b"]" * deep,
                b'{"a":' * deep + b"1" + b"}" * deep,
                text[:-1].encode() + b', "config": null, "config": {}}',
                text[:-1].encode() + b', "x": ' + b"9" * 20_000 + b"}",
                text[:-1].encode() + b', "x": 1e999999, "y": -0, "z": NaN}',
                text[:-1].encode() + b', "annotations": {"x": "\\ud800\\udfff\\udc00"}}',
                text[:-1].encode() + b', "\xff\xfe": 1}',
                b"\xef\xbb\xbf" + text.encode(),
                text.encode("utf-16"),
                text.encode() + b"\0" * 100,
                json.dumps({"layers": [{"a": [[]] * 50}] * 2000}).encode(),
                b'"' + b"\\u0000" * 1000 + b'"',
                b"",
                rng.randbytes(500),
            ]
        )

    def _value(self, good: dict[str, object]) -> object:
        rng = self._random
        return rng.choice(
            [
                None,
                True,
                -1,
                0,
                1.5,
                2**63,
                2**64,
                -(2**70),
                "",
                "x",
                "\0",
                "\ud800",
                "../../etc/passwd",
                "x" * 10_000,
                [],
                {},
                [[]],
                [None],
                [1],
                {"": ""},
                {"a": 1},
                {"a": None},
                [{}],
                {"digest": rng.choice(DIGESTS)},
                [{**good, "digest": rng.choice(DIGESTS)}],
                [{**good, "size": rng.choice([-1, 2**63, "2", None, 1.5, True])}],
                {**good, "mediaType": rng.choice([None, 1, "", "x", "\0/b"])},
                {**good, "annotations": {"a": rng.choice([None, 1, {}, "\ud800"])}},
                {**good, "urls": "x"},
                {**good, "platform": rng.choice([1, [], {"os": 1}])},
                {**good, "data": rng.choice(["!!", 1, "e30=", "e30"])},
                {**good, "artifactType": rng.choice([1, "x", "\r\nX: y"])},
                [good] * 500,
                good,
            ]
        )

    def _upload(self) -> Hostile:
        """On real uploads: ranges that lie, foreign repositories, digests that do not match."""
        rng = self._random
        path = rng.choice(self._known.uploads)
        if rng.random() < 0.3:
            path = path.replace("/v2/open/", f"/v2/{rng.choice(['other', 'open/x', self._known.repository])}/", 1)
        method = rng.choice(["PATCH", "PATCH", "PUT", "GET", "HEAD", "POST"])
        query = rng.choice(["", f"?digest={self._digest()}", f"?{rng.choice(QUERIES)}"]) if method == "PUT" else ""
        headers = [f"Content-Range: {rng.choice(CONTENT_RANGES)}"] if rng.random() < 0.7 else []
        body = rng.randbytes(rng.choice([0, 1, 10, 1000])) if method in ("PATCH", "PUT", "POST") else None
        return self._request("upload", method, path + query, headers, body)

    def _mount(self) -> Hostile:
        rng = self._random
        source = rng.choice(
            [self._known.readable, self._known.repository, "no/such", rng.choice(TRAVERSALS), "%2e%2e%2f%2e%2e"]
        )
        parameters = [f"mount={self._digest()}", f"from={source}", rng.choice(["", *QUERIES])]
        rng.shuffle(parameters)
        target = f"/v2/{rng.choice(['hostile/m', self._name()])}/blobs/uploads/?" + "&".join(parameters)
        return self._request("mount", "POST", target.replace(" ", "%20"), [], b"")

    def _chunked(self) -> Hostile:
        rng = self._random
        broken = rng.choice(CHUNKED)
        target = rng.choice(
            [*self._known.uploads, "/v2/hostile/a/manifests/v1", "/v2/hostile/a/blobs/uploads/", "/v2/"]
        )
        method = rng.choice(["PATCH", "PUT", "POST", "GET"])
        raw = f"{method} {target} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + broken
        return Hostile("chunked", method, raw, is_whole=False)

    def _smuggling(self) -> Hostile:
        rng = self._random
        framing = rng.choice(FRAMINGS)
        target = rng.choice(["/v2/", "/v2/hostile/a/manifests/v1", rng.choice(self._known.uploads)])
        method = rng.choice(["GET", "POST", "PUT", "PATCH"])
        raw = f"{method} {target} HTTP/1.1\r\nHost: h\r\n".encode() + framing + b"\r\n\r\n0\r\n\r\n" + SMUGGLED
        return Hostile("smuggling", method, raw, is_whole=False, is_trick=True)

    def _truncated(self) -> Hostile:
        rng = self._random
        target = rng.choice(
            [
                *self._known.uploads,
                "/v2/hostile/a/manifests/v1",
                f"/v2/hostile/a/blobs/uploads/?digest={rng.choice(self._known.digests)}",
            ]
        )
        method = rng.choice(["PATCH", "PUT", "POST"])
        body = rng.randbytes(rng.choice([0, 1, 100, 10_000]))
        head = f"{method} {target} HTTP/1.1\r\nHost: h\r\n"
        if rng.random() < 0.5:
            raw = f"{head}Content-Length: {len(body) + rng.choice([1, 300_000, 10**15])}\r\n\r\n".encode() + body
        else:
            raw = f"{head}Transfer-Encoding: chunked\r\n\r\n{len(body) + 1:x}\r\n".encode() + body
        if rng.random() < 0.2:
            raw = raw[: rng.randint(1, len(head))]
        return Hostile("truncated", method, raw, is_whole=False)

    def _headers(self) -> Hostile:
        rng = self._random
        headers = rng.choice(
            [
                [f"X-{n}: y" for n in range(rng.choice([90, 101, 1000, 5000]))],
                ["X: " + "y" * rng.choice([8000, 31_000, 33_000, 200_000])],
                ["X" * rng.choice([100, 5000, 40_000]) + ": y"],
                ["Cookie: a=b"] * 500,
                ["X: " + "".join(chr(rng.randrange(1, 256)) for _ in range(200)).replace("\r", "").replace("\n", "")],
            ]
        )
        target = rng.choice(
            [
                "/v2/",
                "/v2/" + "a" * rng.choice([7000, 9000, 40_000]),
                "/v2/a/tags/list?" + "n=1&" * rng.choice([100, 1800]),
            ]
        )
        return Hostile("headers", "GET", self._request("headers", "GET", target, headers, None).raw, is_whole=False)

    def _noise(self) -> Hostile:
        rng = self._random
        raw = rng.choice(
            [
                rng.randbytes(rng.randint(1, 3000)) + b"\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(300),
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"GET\r\n\r\n",
                b"GET /v2/\r\n\r\n",
                b"GET /v2/ HTTP/9.9\r\nHost: h\r\n\r\n",
                b"GET  /v2/  HTTP/1.1\r\nHost: h\r\n\r\n",
                b"get /v2/ HTTP/1.1\r\nHost: h\r\n\r\n",
                b"\r\n" * 5000,
                b"\0" * 5000,
                b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n",
                b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
                b"GET /v2/ HTTP/1.1\nHost: h\n\n",
                b"GET /v2/ HTTP/1.1\r\nHost: h\r\n\r\n" * 200,
                b"GET /v2/ HTTP/1.1\r\n\r\n",
                b"GET /v2/ HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n",
                b"TRACE /v2/ HTTP/1.1\r\nHost: h\r\n\r\n",
            ]
        )
        return Hostile("noise", "GET", raw, is_whole=False)
