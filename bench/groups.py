"""Which rows share a running server, what is prepared for them, and which disk they get."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import accounts, clients, requests, secure, transfers
from bench.goals import ZB_TESTS, zb_row
from bench.prepare import many_repositories, many_tags
from bench.remote import Remote
from bench.sampling import Session
from bench.servers import DISTRIBUTION, PORTSIDE, ZOT, ZOT_NO_SYNC, Server
from bench.setups import Material, Passwords, Setup, Tls, Tokens, plain

Measure = Callable[[Session], None]
Prepare = Callable[[Server, Path, Callable[[str], None]], None]

DURABLE = (PORTSIDE, DISTRIBUTION, ZOT)


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that run one after the other on one start of a server.

    Without ``prepare`` every turn of every server has a file system made anew. With it, each server's store is prepared once and
    kept for all rounds.
    """

    name: str
    rows: Mapping[str, Measure]
    servers: tuple[str, ...] = DURABLE
    prepare: Prepare | None = None
    needs: str = ""
    """A tool without which the group is left out: crane, zb, docker or versitygw."""
    images: tuple[str, ...] = ()
    """Sizes of the images that the Docker daemon is given."""
    setup: Callable[[Material], Setup] = plain

    @property
    def keeps_disk(self) -> bool:
        """Whether what one turn leaves on the disk is needed in the next."""
        return self.prepare is not None or self.needs == "docker"


def start(session: Session) -> None:
    with session.meter(1.0) as sample:
        sample.value = session.running.start_seconds


def idle(session: Session) -> None:
    """Resident memory a second after the start, with nothing asked but ``/v2/``."""
    with session.meter(1.0) as sample:
        time.sleep(1.0)
        sample.value = session.running.tree.resident_bytes() / 1e6


GROUPS: tuple[Group, ...] = (
    Group("start", {"start": start, "idle": idle}),
    Group("get", {"get": transfers.get}),
    Group("put", {"put": transfers.put}, (*DURABLE, ZOT_NO_SYNC)),
    Group("patch", {"patch": transfers.patch}, (*DURABLE, ZOT_NO_SYNC)),
    Group("stream", {"stream": transfers.stream}, (*DURABLE, ZOT_NO_SYNC)),
    Group("four", {"four": transfers.four}),
    Group("small", {"manifest": requests.manifest, "blob": requests.blob, "tag-one": requests.tag_one}),
    Group(
        "tags",
        {
            "manifest-many": requests.manifest_many,
            "manifest-each": requests.manifest_each,
            "tags": requests.tags,
            "tags-last": requests.tags_last,
            "tag-many": requests.tag_many,
        },
        prepare=lambda server, root, progress: many_tags(server, root, requests.TAGS, progress),
    ),
    Group(
        "catalogue",
        {"catalogue": requests.catalogue, "catalogue-last": requests.catalogue_last},
        prepare=lambda server, root, progress: many_repositories(server, root, requests.REPOSITORIES, progress),
    ),
    Group(
        "catalogue-many",
        {"catalogue-many": requests.catalogue, "catalogue-many-last": requests.catalogue_many_last},
        # zot reads its whole tree after every start, for hours with so many repositories.
        servers=(PORTSIDE, DISTRIBUTION),
        prepare=lambda server, root, progress: many_repositories(server, root, requests.MANY_REPOSITORIES, progress),
    ),
    Group("crane", clients.CRANE_ROWS, needs="crane"),
    Group("docker", clients.DOCKER_ROWS, needs="docker", images=clients.LARGE),
    # zb drops the query of an upload's Location, where distribution keeps the upload's state: it cannot push there.
    Group("zb", {zb_row(test): partial(clients.zb, test) for test in ZB_TESTS}, (PORTSIDE, ZOT), needs="zb"),
    Group("fair", {"fair-down": transfers.fair_down, "fair-up": transfers.fair_up}),
    # A bound of ours: distribution takes minutes for it, and zot cuts downloads that last longer than a minute.
    Group("hundred", {"hundred": transfers.hundred}, (PORTSIDE,)),
    Group("tokens", {"manifest-token": accounts.manifest_token}, setup=Tokens),
    Group("passwords", {"manifest-basic": accounts.manifest_basic}, setup=Passwords),
    # The others issue no tokens.
    Group(
        "issue",
        {
            "token-get": accounts.token_get,
            "token-post": accounts.token_post,
            "token-refresh": accounts.token_refresh,
        },
        (PORTSIDE,),
        setup=Tokens,
    ),
    Group("log-ins", {"fair-log-ins": accounts.fair_log_ins}, (PORTSIDE,), setup=Tokens),
    Group(
        "docker-log-in",
        {"docker-log-in": clients.docker_login},
        (PORTSIDE,),
        needs="docker",
        images=(clients.SMALL,),
        setup=Tokens,
    ),
    Group("tls-get", {"tls-get": secure.get}, setup=Tls),
    Group("tls-put", {"tls-put": secure.put}, setup=Tls),
    *(
        Group(f"s3-{name}", {f"s3-{name}": measure}, (PORTSIDE, DISTRIBUTION), needs="versitygw", setup=Remote)
        for name, measure in (("put", transfers.put), ("four", transfers.four), ("get", transfers.get))
    ),
    Group(
        "s3-small",
        {"s3-manifest": requests.manifest, "s3-tag": requests.tag_one},
        (PORTSIDE, DISTRIBUTION),
        needs="versitygw",
        setup=Remote,
    ),
    Group("tls-small", {"tls-manifest": requests.manifest, "tls-handshakes": secure.handshakes}, setup=Tls),
)
