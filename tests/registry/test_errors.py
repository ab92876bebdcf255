from __future__ import annotations

import json

from registry.errors import error_response, is_expected
from storage.errors import DatabaseUnavailable, StoreUnavailable


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


def test_a_store_that_is_unavailable_is_asked_again_in_a_moment() -> None:
    error = StoreUnavailable("PutObject", "images", "SlowDown", 503, "R1", "The service asks for fewer requests")
    assert is_expected(error)
    response = error_response(error, "id")
    assert response.status == 503
    assert (b"retry-after", b"1") in response.headers
    assert isinstance(response.body, bytes)
    (told,) = json.loads(response.body)["errors"]
    assert told["code"] == "UNAVAILABLE"
    assert "SlowDown (HTTP 503, request R1)" in told["message"]
