"""SIGTERM: real programs, servers and signals; what waits is sent before the process dies of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support.otlp_receiver import Hang, OTLPReceiver
from tests.support.program import Program

RUNS = 16
# Nothing is sent before it must be.
LATE = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_BLRP_SCHEDULE_DELAY": "3600000"}
DIED = -signal.SIGTERM

# RUNS runs, then "ready" from the next cycle: all have ended by then.
APP = f"""
    import os, signal, sys, threading, time
    from rocketry import Rocketry
    from rocketry.args import Task
    from rocketry_otel import instrument

    app = Rocketry(execution=os.environ.get("EXECUTION", "main"), config={{"cycle_sleep": 0.001}})
    begun = 0

    @app.cond()
    def is_wanted():
        global begun
        if begun == {RUNS} or app.session["etl"].is_alive():
            return False
        begun += 1
        return True

    @app.task(is_wanted, name="etl")
    def etl():
        pass

    def cycle():
        if begun == {RUNS} and app.session["etl"].status == "success":
            if not app.session["etl"].is_alive() and not is_ready.is_set():
                is_ready.set()
                # In one piece: another worker prints, too.
                os.write(1, b"ready\\n")

    is_ready = threading.Event()
    app.session.hooks.scheduler_cycle.append(cycle)
"""
PLAIN = APP + "    handler = instrument(app)\n"
RUN = "\n    if __name__ == '__main__':\n        app.run()\n"

# Waits for ever in C, with the interpreter's lock released and signals of no avail.
IN_C = """
    import ctypes
    libc = ctypes.CDLL(None)
    mutex = ctypes.create_string_buffer(64)

    def wait_in_c():
        # In one piece: the parent prints, too.
        os.write(1, b"in C %d\\n" % os.getpid())
        libc.pthread_mutex_lock(mutex)
        libc.pthread_mutex_lock(mutex)
"""


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    """A receiver."""
    with OTLPReceiver(grpc=False) as receiver:
        yield receiver


def environment(receiver: OTLPReceiver, **added: str) -> dict[str, str]:
    """Return the variables of a program that sends to the receiver."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
        "ROCKETRY_OTEL_SHUTDOWN_TIMEOUT": "30",
        **LATE,
        **added,
    }


def assert_all_arrived(receiver: OTLPReceiver, runs: int = RUNS) -> None:
    """Check that every run has arrived, once, with its records and with metrics."""
    assert len(receiver.spans) == runs
    assert len({it.span.span_id for it in receiver.spans}) == runs
    assert len(receiver.log_records) == 2 * runs
    assert receiver.metrics


@pytest.mark.parametrize("execution", ["main", "async", "thread", "process"])
@pytest.mark.parametrize("repo", ["memory://", "sqlite:///tasks.db"])
def test_program_sends_its_queues_and_dies(
    receiver: OTLPReceiver, tmp_path: Path, execution: str, repo: str
) -> None:
    """Its status is that of a program without this project, and it dies as soon as it may."""
    env = environment(receiver, EXECUTION=execution, ROCKETRY_OTEL_REPO=repo)
    with Program.of_script(PLAIN + RUN, tmp_path, env) as program:
        program.wait_for_line("ready")
        assert receiver.spans == []
        sent = time.monotonic()
        program.terminate()
        assert program.wait() == DIED
        assert time.monotonic() - sent < 10
    assert_all_arrived(receiver)
    if repo.startswith("sqlite"):
        # An orderly end: nothing is sent again by the next process.
        with Program.of_script(PLAIN + RUN, tmp_path, env) as program:
            program.wait_for_line("ready")
            program.terminate()
            assert program.wait() == DIED
        assert_all_arrived(receiver, 2 * RUNS)


def test_scheduler_in_a_thread_begins_no_run(receiver: OTLPReceiver, tmp_path: Path) -> None:
    """While the queues are sent no run begins, and the time-out ends a collector that hangs."""
    receiver.behave(Hang())
    script = """
        import threading, time
        from rocketry import Rocketry
        from rocketry_otel import instrument

        app = Rocketry(execution="thread", config={"cycle_sleep": 0.001})

        @app.task("every 10 ms")
        def etl():
            print("run", time.time(), flush=True)

        instrument(app)
        threading.Thread(target=app.run, daemon=True).start()
        threading.Event().wait()
    """
    env = environment(receiver, ROCKETRY_OTEL_SHUTDOWN_TIMEOUT="1.5")
    with Program.of_script(script, tmp_path, env) as program:
        for _ in range(3):
            program.wait_for_line("run")
        program.terminate()
        assert receiver.wait_for(lambda it: bool(it.requests))
        arrived = time.time()
        assert program.wait() == DIED
        assert 0.5 < time.time() - arrived < 10
        begun = [float(line.split()[1]) for line in program.lines if line.startswith("run")]
    # A launch that had begun when the signal came may end.
    assert max(begun) < arrived + 0.5


