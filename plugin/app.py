"""The standalone service: one FastAPI app around the loop's router."""

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from .loop import ClickLoop
from .problems import DirectRoutes, Problem


def create_app(loop: ClickLoop) -> FastAPI:
    app = FastAPI(title="clickloop", docs_url=None, redoc_url=None)
    app.include_router(loop.router())
    app.add_middleware(DirectRoutes, handlers=loop.direct_handlers())

    @app.exception_handler(HTTPException)
    async def not_found(_request: Request, error: HTTPException) -> Response:
        """Paths and methods that no route of ours takes."""
        return Problem(error.status_code, str(error.detail), headers=error.headers).response()

    @app.exception_handler(Exception)
    async def unexpected(_request: Request, _error: Exception) -> Response:
        return Problem(500, "an unexpected error; the service's log has the details").response()

    return app
