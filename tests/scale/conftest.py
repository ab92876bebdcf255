"""A scaled hub with accounts, which many tests share; each takes repositories and people of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import s3
from tests.postgres import Postgres
from tests.scale.hub import Scaled, scaled


@pytest.fixture(scope="module", params=s3.SERVERS)
def hub(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: Postgres
) -> Iterator[Scaled]:
    with scaled(tmp_path_factory.mktemp("scaled"), postgres_server, kind=request.param) as running:
        yield running
