from __future__ import annotations

import json

from registry.errors import error_response, is_expected
from storage.errors import DatabaseUnavailable


def test_a_database_that_is_away_is_a_503_to_be_tried_again_that_does_not_say_where_it_is() -> None:
    error = DatabaseUnavailable("connection to db.internal failed", 5.04)
    answer = error_response(error, "r-1")
    assert is_expected(error)
    assert (answer.status, dict(answer.headers)[b"retry-after"]) == (503, b"1")
    assert isinstance(answer.body, bytes)
    (told,) = json.loads(answer.body)["errors"]
    assert told["code"] == "UNAVAILABLE"
    assert told["message"].startswith("the registry's database did not answer, tried for 5.0 s; nothing was changed.")
    assert "db.internal" not in told["message"]
