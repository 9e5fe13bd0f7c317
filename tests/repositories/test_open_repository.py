"""Opening by URL: the right repository, refusals, and hidden secrets."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketry_otel._errors import RepositoryError, RepositoryURLError
from rocketry_otel._repositories.open_repository import open_repository
from rocketry_otel._repositories.urls import mask_url, without_secrets
from tests.support.processes import run_python

from .records import record


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://?max_records=5", "memory://?max_records=5"),
        ("csv:///var/lib/x.csv", "csv:///var/lib/x.csv"),
        ("sqlite:////var/lib/x.db?timeout=1", "sqlite:////var/lib/x.db?timeout=1"),
        ("postgresql://u@h:5432/d", "postgresql://u@h:5432/d"),
        ("postgresql://h:5432/d?sslmode=require", "postgresql://h:5432/d?sslmode=require"),
        ("postgresql://u:p@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:@h/d", "postgresql://u:***@h/d"),
        ("postgresql://:p@h/d", "postgresql://:***@h/d"),
        ("postgresql://u:p@q@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:p/q?r#s&t=1@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u/v:p@h/d", "postgresql://u/v:***@h/d"),
        ("postgresql:///u:p@h/d", "postgresql:///u:***@h/d"),
        ("postgresql:/u:p@h/d", "postgresql:/u:***@h/d"),
        ("postgresql:u:p@h/d", "postgresql:***@h/d"),
        ("u:p@h/d", "u:***@h/d"),
        ("mongodb://u:p@h1:1,h2:2/d", "mongodb://u:***@h1:1,h2:2/d"),
        ("mongodb://h1:1,h2:2/d?w=1", "mongodb://h1:1,h2:2/d?w=1"),
        ("postgresql://h/d?password=p&user=u", "postgresql://h/d?password=***&user=u"),
        ("postgresql://h/d?user=u&PassWord=p", "postgresql://h/d?user=u&PassWord=***"),
        ("postgresql://h/d?p%61ssword=p", "postgresql://h/d?p%61ssword=***"),
        ("mysql://h/d?ssl_key=k;pwd=x", "mysql://h/d?ssl_key=***;pwd=***"),
        (
            "mongodb://h/?tlsCertificateKeyFilePassword=p",
            "mongodb://h/?tlsCertificateKeyFilePassword=***",
        ),
        (
            "mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:t",
            "mongodb://h/?authMechanismProperties=***",
        ),
        (
            "mssql+pyodbc://?odbc_connect=DRIVER%3D%7Bx%7D%3BPWD%3Dp",
            "mssql+pyodbc://?odbc_connect=***",
        ),
        ("postgresql://h:1/d?user=a@b&password=p", "postgresql://h:***@b&password=***"),
        ("", ""),
        ("://", "://"),
        (":@", ":***@"),
    ],
)
def test_masking(url, shown):
    """Passwords and likely secrets are hidden, and the rest is shown."""
    assert mask_url(url) == shown


@given(st.text())
def test_masking_takes_anything(text):
    """Whatever the text, masking returns text and does not raise."""
    assert type(mask_url(text)) is str
    assert mask_url(mask_url(text)) == mask_url(text)


SECRETS = st.text("abcXYZ/?#&=%;+.$!*", min_size=6, max_size=20).map(lambda text: f"SECRET{text}")


@given(SECRETS, st.sampled_from(["postgresql", "mysql+x", "mongodb", "ftp", "csv", ""]))
def test_masking_hides_a_password_of_any_marks(secret, scheme):
    """A password is hidden whole, also with marks in it that are not percent-encoded."""
    assert mask_url(f"{scheme}://user:{secret}@host/db?x=1") == f"{scheme}://user:***@host/db?x=1"


def test_masking_accepts_other_types():
    """Something that is no text is shown as the text it makes."""
    assert mask_url(None) == "None"


@given(SECRETS, st.sampled_from(["postgresql", "mysql+pymysql", "mongodb", "ftp", "memory", "x y"]))
def test_no_error_shows_a_password(secret, scheme):
    """The error of a bad URL does not contain it."""
    for url in (
        f"{scheme}://user:{secret}@127.0.0.1:port/db",
        f"{scheme}://user:{secret}@@/?password={secret}",
        f"{scheme}//user:{secret}@h",
    ):
        with pytest.raises(RepositoryURLError) as caught:
            open_repository(url)
        assert secret not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_words_without_secrets():
    """A driver's message is shown without the URL's secrets, encoded or not."""
    url = "postgresql://u:p%40ss@h/d?sslpassword=k%3Dy&application_name=a"
    words = "refused p%40ss, p@ss, k%3Dy and k=y for a"
    assert without_secrets(words, url) == "refused ***, ***, *** and *** for a"
    assert without_secrets("as it is", "postgresql://u:@h/d") == "as it is"


@pytest.mark.parametrize("url", ["", "memory", "memory:/", "://x", "/var/lib/x.csv", "C:\\x.csv"])
def test_other_text_is_refused(url):
    """Text that is no URL is refused with examples of URLs."""
    with pytest.raises(
        RepositoryURLError, match="this is not the URL of a repository; examples: memory://, "
    ):
        open_repository(url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://u:p@h", "redis://u:***@h: the scheme 'redis' is neither memory, csv, json, "),
        ("postgres://u:p@h/d", "write postgresql://"),
        ("memory://name", "has no name; write memory://"),
        ("memory://?size=5", "unknown option; known: max_records (how many"),
        ("memory://?max_records", "max_records is a whole number"),
        ("csv:///x.csv?sep=;", "unknown option; known: none"),
        ("json:///x?y=1", "unknown option; known: none"),
    ],
)
def test_urls_that_are_refused(url, why):
    """An unknown scheme or option is refused with the known ones."""
    with pytest.raises(RepositoryURLError) as caught:
        open_repository(url)
    assert why in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, RepositoryError)


def test_case_and_white_space():
    """A scheme may be in capitals, and white space around a URL, as of a file, does no harm."""
    assert open_repository(" MEMORY://?max_records=7\n").max_records == 7


@pytest.mark.parametrize(
    ("package", "url", "cure"),
    [
        ("pymongo", "mongodb://u:p@h/d", "pip install 'rocketry-otel[mongodb]'"),
        ("sqlalchemy", "sqlite:///x.db", "pip install 'rocketry-otel[sql]'"),
        ("sqlalchemy", "postgresql://u:p@h/d", "'rocketry-otel[postgresql]'"),
        ("sqlalchemy", "redis://h", "is not memory, csv, json or mongodb"),
    ],
)
def test_missing_package_is_named(monkeypatch, package, url, cure):
    """The error has the command that installs it."""
    for name in [*sys.modules]:
        if name.startswith(
            (
                "rocketry_otel._repositories.sql_",
                "rocketry_otel._repositories.mongo_repo",
            )
        ):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RepositoryURLError) as caught:
        open_repository(url)
    assert cure in str(caught.value)
    assert str(caught.value).startswith(mask_url(url))


def test_missing_module_of_ours_is_no_missing_extra(monkeypatch):
    """Another import error is raised as it is."""
    monkeypatch.setitem(sys.modules, "rocketry_otel._repositories.csv_repo", None)
    with pytest.raises(ModuleNotFoundError, match="csv_repo"):
        open_repository("csv://x.csv")


def test_package_works_without_optional_packages(tmp_path):
    """Without SQLAlchemy and pymongo the other repositories open."""
    done = run_python(
        """
        import sys
        sys.modules.update({"sqlalchemy": None, "pymongo": None, "bson": None})
        from rocketry_otel._model.record import TaskEventRecord
        from rocketry_otel._repositories.open_repository import open_repository
        for url in ("memory://", f"csv://{sys.argv[1]}/x.csv", f"json://{sys.argv[1]}/x"):
            repo = open_repository(url)
            repo.add(TaskEventRecord(task_name="a", action="run", created=1))
            print(repo.filter_by().count())
        """,
        str(tmp_path),
    )
    assert (done.stdout, done.stderr) == ("1\n1\n1\n", "")


def test_users_can_add_records(tmp_path):
    """An opened repository works like any Red Bird repository."""
    repo = open_repository(f"csv://{tmp_path}/x.csv")
    repo.add(vars(record()))
    assert list(repo) == [record()]
