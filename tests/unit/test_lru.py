from wscore.lru import Recent


def test_values_are_made_once():
    made = []
    recent = Recent(10)
    for _ in range(3):
        assert recent.get("a", lambda: made.append("a") or len(made), size=lambda _: 1) == 1
    assert made == ["a"]


def test_the_oldest_are_dropped_when_it_is_full():
    recent = Recent(10)
    for key in "abc":
        recent.get(key, lambda key=key: key, size=lambda _: 4)
    assert len(recent) == 2
    assert recent.get("c", lambda: "new", size=lambda _: 4) == "c"
    assert recent.get("a", lambda: "new", size=lambda _: 4) == "new"


def test_the_newest_is_kept_however_large():
    recent = Recent(10)
    recent.get("a", lambda: "a", size=lambda _: 100)
    recent.get("b", lambda: "b", size=lambda _: 100)
    assert len(recent) == 1
    assert recent.get("b", lambda: "new", size=lambda _: 1) == "b"