def test_second_sigterm_kills_at_once(receiver: OTLPReceiver, tmp_path: Path) -> None:
    """A collector that hangs keeps the process no longer than its user wants."""
    receiver.behave(Hang())
    env = environment(receiver, ROCKETRY_OTEL_SHUTDOWN_TIMEOUT="600")
    with Program.of_script(PLAIN + RUN, tmp_path, env) as program:
        program.wait_for_line("ready")
        program.terminate()
        assert receiver.wait_for(lambda it: bool(it.requests))
        program.terminate()
        assert program.wait() == DIED


def test_body_in_c_delays_the_death_by_the_timeout(receiver: OTLPReceiver, tmp_path: Path) -> None:
    """Its main thread runs no Python: the watcher sends, and ends the process."""
    script = f"""{PLAIN}{IN_C}
    @app.task("every 1 ms")
    def stuck():
        if is_ready.is_set():
            wait_in_c()
    """
    with Program.of_script(script + RUN, tmp_path, environment(receiver)) as program:
        program.wait_for_line("in C")
        program.terminate()
        assert program.wait() == DIED
    spans = [it.span for it in receiver.spans if it.span.name == "run etl"]
    assert len(spans) == RUNS


def test_asyncio_keeps_its_wakeup_descriptor(receiver: OTLPReceiver, tmp_path: Path) -> None:
    """The handler wakes the watcher where the application or asyncio wants the descriptor."""
    script = f"""
    import signal, socket
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)
    signal.set_wakeup_fd(mouth.fileno())
    {PLAIN}
    assert signal.set_wakeup_fd(-1) == mouth.fileno()
    """
    with Program.of_script(script + RUN, tmp_path, environment(receiver)) as program:
        program.wait_for_line("ready")
        program.terminate()
        assert program.wait() == DIED
    assert_all_arrived(receiver)


@pytest.mark.parametrize(
    "url", ["sqlite:///tasks.db", "csv://tasks.csv", "json://tasks", "memory://"]
)
def test_held_locks_delay_the_death_by_the_timeout(
    receiver: OTLPReceiver, tmp_path: Path, url: str
) -> None:
    """The handler takes no lock, even if the main thread holds all of ours."""
    script = f"""{PLAIN}
    import gc

    KINDS = (threading.Condition, type(threading.Lock()), type(threading.RLock()))

    def locks():
        for one in gc.get_objects():
            if str(type(one).__module__).startswith("rocketry_otel"):
                # Models of pydantic keep theirs in slots.
                names = {{*getattr(one, "__dict__", ())}}
                names.update(*(getattr(its, "__slots__", ()) for its in type(one).__mro__))
                values = (getattr(one, name, None) for name in names)
                yield from (value for value in values if isinstance(value, KINDS))

    def hold():
        held = {{id(lock): lock for lock in locks()}}
        for lock in held.values():
            assert lock.acquire(timeout=10), lock
        print("held", len(held), flush=True)
        threading.Event().wait()

    @app.task("every 1 ms")
    def holder():
        if is_ready.is_set():
            hold()
    """
    env = environment(receiver, ROCKETRY_OTEL_SHUTDOWN_TIMEOUT="1", ROCKETRY_OTEL_REPO=url)
    with Program.of_script(script + RUN, tmp_path, env) as program:
        assert int(program.wait_for_line("held")) > 10
        sent = time.monotonic()
        program.terminate()
        assert program.wait() == DIED
        assert time.monotonic() - sent < 10


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_child_that_runs_a_task_dies_at_once(
    receiver: OTLPReceiver, tmp_path: Path, method: str
) -> None:
    """It does so in the midst of C code, too, and with an application that it imports."""
    script = f"""
    import multiprocessing
    if __name__ == "__main__":
        multiprocessing.set_start_method("{method}")
    {PLAIN}{IN_C}
    @app.task("every 1 ms", execution="process")
    def child():
        instrument(Rocketry())
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.set_wakeup_fd(-1) == -1
        wait_in_c()

    children = []
    def follow():
        children.extend(run.task for run in app.session["child"]._run_stack if not children)
        if children and children[0].exitcode is not None:
            # In one piece: the next child prints, too.
            os.write(1, b"status %d\\n" % children[0].exitcode)

    app.session.hooks.scheduler_cycle.append(follow)
    """
    env = environment(receiver)
    with Program.of_script(script + RUN, tmp_path, env) as program:
        child = int(program.wait_for_line("in C"))
        os.kill(child, signal.SIGTERM)
        assert program.wait_for_line("status") == str(DIED)
        assert program.process.poll() is None


