"""Tags, the catalogue and referrers, a page at a time (distribution-spec end-8 and end-12; the catalogue is Docker's)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterable
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from auth.identity import Identity
from oci import mediatypes
from oci.digest import Digest
from oci.errors import ErrorCode
from registry.errors import RequestError
from registry.messages import Request, Response, with_body
from registry.routes import Route
from storage.metadata import Page, ReferrersPage

PAGE_MAX = 10_000
"""Names on a page where the client asks for more, or does not say how many: there is a Link to the rest."""
CATALOG_BATCH = 500
"""Repositories that are looked at in one go for a caller who may not see all."""
REFERRERS_BYTES_MAX = 4 * 1024 * 1024
"""The size of a page of referrers: what every client takes as a manifest."""
REFERRERS_BATCH = 500


class Lists(Protocol):
    """The part of the metadata that lists need."""

    def list_tags(self, repository: str, limit: int, after: str) -> Page | None: ...
    def list_repositories(self, limit: int, after: str) -> Page: ...
    def list_referrers(
        self, repository: str, subject: Digest, artifact_type: str | None, limit: int, after: str
    ) -> ReferrersPage: ...


class ListHandlers:
    """The end-points that list."""

    def __init__(self, lists: Lists) -> None:
        self._lists = lists

    def tags(self, request: Request, route: Route) -> Response:
        """A page of a repository's tags, in byte order."""
        limit, after = _page(request)
        page = self._lists.list_tags(route.repository, limit, after)
        if page is None:
            raise RequestError(ErrorCode.NAME_UNKNOWN, f"the repository {route.repository} does not exist")
        body = {"name": route.repository, "tags": page.names}
        return _names(body, f"/v2/{route.repository}/tags/list", page, limit)

    def catalog(self, request: Request, route: Route) -> Response | Awaitable[Response]:
        """A page of the names of the repositories that the caller may see, in byte order."""
        limit, after = _page(request)
        if request.identity.is_open:
            page = self._lists.list_repositories(limit, after)
            return _names({"repositories": page.names}, "/v2/_catalog", page, limit)
        return self._visible_catalog(request.identity, limit, after)

    async def _visible_catalog(self, who: Identity, limit: int, after: str) -> Response:
        names: list[str] = []
        more = True
        while more and len(names) <= limit:
            page = self._lists.list_repositories(CATALOG_BATCH, after)
            names += [name for name in page.names if who.may_see(name)]
            more = page.more
            after = page.names[-1] if page.names else after
            await asyncio.sleep(0)  # a turn for the others: who may see little makes us look through all
        visible = Page(names[:limit], len(names) > limit)
        response = _names({"repositories": visible.names}, "/v2/_catalog", visible, limit)
        response.is_reusable = False
        return response

    def referrers(self, request: Request, route: Route) -> Response:
        """The manifests whose subject is a digest, as an image index; empty for what is not known."""
        subject = route.reference
        assert isinstance(subject, Digest)
        artifact_type = request.parameter("artifactType") or None
        after = request.parameter("last") or ""
        chosen: list[dict[str, Any]] = []
        size = 200
        more = True
        while more:
            page = self._lists.list_referrers(route.repository, subject, artifact_type, REFERRERS_BATCH, after)
            more = page.more
            for descriptor in page.descriptors:
                item = descriptor.to_json()
                size += len(json.dumps(item)) + 2
                if size > REFERRERS_BYTES_MAX and chosen:
                    return _referrers(route.repository, subject, artifact_type, chosen, after)
                chosen.append(item)
                after = str(descriptor.digest)
        return _referrers(route.repository, subject, artifact_type, chosen, None)


def _referrers(
    repository: str, subject: Digest, artifact_type: str | None, chosen: list[dict[str, Any]], last: str | None
) -> Response:
    index = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": chosen}
    headers: list[tuple[bytes, bytes]] = []
    if artifact_type is not None:
        headers.append((b"oci-filters-applied", b"artifactType"))
    if last is not None:
        parameters = {"last": last} | ({"artifactType": artifact_type} if artifact_type is not None else {})
        headers.append(_next(f"/v2/{repository}/referrers/{subject}", parameters.items()))
    return with_body(200, mediatypes.OCI_INDEX, json.dumps(index).encode("ascii"), headers)


def _names(body: dict[str, Any], path: str, page: Page, limit: int) -> Response:
    headers = []
    if page.more and page.names:
        headers.append(_next(path, (("n", str(limit)), ("last", page.names[-1]))))
    response = with_body(200, "application/json", json.dumps(body).encode("ascii"), headers)
    response.is_reusable = True
    return response


def _next(path: str, parameters: Iterable[tuple[str, str]]) -> tuple[bytes, bytes]:
    """A Link header to the following page (RFC 8288)."""
    query = urlencode(list(parameters), quote_via=quote)
    return b"link", f'<{path}?{query}>; rel="next"'.encode("ascii")


def _page(request: Request) -> tuple[int, str]:
    """How many names, and the one they follow, from ``n`` and ``last``; RequestError PAGINATION_NUMBER_INVALID."""
    after = request.parameter("last") or ""
    text = request.parameter("n")
    if text is None:
        return PAGE_MAX, after
    if not (text.isascii() and text.isdigit()):
        raise RequestError(
            ErrorCode.PAGINATION_NUMBER_INVALID, f"n={text[:40]!r} is not a number of results, 0 or more"
        )
    return min(int(text.lstrip("0")[:9] or "0"), PAGE_MAX), after
