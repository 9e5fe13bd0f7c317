from rocketry_otel._history.streams.base import Place


def test_place_has_met_the_same_records() -> None:
    """The keys are compared whatever their order; keys behind the place do not count."""
    place = Place()
    for key in (1, 3, 2):
        place.pass_by(key)
    assert place.has_met_all([3, 1, 2, 4], lambda: True)


def test_place_has_not_met_a_late_record() -> None:
    """A record became visible before the place after the reading had passed."""
    place = Place()
    for key in (1, 3):
        place.pass_by(key)
    assert not place.has_met_all([1, 2, 3], lambda: True)


def test_place_has_met_a_record_that_is_gone() -> None:
    """The last record was removed meanwhile: the end of the keys comes first."""
    place = Place()
    for key in (1, 2):
        place.pass_by(key)
    assert not place.has_met_all([1], lambda: True)
