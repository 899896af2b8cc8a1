"""Errors as RFC 9457 problem details, in a route class, because handlers do not travel with a router."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from http import HTTPStatus
from typing import Any, TypeVar

import orjson
from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from ..retriever.errors import (
    ClickLoopError,
    Conflict,
    IndexFault,
    InvalidInput,
    ModelError,
    NotFound,
    NotReady,
    WaitExceeded,
    shown,
)

Body = TypeVar("Body", bound=BaseModel)
MAX_BODY = 8 * 1024 * 1024  # bytes
Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Check = Callable[[Request], Awaitable[None]]


class Problem(Exception):
    def __init__(
        self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, **members: object
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.members = status, detail, headers, members

    def response(self) -> Response:
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            **self.members,
        }
        return Response(
            orjson.dumps(body, default=str), self.status, self.headers, media_type="application/problem+json"
        )


def problem_of(error: ClickLoopError) -> Problem:  # noqa: PLR0911
    detail = str(error)
    match error:
        case InvalidInput():
            return Problem(422, detail, errors=[{"name": error.name, "message": detail}])
        case NotFound():
            return Problem(404, detail)
        case Conflict():
            return Problem(409, detail)
        case NotReady():
            return Problem(503, detail, headers={"Retry-After": str(error.retry_after)})
        case WaitExceeded():
            return Problem(504, detail, revision=error.revision)
        case IndexFault() | ModelError():
            return Problem(503, detail, headers={"Retry-After": "30"})
        case _:
            return Problem(500, detail)


class StrictRequest(Request):
    """Reads at most MAX_BODY bytes, and JSON without NaN, Infinity or broken UTF-8."""

    async def json(self) -> Any:
        return orjson.loads(await self.body())


class ProblemRoute(APIRoute):
    """Every error of its endpoint becomes a problem; others than our own stay 500s of the host."""

    def get_route_handler(self) -> Handler:
        inner = super().get_route_handler()

        async def answer(request: Request) -> Response:
            strict = StrictRequest(request.scope, request.receive)
            await self.check(strict)
            _check_address(strict)
            if strict.method not in ("GET", "HEAD"):  # anybody may send one, and no route of ours reads its body
                await _read_body(strict)
            return await inner(strict)

        return _without_errors(answer)

    async def check(self, request: Request) -> None:
        """Judges the key, before anything of the body is read. Here anybody may ask."""


def keyed(check: Check) -> type[ProblemRoute]:
    """The same for those whose key `check` lets pass. A dependency would judge it after the body."""

    class KeyedRoute(ProblemRoute):
        async def check(self, request: Request) -> None:
            await check(request)

    return KeyedRoute


class DirectRoutes:
    """Middleware that answers what is posted to some paths before any routing, which would cost as much as the rest of
    an empty request. The routes stay where they are, for other prefixes and for the schema.
    """

    def __init__(self, app: ASGIApp, handlers: Mapping[str, Handler]) -> None:
        self._app = app
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        post = scope["type"] == "http" and scope["method"] == "POST"
        handler = self._handlers.get(scope["path"]) if post else None
        if handler is None:
            await self._app(scope, receive, send)
        else:
            response = await handler(Request(scope, receive))
            await response(scope, receive, send)


def direct_handler(
    check: Check,
    model: type[Body],
    endpoint: Callable[[Body], Coroutine[Any, Any, Response]],
) -> Handler:
    """`check` judges the key and `model` the body."""

    async def answer(request: Request) -> Response:
        await check(request)
        await _read_body(request)
        return await endpoint(_parsed(model, request, await request.body()))

    return _without_errors(answer)


def _without_errors(answer: Handler) -> Handler:
    async def handler(request: Request) -> Response:
        try:
            return await answer(request)
        except Problem as problem:
            return problem.response()
        except ClickLoopError as error:
            return problem_of(error).response()
        except RequestValidationError as error:
            return _invalid(error.errors()).response()
        except HTTPException as error:
            return Problem(error.status_code, str(error.detail), headers=error.headers).response()
        except ClientDisconnect:
            return Response(status_code=400)  # which nobody reads

    return handler


def _check_address(request: Request) -> None:
    """SQLite's texts may hold NUL and PostgreSQL's may not: both are to answer alike."""
    for name, value in (*request.path_params.items(), *request.query_params.items()):
        if "\x00" in str(value):
            raise InvalidInput(name, value, "remove the NUL character")


def _parsed(model: type[Body], request: Request, body: bytes) -> Body:
    """Raises Problem 422, also for a body that is not said to be JSON."""
    if not _is_json(request.headers.get("content-type", "")):
        raise Problem(422, "send the body as JSON, with `Content-Type: application/json`")
    try:
        return model.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise _invalid([{"type": "json_invalid", "loc": ("body",), "ctx": {"error": error.msg}}]) from None
    except ValidationError as error:
        raise _invalid([{**item, "loc": ("body", *item["loc"])} for item in error.errors()]) from None


def _is_json(content_type: str) -> bool:
    """As FastAPI sees it."""
    kind, _, subtype = content_type.partition(";")[0].strip().lower().partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


async def _read_body(request: Request) -> None:
    """Keeps the body in the request. Raises Problem 415 for one that is compressed, and 413 before more than MAX_BODY
    bytes are held.
    """
    encoding = request.headers.get("content-encoding", "identity").strip()
    if encoding.lower() not in ("", "identity"):
        detail = f"Content-Encoding: {shown(encoding, 80)} cannot be used: send the body as it is, without this header"
        raise Problem(415, detail, headers={"Accept-Encoding": "identity"})
    too_large = Problem(413, f"the body is larger than {MAX_BODY} bytes; send it in parts")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > MAX_BODY:
        raise too_large
    chunks, received = [], 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > MAX_BODY:
            raise too_large
        chunks.append(chunk)
    request._body = b"".join(chunks)


def _invalid(faults: Sequence[Mapping[str, Any]]) -> Problem:
    errors = [named(fault) for fault in faults]
    detail = "; ".join(f"{item['name']}: {item['message']}" for item in errors[:5])
    return Problem(422, detail, errors=errors)


def named(item: Mapping[str, Any]) -> dict[str, str]:
    """The name, and the message with the value and the remedy, of one of pydantic's errors. Its place begins with what
    the whole is called, which is not repeated.
    """
    if item["type"] == "json_invalid":
        return {"name": "body", "message": f"not JSON ({item.get('ctx', {}).get('error', 'broken')})"}
    name = ".".join(str(part) for part in item["loc"][1:]) or str(item["loc"][0])
    if item["type"] == "missing":
        return {"name": name, "message": item["msg"]}
    if item["type"] == "extra_forbidden":
        return {"name": name, "message": "there is no such field: correct its name, or leave it out"}
    remedy = item["msg"].removeprefix("Value error, ")
    return {"name": name, "message": f"{shown(item.get('input'), 80)} cannot be used: {remedy}"}
