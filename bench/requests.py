"""Rows of small requests: manifests, small blobs, one more tag, pages of tags and of the catalogue."""

from __future__ import annotations

import json
import statistics
import time

from bench.content import ACCEPT, SmallImage, digest_of, small_image
from bench.filesystem import BenchError
from bench.prepare import REPOSITORY, SEED, check_tags, push_small, put_manifest, repository_name, tag_name
from bench.sampling import Session
from bench.wire import gets

TAGS = 20_000
REPOSITORIES = 2_000
MANY_REPOSITORIES = 50_000
PAGE = 100
MORE_TAGS = 40
ONE = f"/v2/{SEED}/manifests/one"
"""The tag of the one small image."""


def manifest(session: Session) -> None:
    seed(session)
    session.requests_per_second(gets([ONE], ACCEPT))


def manifest_many(session: Session) -> None:
    """A hundred tags in turn, spread over all of them."""
    check_tags(session.running, TAGS)
    names = [tag_name(number) for number in range(0, TAGS, TAGS // 100)]
    session.requests_per_second(gets((f"/v2/{REPOSITORY}/manifests/{name}" for name in names), ACCEPT))


def manifest_each(session: Session) -> None:
    """Each of the tags in turn: no answer is asked for again before all the others were."""
    check_tags(session.running, TAGS)
    targets = (f"/v2/{REPOSITORY}/manifests/{tag_name(number)}" for number in range(TAGS))
    session.requests_per_second(gets(targets, ACCEPT))


def blob(session: Session) -> None:
    image = seed(session)
    session.requests_per_second(gets([f"/v2/{SEED}/blobs/{digest_of(image.config)}"]))


def tag_one(session: Session) -> None:
    seed(session)
    _more_tags(session, SEED)


def tag_many(session: Session) -> None:
    check_tags(session.running, TAGS)
    _more_tags(session, REPOSITORY)


def tags(session: Session) -> None:
    _page(session, f"/v2/{REPOSITORY}/tags/list?n={PAGE}", "tags")


def tags_last(session: Session) -> None:
    _page(session, f"/v2/{REPOSITORY}/tags/list?n={PAGE}&last={tag_name(TAGS // 2)}", "tags")


def catalogue(session: Session) -> None:
    _page(session, f"/v2/_catalog?n={PAGE}", "repositories")


def catalogue_last(session: Session) -> None:
    _page(session, f"/v2/_catalog?n={PAGE}&last={repository_name(REPOSITORIES // 2)}", "repositories")


def catalogue_many_last(session: Session) -> None:
    _page(session, f"/v2/_catalog?n={PAGE}&last={repository_name(MANY_REPOSITORIES // 2)}", "repositories")


def seed(session: Session, authorization: str = "") -> SmallImage:
    """One small image under one tag, `ONE`."""
    image = small_image()
    with session.connect(authorization) as connection:
        push_small(connection, SEED, "one", image)
    return image


def _more_tags(session: Session, repository: str) -> None:
    """Tag a manifest that is there again and again, one at a time; the value is the median in ms.

    The names sort after all others and differ from turn to turn, so that each is a new tag.
    """
    image = small_image()
    turn = time.time_ns()
    with session.connect() as connection:
        for number in range(5):
            put_manifest(connection, repository, f"warm-{turn}-{number}", image.manifest)
        with session.meter(MORE_TAGS) as sample:
            times = []
            for number in range(MORE_TAGS):
                began = time.monotonic()
                put_manifest(connection, repository, f"w-{turn}-{number}", image.manifest)
                times.append(time.monotonic() - began)
            sample.value = statistics.median(times) * 1000


def _page(session: Session, target: str, key: str) -> None:
    """A page of a list; it must be full."""
    with session.connect() as connection:
        response = connection.request("GET", target).expect(200, f"GET {target}")
    names = json.loads(response.body)[key]
    if len(names) != PAGE:
        raise BenchError(f"GET {target} gave {len(names)} names instead of {PAGE}")
    session.requests_per_second(gets([target]))