def test_child_killed_after_its_fork_dies_alone(receiver: OTLPReceiver, tmp_path: Path) -> None:
    """A signal of the child in its first moments is neither lost nor taken for its parent's."""
    script = f"""{PLAIN}
    import multiprocessing

    def main():
        app.session.run("etl")
        fork = multiprocessing.get_context("fork")
        for _ in range(50):
            process = fork.Process(target=threading.Event().wait)
            process.start()
            process.terminate()
            process.join()
            print("status", process.exitcode, flush=True)

    main()
    """
    with Program.of_script(script, tmp_path, environment(receiver)) as program:
        assert program.wait() == 0
        assert [line for line in program.lines if line.startswith("status")] == [
            f"status {DIED}"
        ] * 50


def test_forked_worker_with_a_scheduler_sends(receiver: OTLPReceiver, tmp_path: Path) -> None:
    """A process that was forked from an instrumented one handles the signal if it schedules."""
    script = f"""{PLAIN}
    pid = os.fork()
    if pid:
        print("pid", pid, flush=True)
        print("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    else:
        app.run()
    """
    with Program.of_script(script, tmp_path, environment(receiver)) as program:
        pid = int(program.wait_for_line("pid"))
        program.wait_for_line("ready")
        os.kill(pid, signal.SIGTERM)
        assert program.wait_for_line("status") == str(DIED)
    assert_all_arrived(receiver)


def can_unshare() -> bool:
    """Return whether this machine lets a test make a namespace of processes."""
    unshare = shutil.which("unshare")
    command = [unshare or "false", "--pid", "--fork", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="unshare --pid is not allowed here")
def test_first_process_of_a_container_sends_and_goes_on(
    receiver: OTLPReceiver, tmp_path: Path
) -> None:
    """The kernel ignores the default action there, and so the application goes on."""
    path = tmp_path / "app.py"
    more = """
    @app.task("every 1 s", name="later")
    def later():
        print("later", flush=True)
    """
    path.write_text(dedent(PLAIN + more + RUN), encoding="utf-8")
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, str(path)]
    with Program(command, tmp_path, environment(receiver)) as program:
        program.wait_for_line("ready")
        children = Path(f"/proc/{program.process.pid}/task/{program.process.pid}/children")
        (child,) = map(int, children.read_text().split())
        for count in (1, 2):
            program.wait_for_line("later")
            program.wait_for_line("later")
            os.kill(child, signal.SIGTERM)
            assert receiver.wait_for(
                lambda it, count=count: (
                    sum(one.span.name == "run later" for one in it.spans) >= count
                )
            )
        assert program.process.poll() is None
        assert sum(it.span.name == "run etl" for it in receiver.spans) == RUNS


def test_setting_leaves_the_signal_alone(receiver: OTLPReceiver, tmp_path: Path) -> None:
    """Then the process dies at once, with all that waits."""
    env = environment(receiver, ROCKETRY_OTEL_SIGTERM="false")
    with Program.of_script(PLAIN + RUN, tmp_path, env) as program:
        program.wait_for_line("ready")
        program.terminate()
        assert program.wait() == DIED
    assert receiver.requests == []


@pytest.mark.parametrize("which", ["before", "after"])
def test_handler_of_the_application_wins(
    receiver: OTLPReceiver, tmp_path: Path, which: str
) -> None:
    """It shuts the scheduler down, which sends the queues; nothing dies of the signal."""
    own = """
    def shut_down(*_):
        app.session.shut_down()
    signal.signal(signal.SIGTERM, shut_down)
    """
    parts = [APP, own, "\n    instrument(app)\n"] if which == "before" else [PLAIN, own]
    with Program.of_script("".join([*parts, RUN]), tmp_path, environment(receiver)) as program:
        program.wait_for_line("ready")
        program.terminate()
        assert program.wait() == 0
    assert_all_arrived(receiver)


