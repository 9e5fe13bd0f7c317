"""FastAPI and Rocketry in one process: a request asks for a run, and reads what has run.

    uvicorn web_server:api
    curl -X POST localhost:8000/tasks/report
    curl localhost:8000/tasks/report/runs

In Jaeger, the run links to the span of the request that asked for it. SIGTERM stops both, and sends
what waits. Rocketry needs pydantic 1 and FastAPI pydantic 2: with rocketry-otel each has its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from opentelemetry import trace
from pydantic import BaseModel
from rocketry import Rocketry

from rocketry_otel import instrument

tracer = trace.get_tracer(__name__)
app = Rocketry(execution="async")
handler = instrument(app)


@app.task("daily after 07:00")
async def report() -> None:
    """Make a report: a span inside the run."""
    with tracer.start_as_current_span("collect figures"):
        await asyncio.sleep(0.05)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Run the scheduler as long as the server, and let running tasks end."""
    scheduler = asyncio.create_task(app.serve())
    yield
    app.session.shut_down()
    await scheduler


api = FastAPI(lifespan=lifespan)


class Run(BaseModel):
    """A record of a run."""

    action: str
    created: float
    trace_id: str | None


@api.post("/tasks/{name}", status_code=202)
async def ask_for_a_run(name: str) -> None:
    """Ask for a run, which begins at once."""
    if name not in app.session:
        raise HTTPException(404, f"no task {name}")
    # With opentelemetry-instrumentation-fastapi there is such a span for each request.
    with tracer.start_as_current_span(f"POST /tasks/{name}"):
        app.session[name].run()


@api.get("/tasks/{name}/runs")
async def runs(name: str) -> list[Run]:
    """Return the records of a task from the repository."""
    records = handler.repo.filter_by(task_name=name).all()
    return [Run.model_validate(record.dict()) for record in records]
