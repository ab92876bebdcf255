"""Patterns, rules and what follows from them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.policy import ACTIONS, ALL, InvalidPattern, Rights, matches, parse_actions, parse_grant, parse_pattern
from storage.people import EVERYONE, Effect, Rule


def allow(subject: str, pattern: str, *actions: str) -> Rule:
    return Rule(subject, pattern, Effect.ALLOW, actions)


def deny(subject: str, pattern: str, *actions: str) -> Rule:
    return Rule(subject, pattern, Effect.DENY, actions)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("app", "app", True),
        ("app", "apps", False),
        ("*", "team/app", True),
        ("team/*", "team/app", True),
        ("team/*", "team/a/b", True),
        ("team/*", "team", False),
        ("team/*", "teams/app", False),
        ("*/app", "team/app", True),
        ("*/app", "app", False),
        ("a*b*c", "abc", True),
        ("a*b*c", "acb", False),
        ("a*a", "a", False),
        ("ab*ba", "aba", False),
        ("a*ab", "aab", True),
        ("**", "x", True),
    ],
)
def test_patterns(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


@given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
def test_a_pattern_matches_as_the_expression_does(pattern: str, name: str) -> None:
    expression = ".*".join(re.escape(piece) for piece in pattern.split("*"))
    assert matches(pattern, name) is (re.fullmatch(expression, name) is not None)


def test_a_long_hostile_pattern_is_no_work() -> None:
    assert matches("*a" * 120 + "*b", "a" * 250) is False


@pytest.mark.parametrize("text", ["", "Team/*", "team *", "a" * 300, "tëam", "a\n", "a?"])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(InvalidPattern, match="is not a pattern"):
        parse_pattern(text)


def test_actions_have_an_order_and_a_star() -> None:
    assert parse_actions("push,pull,push") == ("pull", "push")
    assert parse_actions("*") == ACTIONS
    for bad in ("", "read", "pull,", "pull push"):
        with pytest.raises(InvalidPattern, match="is not an action"):
            parse_actions(bad)


def test_a_grant_in_one_word() -> None:
    assert parse_grant("team/*:pull,push") == ("team/*", ("pull", "push"))
    with pytest.raises(InvalidPattern, match="is not PATTERN:ACTIONS"):
        parse_grant("team/app")


def test_nothing_is_allowed_without_a_rule() -> None:
    assert Rights([]).of("team/app") == frozenset()


def test_rules_add_up_and_a_denial_beats_them_all() -> None:
    rules = [allow("bob", "team/*", "pull"), allow("group:dev", "team/app", "push"), deny("bob", "team/secret", "pull")]
    rights = Rights(rules)
    assert rights.of("team/app") == {"pull", "push"}
    assert rights.of("team/other") == {"pull"}
    assert rights.of("team/secret") == frozenset()
    assert Rights([deny(EVERYONE, "x/*", "push")], is_admin=True).of("x/a") == ALL - {"push"}


def test_admin_of_a_pattern_may_do_the_rest() -> None:
    assert Rights([allow("bob", "team/*", "admin")]).of("team/app") == ALL


def test_a_user_owns_what_is_below_the_name() -> None:
    rights = Rights([], owns="bob")
    assert rights.of("bob/app") == rights.of("bob/a/b") == ALL
    assert rights.of("bob") == rights.of("bobby/app") == frozenset()


def test_a_limited_credential_gives_no_more_than_its_limits() -> None:
    rules = [allow("bob", "*", "pull", "push")]
    rights = Rights(rules, limits=["team/*:pull", "lib/*:admin"])
    assert rights.of("team/app") == {"pull"}
    assert rights.of("lib/a") == {"pull", "push"}, "the limits add nothing to the rules"
    assert rights.of("other") == frozenset()
    assert Rights([], is_admin=True, limits=["a:pull"]).of("a") == {"pull"}


@pytest.mark.parametrize(
    ("rights", "repository", "said"),
    [
        (Rights([]), "a", "no rule allows it"),
        (Rights([allow("bob", "a*", "pull")]), "app", "the rule that allows bob pull on a*"),
        (
            Rights([allow("bob", "*", "pull"), deny("group:x", "a", "pull", "push")]),
            "a",
            "denies group:x pull,push on a",
        ),
        (Rights([], is_admin=True), "a", "an administrator"),
        (Rights([], owns="bob"), "bob/a", "the owner of bob/*"),
        (Rights([], is_admin=True, limits=["b:pull"]), "a", "the token that is used is limited"),
    ],
)
def test_the_reason_is_said(rights: Rights, repository: str, said: str) -> None:
    reasons = {reason.action: reason for reason in rights.explain(repository)}
    assert list(reasons) == list(ACTIONS)
    assert said in reasons["pull"].because
    assert reasons["pull"].is_allowed is ("pull" in rights.of(repository))