def test_handler_that_calls_the_one_before_sends(receiver: OTLPReceiver, tmp_path: Path) -> None:
    """An application may take the signal first, and hand it on."""
    own = """
    before = signal.getsignal(signal.SIGTERM)
    def hand_on(*args):
        print("own", flush=True)
        before(*args)
    signal.signal(signal.SIGTERM, hand_on)
    """
    with Program.of_script(PLAIN + own + RUN, tmp_path, environment(receiver)) as program:
        program.wait_for_line("ready")
        program.terminate()
        assert program.wait() == DIED
        assert program.lines.count("own") == 1
    assert_all_arrived(receiver)


def test_provider_of_the_application_is_flushed(receiver: OTLPReceiver, tmp_path: Path) -> None:
    """The SDK would do so at the end of the program, which does not come after a signal."""
    own = """
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    """
    with Program.of_script(PLAIN + own + RUN, tmp_path, environment(receiver)) as program:
        program.wait_for_line("ready")
        program.terminate()
        assert program.wait() == DIED
    assert_all_arrived(receiver)


# --------------------------------------------------------------------------- servers

ASGI = """
    import asyncio

    async def asgi(scope, receive, send):
        assert scope["type"] == "lifespan"
        await receive()
        scheduler = asyncio.create_task(app.serve())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        app.session.shut_down()
        await scheduler
        await send({"type": "lifespan.shutdown.complete"})
"""
WSGI = """
    def wsgi(environ, start_response):
        start_response("200 OK", [])
        return [b""]
"""
GUNICORN = """
    import threading

    def post_worker_init(worker):
        import server
        threading.Thread(target=server.app.run, daemon=True).start()
"""


def serve(script: str, tmp_path: Path, env: dict[str, str], *command: str) -> Program:
    """Start a server of a module ``server`` with this text."""
    (tmp_path / "server.py").write_text(dedent(script), encoding="utf-8")
    (tmp_path / "gunicorn.conf.py").write_text(dedent(GUNICORN), encoding="utf-8")
    address = ("--port", "0") if command[0] == "uvicorn" else ()
    return Program([sys.executable, "-m", *command, *address], tmp_path, env)


@pytest.mark.parametrize("workers", [1, 2])
def test_uvicorn_sends_the_queues_of_each_worker(
    receiver: OTLPReceiver, tmp_path: Path, workers: int
) -> None:
    """Uvicorn raises the signal again after its shutdown, so that nothing runs at the exit."""
    command = ["uvicorn", "server:asgi", "--workers", str(workers)]
    with serve(PLAIN + ASGI, tmp_path, environment(receiver), *command) as program:
        for _ in range(workers):
            program.wait_for_line("ready")
        program.terminate()
        assert program.wait() == (DIED if workers == 1 else 0)
    assert_all_arrived(receiver, workers * RUNS)


def test_uvicorn_leaks_no_semaphore_of_ours(receiver: OTLPReceiver, tmp_path: Path) -> None:
    """A worker that dies of the signal leaks those of Rocketry's own queues, and no others."""
    script = """
    import multiprocessing, os, signal
    multiprocessing.set_start_method("spawn")
    from rocketry import Rocketry
    app = Rocketry()
    os.kill(os.getpid(), signal.SIGKILL)
    """
    with Program.of_script(script, tmp_path, {}) as program:
        assert program.wait() == -signal.SIGKILL
        of_rocketry = leaked_semaphores(program)
    assert of_rocketry > 0
    command = ["uvicorn", "server:asgi", "--workers", "2"]
    with serve(PLAIN + ASGI, tmp_path, environment(receiver), *command) as program:
        for _ in range(2):
            program.wait_for_line("ready")
        program.terminate()
        assert program.wait() == 0
        assert leaked_semaphores(program) <= 2 * of_rocketry


def leaked_semaphores(program: Program) -> int:
    """Return how many the resource tracker of ``multiprocessing`` has found at the end."""
    _, _, count = "\n".join(program.lines).partition("There appear to be ")
    return int(count.split()[0]) if count else 0


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_gunicorn_sends_the_queues_of_its_worker(
    receiver: OTLPReceiver, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Also where the application was imported before the worker was forked."""
    command = ["gunicorn", "server:wsgi", "--no-control-socket", "--bind", "127.0.0.1:0", *options]
    with serve(PLAIN + WSGI, tmp_path, environment(receiver), *command) as program:
        program.wait_for_line("ready")
        program.terminate()
        assert program.wait() == 0
    assert_all_arrived(receiver)
