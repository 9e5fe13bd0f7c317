import subprocess
import sys
import traceback

import pytest

from rocketry_otel._model.tracebacks import ExceptionInfo, exception_from_text, exception_of
from tests.support.records import raised


class CustomError(Exception):
    pass


class SilentError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def printed(error: BaseException) -> str:
    """Return the traceback of an error as Python prints it."""
    return "".join(traceback.format_exception(*raised(error))).rstrip("\n")


def chained() -> BaseException:
    """Return an error with a cause."""
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise CustomError("outer") from error
    except CustomError as error:
        return error


def context_chained() -> BaseException:
    """Return an error that was raised while another was handled."""
    try:
        try:
            raise KeyError("inner")
        except KeyError:
            raise ValueError("outer\nin two lines")  # noqa: B904
    except ValueError as error:
        return error


ERRORS = [
    ValueError("boom"),
    ValueError(""),
    ValueError("two\nlines: with colons\n\nand a gap"),
    KeyError("x"),
    CustomError("own"),
    SyntaxError("bad", ("file.py", 1, 2, "x y", 1, 3)),
    OSError(2, "No such file", "x"),
    chained(),
    context_chained(),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_text_and_exception_agree(
    error: BaseException,
) -> None:
    """A child process leaves only text, which gives the same exception as a thread."""
    live = exception_of({"exc_info": raised(error)})
    from_text = exception_from_text(printed(error))
    assert live is not None
    assert from_text.type == live.type
    assert type(error).__qualname__ in (live.type or "")
    if not isinstance(error, SyntaxError):
        assert from_text.message == live.message


def test_exception_has_its_qualified_name() -> None:
    """The name includes the module, but for built-in exceptions."""
    info = exception_of({"exc_info": raised(CustomError("own"))})
    assert info is not None
    assert (info.type, info.message) == (f"{__name__}.CustomError", "own")
    builtin = exception_of({"exc_info": raised(ValueError("own"))})
    assert builtin is not None
    assert builtin.type == "ValueError"


def test_main_module_is_not_named() -> None:
    """As Python prints it, so that it is the same in a child process by fork and by spawn."""
    code = (
        "from rocketry_otel._model.tracebacks import exception_of\n"
        "class Own(Exception): pass\n"
        "print(exception_of({'exc_info': (Own, Own('x'), None)}).type)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "Own\n"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are new in 3.11")
def test_exception_group_is_named_by_itself() -> None:
    """Of a group the group's own type and message are shown, not those inside."""
    group = ExceptionGroup("two things", [ValueError("a"), KeyError("b")])  # noqa: F821
    info = exception_from_text(printed(group))
    assert info.type == "ExceptionGroup"
    assert info.message == "two things (2 sub-exceptions)"


def test_printed_exception_group_is_named_by_itself() -> None:
    """A record of a newer Python is understood by an older one."""
    text = """\
  + Exception Group Traceback (most recent call last):
  |   File "tasks.py", line 3, in etl
  |     raise ExceptionGroup("two things", [ValueError("a"), KeyError("b")])
  | ExceptionGroup: two things (2 sub-exceptions)
  +-+---------------- 1 ----------------
    | ValueError: a
    +---------------- 2 ----------------
    | KeyError: 'b'
    +------------------------------------
"""
    info = exception_from_text(text)
    assert info.type == "ExceptionGroup"
    assert info.message == "two things (2 sub-exceptions)"


ODD = [
    None,
    True,
    (),
    (None, None, None),
    ("a", "b", "c"),
    42,
    "",
]


@pytest.mark.parametrize("exc_info", ODD, ids=repr)
def test_other_values_give_no_exception(exc_info: object) -> None:
    """An ``exc_info`` of any shape that names no exception gives none."""
    assert exception_of({"exc_info": exc_info}) is None
    assert exception_of({}) is None


def test_exception_in_odd_shapes_is_found() -> None:
    """An instance alone, a type alone and a pair name their exception as well."""
    error = ValueError("boom")
    assert exception_of({"exc_info": error}) == ExceptionInfo(
        "ValueError", "boom", "ValueError: boom"
    )
    assert exception_of({"exc_info": (ValueError,)}) == ExceptionInfo("ValueError", None, None)
    assert exception_of({"exc_info": (ValueError, "text", None)}) == ExceptionInfo(
        "ValueError", "text", None
    )
    assert exception_of({"exc_info": (ValueError, error)}) == ExceptionInfo(
        "ValueError", "boom", "ValueError: boom"
    )


def test_exc_info_that_is_text_is_the_traceback() -> None:
    """Rocketry puts the text of a child's traceback in the place of ``exc_info``."""
    text = printed(ValueError("boom"))
    assert exception_of({"exc_info": text}) == ExceptionInfo("ValueError", "boom", text)
    assert exception_of({"exc_info": None, "exc_text": text}) == ExceptionInfo(
        "ValueError", "boom", text
    )


def test_stored_type_and_message_win_over_the_text() -> None:
    """A stored exception is read back as the live one."""
    fields = {"exc_text": "garbage", "exc_type": "a.B", "exc_message": "m"}
    assert exception_of(fields) == ExceptionInfo("a.B", "m", "garbage")
    assert exception_of({"exc_type": "a.B"}) == ExceptionInfo("a.B", None, None)


def test_unprintable_exception_has_its_name() -> None:
    """An exception whose ``__str__`` raises has its type and a substitute message."""
    info = exception_of({"exc_info": raised(SilentError())})
    assert info is not None
    assert info.type == f"{__name__}.SilentError"
    assert info.message == "<SilentError that cannot be shown>"
    assert info.stacktrace is not None


def test_traceback_that_cannot_be_formatted_is_left_out() -> None:
    """An exception that breaks the traceback module leaves its type and message."""

    class Broken(Exception):
        @property
        def __cause__(self) -> BaseException:  # type: ignore[override]
            raise RuntimeError("no")

    info = exception_of({"exc_info": (Broken, Broken("x"), None)})
    assert info == ExceptionInfo(Broken.__module__ + "." + Broken.__qualname__, "x", None)


@pytest.mark.parametrize("text", ["", "no traceback here, but words", "  indented", "\n\n"])
def test_text_that_is_no_traceback_is_kept_as_it_is(text: str) -> None:
    """Nothing is made up about a text that nothing can be read from."""
    assert exception_from_text(text) == ExceptionInfo(None, None, text)


def test_no_exception_is_not_taken_for_one() -> None:
    """`logging` prints a line for ``exc_info=True`` outside of an ``except`` block."""
    assert exception_of({"exc_info": (None, None, None), "exc_text": "NoneType: None"}) is None


def test_text_of_another_handler_does_not_win() -> None:
    """What was raised is there: its own traceback counts."""
    info = raised(ValueError("boom"))
    found = exception_of({"exc_info": info, "exc_text": "one line"})
    assert found is not None
    assert found.stacktrace is not None
    assert found.stacktrace.endswith("ValueError: boom")


def test_traceback_is_found_in_the_message() -> None:
    """A queue handler leaves it there alone."""
    text = "".join(traceback.format_exception(*raised(ValueError("boom"))))
    found = exception_of({}, None, f"Task 'etl' status: 'fail'\n{text}")
    assert found is not None
    assert (found.type, found.stacktrace) == ("ValueError", text)
    assert exception_of({}, None, "Task 'etl' status: 'fail'") is None


@pytest.mark.parametrize(
    "message",
    [
        "Worker failed:\nTraceback (most recent call last):\n  File\nKeyError: 'x'",
        "a\n\nDuring handling of the above exception, another exception occurred:\n\nb",
        "first\n\nsecond",
    ],
)
def test_message_that_looks_like_a_traceback_is_whole(message: str) -> None:
    """A line of a chain counts as one only where a traceback follows it."""
    text = "".join(traceback.format_exception(*raised(RuntimeError(message)))).rstrip("\n")
    found = exception_from_text(text)
    assert (found.type, found.message) == ("RuntimeError", message)
