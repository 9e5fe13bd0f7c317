"""Red Bird and Rocketry see pydantic 1, and nothing else does, in whatever order they come.

Each test runs in processes of its own. Most use the installed packages, so they show both worlds
where the suite runs with pydantic 1 and with pydantic 2. The others use small packages of these
names, whose imports wait or fail on demand.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import distribution
from pathlib import Path

import pydantic
import pytest

import _rocketry_otel_pydantic
from tests.support.processes import Finished, run_python

IS_1 = pydantic.VERSION.startswith("1.")
FOLDER = str(Path(_rocketry_otel_pydantic.__file__).parent)
CHECKS = """
import pydantic, sys
from pydantic.v1 import BaseModel
from rocketry.core import Task
from redbird.repos import MemoryRepo
assert issubclass(Task, BaseModel) and issubclass(MemoryRepo, BaseModel)
assert sys.modules["pydantic"] is pydantic
print(pydantic.VERSION)
"""
# Runs an application with one task.
RUN = """
from rocketry import Rocketry
from rocketry.conditions import SchedulerCycles
from rocketry_otel import instrument
app = Rocketry(execution="main")
handler = instrument(app)
app.session.create_task(func=lambda: None, name="etl", execution="main").run()
app.session.config.shut_cond = SchedulerCycles() >= 1
app.run()
print([record.action for record in handler.repo.filter_by().all()])
"""


# On a machine that does much else, an import may take long.
run_slowly = partial(run_python, timeout=240)


def run(script: str, **env: str) -> Finished:
    """Run a script, in which every warning is an error."""
    return run_slowly(script, env={"OTEL_SDK_DISABLED": "true", **env}, options=["-W", "error"])


def test_distribution_has_the_line_that_the_interpreter_runs() -> None:
    """Also where it is installed as an editable one."""
    files = {str(file): file for file in distribution("rocketry-otel").files or ()}
    line = files["rocketry_otel.pth"].read_text()
    assert line == "import _rocketry_otel_pydantic\n"


@pytest.mark.parametrize(
    "order",
    [
        "rocketry, rocketry_otel",
        "rocketry_otel, rocketry",
        "redbird, rocketry, rocketry_otel",
        "pydantic, rocketry, rocketry_otel",
        "rocketry.core, redbird.logging, rocketry_otel",
    ],
)
def test_any_order_of_imports_works(order: str) -> None:
    """An import sorter puts `rocketry` first."""
    done = run(f"import {order}\n{CHECKS}\n{RUN}")
    assert done.stderr == ""
    assert done.stdout == f"{pydantic.VERSION}\n['run', 'success']\n"


def test_without_the_line_the_package_comes_first() -> None:
    """An installation that has no such file still works in this order."""
    script = """
    import os, sys
    assert "_rocketry_otel_pydantic" in sys.modules  # switched off, as the test asks for
    del os.environ["ROCKETRY_OTEL_PYDANTIC"], sys.modules["_rocketry_otel_pydantic"]
    import rocketry_otel
    """
    done = run_slowly(
        "\n".join([*(line.strip() for line in script.splitlines()), CHECKS, RUN]),
        env={"OTEL_SDK_DISABLED": "true", "ROCKETRY_OTEL_PYDANTIC": "off"},
    )
    assert done.stderr == ""
    assert done.stdout == f"{pydantic.VERSION}\n['run', 'success']\n"


def test_import_that_failed_before_leaves_nothing_behind() -> None:
    """Modules that an import of Rocketry left behind with pydantic 2 are imported anew."""
    script = """
import os, sys
try:
    import rocketry
except Exception as error:
    print(str(error).splitlines()[0])
del os.environ["ROCKETRY_OTEL_PYDANTIC"], sys.modules["_rocketry_otel_pydantic"]
import rocketry_otel
"""
    done = run_slowly(
        f"{script}{CHECKS}{RUN}",
        env={"OTEL_SDK_DISABLED": "true", "ROCKETRY_OTEL_PYDANTIC": "off"},
        options=["-W", "ignore"],
    )
    error = "" if IS_1 else "`const` is removed, use `Literal` instead\n"
    assert done.stdout == f"{error}{pydantic.VERSION}\n['run', 'success']\n", done.stderr


@pytest.mark.parametrize("value", ["off", "0", " False ", "no"])
def test_variable_switches_it_off(value: str) -> None:
    """Nothing is registered then."""
    script = "import sys; print([it for it in sys.meta_path if 'V1Finder' in str(it)])"
    assert run(script, ROCKETRY_OTEL_PYDANTIC=value).stdout == "[]\n"


def test_finder_stays_only_with_pydantic_2() -> None:
    """With pydantic 1 it takes itself away at the first import of Red Bird."""
    script = """
    import sys
    def is_there():
        return any(getattr(one, "__name__", "") == "V1Finder" for one in sys.meta_path)
    print(is_there())
    import redbird
    print(is_there(), sys.modules["redbird.base"].__dict__["__builtins__"] is vars(__builtins__))
    """
    assert run(script).stdout == f"True\n{not IS_1} {IS_1}\n"


def test_nothing_but_sys_and_os_is_imported_at_the_start() -> None:
    """An interpreter that runs something else pays for one small module."""
    script = (
        "import sys; print({'pydantic', 'copy', 'rocketry_otel', 'redbird'} & set(sys.modules))"
    )
    done = run_slowly(script, options=["-I"])
    assert done.stdout == "set()\n"


def test_code_of_the_users_in_a_task_sees_the_installed_pydantic() -> None:
    """`CodeTask` runs it inside of Rocketry's own code."""
    script = """
    from rocketry import Rocketry
    from rocketry.tasks import CodeTask
    app = Rocketry(execution="main")
    code = "import pydantic; from pydantic import VERSION as v; return_value = v, pydantic.VERSION"
    task = CodeTask(code=code, name="code", session=app.session)
    print(*task.execute())
    """
    assert run(script).stdout == f"{pydantic.VERSION} {pydantic.VERSION}\n"


