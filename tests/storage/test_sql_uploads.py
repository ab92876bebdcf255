from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.sqlite import SQLiteDatabase
from tests.storage.uploads_conformance import UploadFactsConformance


class TestSQLite(UploadFactsConformance):
    @pytest.fixture
    def database(self, tmp_path: Path) -> Iterator[SQLiteDatabase]:
        opened = SQLiteDatabase(tmp_path)
        yield opened
        opened.close()
