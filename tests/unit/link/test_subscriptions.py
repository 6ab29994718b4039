"""Which filters are wanted, and which are dropped once others are answered."""

from __future__ import annotations

from atoll_link.subscriptions import Subscriptions


def test_what_leaves_stays_until_the_broker_has_answered_for_all_others():
    subscriptions = Subscriptions()
    subscriptions.want("old", 1)
    subscriptions.want("new", 1)
    subscriptions.ask(1, ["new"], 0.0)
    subscriptions.ask(2, ["newer"], 0.0)

    subscriptions.leave("old")
    assert ("old", 1) in subscriptions.wanted
    subscriptions.answer(1, [None])
    assert subscriptions.take_leaving() == []
    subscriptions.answer(2, [None])

    assert subscriptions.take_leaving() == ["old"]
    assert subscriptions.take_leaving() == []


def test_what_is_wanted_again_does_not_leave():
    subscriptions = Subscriptions()
    subscriptions.want("a", 1)
    subscriptions.leave("a")

    subscriptions.want("a", 1)

    assert subscriptions.take_leaving() == []