def test_models_can_be_pickled_and_shown() -> None:
    """The modules keep their loaders, sources and names."""
    script = """
    import importlib, importlib.resources, inspect, pickle
    import redbird.oper, rocketry.time.interval
    from redbird.oper import greater_equal
    from rocketry.log import MinimalRecord
    record = MinimalRecord(task_name="etl", action="run", created=1.0)
    assert pickle.loads(pickle.dumps(record)) == record
    assert "class MinimalRecord" in inspect.getsource(MinimalRecord)
    assert importlib.resources.files("rocketry").joinpath("__init__.py").is_file()
    assert importlib.reload(redbird.oper).greater_equal is not greater_equal
    print("all")
    """
    done = run(script)
    assert (done.stdout, done.stderr) == ("all\n", "")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_task_in_a_child_process_runs(method: str) -> None:
    """A spawned child imports Rocketry before the package."""
    script = f"""
import multiprocessing
import rocketry
from rocketry.conditions import SchedulerCycles, TaskStarted, TaskRunning
from rocketry_otel import instrument
def etl():
    import pydantic
    from rocketry.core import Task
    from pydantic.v1 import BaseModel
    assert issubclass(Task, BaseModel) and pydantic.VERSION == "{pydantic.VERSION}"
if __name__ == "__main__":
    multiprocessing.set_start_method("{method}", force=True)
    app = rocketry.Rocketry(execution="process")
    handler = instrument(app)
    app.session.create_task(func=etl, name="etl").run()
    app.session.config.shut_cond = (TaskStarted(task="etl") >= 1) & ~TaskRunning(task="etl")
    app.run()
    print([(it.action, it.exc_text) for it in handler.repo.filter_by().all()])
"""
    done = run_slowly(script, env={"OTEL_SDK_DISABLED": "true"})
    assert done.stdout == "[('run', None), ('success', None)]\n", done.stderr


# ------------------------------------------------------------------- packages made for the tests


