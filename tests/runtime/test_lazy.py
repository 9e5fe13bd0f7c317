from __future__ import annotations

from rocketry_otel._runtime.lazy import lazy


class Circle:
    """A class with an attribute that is made once."""

    def __init__(self, radius: int) -> None:
        self.radius = radius
        self.made = 0

    @lazy
    def diameter(self) -> int:
        """Twice the radius."""
        self.made += 1
        return 2 * self.radius


def test_attribute_is_made_once_for_each_object() -> None:
    """It is not made before it is read."""
    one, other = Circle(1), Circle(2)
    assert one.made == 0
    assert [one.diameter, one.diameter, other.diameter] == [2, 2, 4]
    assert (one.made, other.made) == (1, 1)
    assert vars(Circle)["diameter"].__doc__ == "Twice the radius."
