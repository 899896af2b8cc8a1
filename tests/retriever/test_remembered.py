from clickloop.retriever.remembered import Remembered, size
from clickloop.retriever.types import Document

ONE, TWO, THREE = (Document(name, text=name) for name in ("one", "two", "three"))


def test_what_was_written_since_is_forgotten() -> None:
    remembered = Remembered()
    remembered.advance(5, None)
    remembered.learn(5, {1: ONE, 2: TWO})
    remembered.advance(6, [2])
    assert remembered.take([1, 2, 3]) == (6, {1: ONE})
    remembered.advance(9, None)
    assert remembered.take([1]) == (9, {})


def test_what_was_read_before_a_write_is_not_taken_for_new() -> None:
    remembered = Remembered()
    remembered.advance(6, None)
    remembered.learn(5, {1: ONE})
    assert remembered.take([1]) == (6, {})


def test_an_older_look_changes_nothing() -> None:
    remembered = Remembered()
    remembered.advance(6, None)
    remembered.learn(6, {1: ONE})
    remembered.advance(5, [1])
    assert remembered.take([1]) == (6, {1: ONE})


def test_it_is_bounded_in_bytes_and_keeps_what_was_shown_last() -> None:
    remembered = Remembered(most=size(ONE) + size(THREE))
    remembered.advance(1, None)
    remembered.learn(1, {1: ONE})
    remembered.learn(1, {2: TWO})
    remembered.take([1])
    remembered.learn(1, {3: THREE})
    assert remembered.take([1, 2, 3]) == (1, {1: ONE, 3: THREE})