def write(folder: Path, files: dict[str, str]) -> None:
    """Write modules, with pydantic 2 among them."""
    pydantic_2 = {
        "pydantic/__init__.py": "VERSION = __version__ = '2.0'\nclass BaseModel: ...\n",
        "pydantic/fields.py": "WORLD = 2\n",
        "pydantic/v1/__init__.py": "VERSION = __version__ = '1.10'\nclass BaseModel: ...\n",
        "pydantic/v1/fields.py": "WORLD = 1\n",
    }
    for name, text in (pydantic_2 | files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def run_among(folder: Path, script: str) -> Finished:
    """Run a script that sees these packages and the module, and no others."""
    lines = script.strip().splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    body = "\n".join(line[indent:] for line in lines)
    start = f"import sys\nsys.path[:0] = [{str(folder)!r}, {FOLDER!r}]\n"
    return run_slowly(
        f"{start}import _rocketry_otel_pydantic\n{body}", options=["-S", "-W", "error"]
    )


def test_every_form_of_import_is_redirected(tmp_path: Path) -> None:
    """At the top, in functions, with and without names, of the package and of its modules."""
    forms = """
import pydantic
import pydantic.fields
import pydantic.fields as fields
import pydantic.v1.fields as fields_of_v1
import pydantic.v1 as v1
from pydantic import BaseModel, fields as again
from pydantic.fields import WORLD
from pydantic.v1 import fields as named
from . import own
def later():
    import pydantic as inside
    from pydantic import VERSION
    return inside.VERSION, VERSION
seen = [pydantic.VERSION, fields.WORLD, fields_of_v1.WORLD, v1.VERSION, again.WORLD, WORLD,
    named.WORLD, own.VALUE, *later(), pydantic.fields.WORLD, BaseModel is v1.BaseModel]
"""
    write(tmp_path, {"redbird/__init__.py": forms, "redbird/own.py": "VALUE = 3\n"})
    script = """
import redbird, pydantic, pydantic.fields
print(*redbird.seen, pydantic.VERSION, pydantic.fields.WORLD, pydantic is sys.modules["pydantic"])
"""
    done = run_among(tmp_path, script)
    assert done.stdout == "1.10 1 1 1.10 1 1 1 3 1.10 1.10 1 True 2.0 2 True\n", done.stderr


def test_thread_that_imports_pydantic_meanwhile_gets_its_own(tmp_path: Path) -> None:
    """Nothing that others see is changed, not even for a moment."""
    waiting = """
import sys
from pydantic import VERSION
sys.reached.set()
assert sys.go.wait(30)
from pydantic.fields import WORLD
"""
    write(tmp_path, {"redbird/__init__.py": waiting})
    script = """
import threading
sys.reached, sys.go = threading.Event(), threading.Event()
def other():
    assert sys.reached.wait(30)
    import pydantic.fields
    from pydantic import BaseModel
    print(pydantic.VERSION, pydantic.fields.WORLD, BaseModel is pydantic.BaseModel)
    sys.go.set()
thread = threading.Thread(target=other)
thread.start()
import redbird
thread.join()
print(redbird.VERSION, redbird.WORLD)
"""
    done = run_among(tmp_path, script)
    assert done.stdout == "2.0 2 True\n1.10 1\n", done.stderr


def test_fork_of_rocketry_leaves_pydantic_in_its_place(tmp_path: Path) -> None:
    """`rocketry-fix` puts into `sys.modules` what it takes for pydantic, at its end."""
    fork = """
import pydantic as origin
main, *_ = origin.__version__
import sys
if main == "2":
    from pydantic import v1
    sys.modules["pydantic"] = v1
from .core import VERSION
sys.modules["pydantic"] = origin
"""
    write(
        tmp_path,
        {"rocketry/__init__.py": fork, "rocketry/core.py": "from pydantic import VERSION\n"},
    )
    done = run_among(
        tmp_path,
        "import pydantic, rocketry\nprint(rocketry.VERSION, sys.modules['pydantic'].VERSION)",
    )
    assert done.stdout == "1.10 2.0\n", done.stderr


def test_import_that_raises_leaves_everything_in_its_place(tmp_path: Path) -> None:
    """The error is the module's own, and the next import works."""
    failing = (
        "import sys, pydantic\nsys.modules['pydantic'] = None\nraise ValueError(pydantic.VERSION)\n"
    )
    write(tmp_path, {"redbird/__init__.py": failing})
    script = f"""
try:
    import redbird
except ValueError as error:
    print(error)
import pydantic
print(pydantic.VERSION)
with open({str(tmp_path / "redbird" / "__init__.py")!r}, "w") as file:
    file.write("from pydantic import VERSION  # a file of another size")
import importlib
importlib.invalidate_caches()
import redbird
print(redbird.VERSION)
"""
    assert run_among(tmp_path, script).stdout == "1.10\n2.0\n1.10\n"


def test_modules_in_an_archive_and_old_finders_and_loaders_work(tmp_path: Path) -> None:
    """The loader of an archive serves all of its modules, and only ours are prepared."""
    write(tmp_path, {})
    script = f"""
import zipfile
with zipfile.ZipFile({str(tmp_path / "all.zip")!r}, "w") as archive:
    archive.writestr("redbird/__init__.py", "from pydantic import VERSION")
    archive.writestr("other.py", "from pydantic import VERSION")
sys.path.insert(0, {str(tmp_path / "all.zip")!r})
import redbird, other
print(redbird.VERSION, other.VERSION)
from importlib.machinery import ModuleSpec
class Old: ...
sys.meta_path.insert(0, Old())
assert _rocketry_otel_pydantic.V1Finder.find_spec("redbird") is not None
class Loader:
    load_module = None
spec = ModuleSpec("redbird.x", Loader())
assert _rocketry_otel_pydantic._prepared(spec).loader is spec.loader
"""
    done = run_among(tmp_path, script)
    assert (done.stdout, done.returncode) == ("1.10 2.0\n", 0), done.stderr


def test_without_pydantic_or_package_the_error_is_the_usual_one(tmp_path: Path) -> None:
    """What is missing is named, and the finder is gone if there is no pydantic."""
    (tmp_path / "redbird.py").write_text("import pydantic\n", encoding="utf-8")
    script = """
for name in ("redbird", "rocketry"):
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        print(error.name, _rocketry_otel_pydantic.V1Finder in sys.meta_path)
_rocketry_otel_pydantic.remove()
"""
    assert run_among(tmp_path, script).stdout == "pydantic False\nrocketry False\n"
    write(tmp_path, {})
    missing = script.replace('("redbird", "rocketry")', '("rocketry",)')
    done = run_among(tmp_path, missing)
    assert done.stdout == "rocketry True\n", done.stderr
