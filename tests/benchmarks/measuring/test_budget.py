"""A budget of seconds on a clock of its own: what fits is done, what does not is named."""

from benchmarks.measuring.budget import Budget


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_what_still_fits_is_admitted_and_what_does_not_is_named():
    clock = Clock()
    budget = Budget(100.0, clock)
    assert budget.admits("ours", 60.0)
    assert not budget.admits("theirs", 40.0)  # a twentieth is kept for the end
    assert budget.admits("others", 30.0)
    clock.now = 50.0
    assert not budget.admits("late", 0.0)
    assert budget.left_out == ["theirs", "late"]


def test_what_is_prepared_is_thought_to_take_as_long_as_the_longest_before():
    clock = Clock()
    budget = Budget(100.0, clock)

    def slow():
        clock.now += 50.0
        return "there"

    assert budget.prepared("first", slow) == "there"
    assert budget.prepared("second", slow) is None
    assert budget.left_out == ["second"]


def test_parts_are_equal_and_what_they_leave_out_is_named_in_the_whole():
    clock = Clock()
    budget = Budget(100.0, clock)
    first = budget.share(2)
    assert first.remaining() == 47.5
    assert not first.admits("too long", 60.0)
    clock.now = 20.0  # what the first did not need is the second's
    assert budget.share(1).remaining() == 75.0
    assert budget.left_out == ["too long"]
