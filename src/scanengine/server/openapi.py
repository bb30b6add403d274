"""``/openapi.json``: the table of routes as an OpenAPI 3.1 document.

Everything is taken from where it is decided: paths and who may call from the routes, bodies from the structures that
they are read into, replies from the structures that are written, problems from the list of all problems. Nothing is
written twice, so nothing can be forgotten.

References
----------
OpenAPI Specification 3.1.0; JSON Schema 2020-12.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from inspect import getdoc
from typing import Any, Final

import msgspec
from aiohttp import web

from scanengine import __version__
from scanengine.model import HIDDEN_STATUSES, INVALID, ClaimStatus, Status
from scanengine.server.fields import ADCODES, CODE_SCHEMA
from scanengine.server.problems import CONTENT_TYPE, KINDS, Problem
from scanengine.server.requests import ID_HEADER
from scanengine.server.routes import Access, Reply, Route
from scanengine.server.visitors import is_for_programs

OPENAPI: Final = "3.1.0"
DOCUMENT: Final = web.AppKey("document", dict)
_PATH: Final = "/openapi.json"
_REF: Final = "#/components/schemas/{name}"
_JSON: Final = "application/json"
_WAIT: Final = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}
_ID: Final = {
    ID_HEADER: {
        "description": "Id of this request, as in the server's log.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{8,64}$"},
    }
}
_HEADERS: Final[Mapping[int, Mapping[str, Any]]] = {
    302: {"Location": {"description": "Where to go on.", "schema": {"type": "string"}}},
    303: {"Location": {"description": "Where to go on.", "schema": {"type": "string"}}},
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    429: _WAIT,
    503: _WAIT,
}
_PARAMETERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "code": CODE_SCHEMA | {"minLength": 1},
    "gtin": {"type": "string", "minLength": 1, "description": "GS1 AI (01)."},
    "lot": {"type": "string", "minLength": 1, "description": "GS1 AI (10)."},
    "variant": {"type": "string", "minLength": 1, "description": "GS1 AI (22)."},
    "serial": {"type": "string", "minLength": 1, "description": "GS1 AI (21): the code."},
    "batch": {"type": "string", "minLength": 1, "description": "Label of a batch."},
    "reader": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", "description": "Name of a reader."},
    "name": {"type": "string", "pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}$"},
}
_SHOWN: Final = sorted(({status.name.lower() for status in Status} - HIDDEN_STATUSES) | {INVALID})
_ANSWERED: Final = sorted(status for status in ClaimStatus if status != ClaimStatus.STALE)
_REFINED: Final[Mapping[tuple[str, str], Mapping[str, Any]]] = {
    ("Answer", "status"): {"enum": _SHOWN},
    ("ClaimReply", "status"): {"enum": _ANSWERED},
    ("Problem", "type"): {"enum": sorted(kind.type for kind in KINDS)},
    ("ScanBody", "region"): {"anyOf": ADCODES},
}
"""What the types of fields do not say."""


async def get_openapi(request: web.Request) -> web.Response:
    """Describe all routes as OpenAPI 3.1."""
    document = request.app[DOCUMENT]
    prefix = request.path.removesuffix(_PATH)
    if prefix:
        # Mounted below somebody else's path.
        document = document | {"servers": [{"url": prefix}]}
    return web.Response(body=msgspec.json.encode(document), content_type=_JSON)


def openapi_of(routes: Iterable[Route], *, needs_token: bool, is_trusted: bool = False) -> dict[str, Any]:
    """Return the OpenAPI document of routes.

    Parameters
    ----------
    needs_token : bool
        Whether back ends have to show a token, as any is configured.
    is_trusted : bool
        Whether nobody has to.
    """
    routes = list(routes)
    schemas, components = _schemas_of(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        asks = not is_trusted and (route.access is Access.ADMIN or (route.access is Access.BACKEND and needs_token))
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas, asks_token=asks)
    return {
        "openapi": OPENAPI,
        "info": {
            "title": "scanengine",
            "version": __version__,
            "description": "Answers scans of one-item-one-code labels: genuine or not, which item, which prize.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "Of keys.toml."}},
        },
    }


def _schemas_of(routes: Iterable[Route]) -> tuple[dict[Any, Any], dict[str, Any]]:
    """Return the schema of each type that routes name, and the components that they refer to."""
    named = [route.body for route in routes] + [reply.body for route in routes for reply in route.replies]
    types = list(dict.fromkeys([Problem, *(each for each in named if each is not None)]))
    found, components = msgspec.json.schema_components(types, ref_template=_REF)
    for (name, field), more in _REFINED.items():
        if name in components:
            components[name]["properties"][field].update(more)
    return dict(zip(types, found, strict=True)), components


def _operation(route: Route, schemas: Mapping[Any, Any], *, asks_token: bool) -> dict[str, Any]:
    summary, _, description = (getdoc(route.handler) or "").partition("\n")
    operation: dict[str, Any] = {
        "operationId": "_".join([route.method.lower(), *re.findall(r"\w+", route.path)]),
        "summary": summary.rstrip("."),
        "tags": [_tag(route)],
        "parameters": [*_in_path(route.path), *_in_query(route.query)],
        "responses": {},
    }
    if description.strip():
        operation["description"] = description.strip()
    if asks_token:
        operation["security"] = [{"token": []}]
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _bodies(route, schemas)}
    responses: dict[str, Any] = operation["responses"]
    for reply in route.replies:
        _add_reply(responses, reply, schemas)
    for status in _problems(route, asks_token=asks_token):
        _add_problem(responses, status, schemas)
        if not is_for_programs(route.path):
            # A browser is told in words.
            responses[str(status)]["content"].setdefault("text/html", {})
    return operation


def _bodies(route: Route, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    return {media: {"schema": schemas[route.body]} for media in route.media}


def _tag(route: Route) -> str:
    return {Access.OPEN: "open", Access.BACKEND: "back ends", Access.ADMIN: "operators"}[route.access]


def _problems(route: Route, *, asks_token: bool) -> list[int]:
    """Return the statuses of all problems that a route can answer with."""
    found = {500, *route.problems}
    if asks_token:
        found.add(401)
    if route.access is (Access.ADMIN if asks_token else Access.BACKEND):
        found.add(403)
    if route.body is not None:
        found |= {400, 413}
    if len(route.media) > 1:
        found.add(415)
    if route.query is not None or "{code}" in route.path:
        found.add(400)
    if route.shows_codes:
        found.add(429)
    return sorted(found)


def _response(responses: dict[str, Any], status: int, means: str) -> dict[str, Any]:
    response: dict[str, Any] = responses.setdefault(
        str(status), {"description": means, "headers": {**_ID, **_HEADERS.get(status, {})}, "content": {}}
    )
    if means not in response["description"]:
        response["description"] += f"; or: {means}"
    return response


def _add_reply(responses: dict[str, Any], reply: Reply, schemas: Mapping[Any, Any]) -> None:
    response = _response(responses, reply.status, reply.means)
    if reply.media is not None:
        response["content"][reply.media] = {"schema": schemas[reply.body]} if reply.body is not None else {}


def _add_problem(responses: dict[str, Any], status: int, schemas: Mapping[Any, Any]) -> None:
    kinds = [kind for kind in KINDS if kind.status == status]
    response = _response(responses, status, " or ".join(kind.title for kind in kinds))
    types = {"enum": [kind.type for kind in kinds]}
    schema = {"allOf": [schemas[Problem], {"properties": {"type": types}}]}
    response["content"][CONTENT_TYPE] = {"schema": schema}


def _in_path(path: str) -> list[dict[str, Any]]:
    names = re.findall(r"\{(\w+)", path)
    return [{"name": name, "in": "path", "required": True, "schema": _PARAMETERS[name]} for name in names]


def _in_query(query: Any) -> list[dict[str, Any]]:
    """Return the fields of a structure as query parameters."""
    if query is None:
        return []
    _, components = msgspec.json.schema_components([query], ref_template=_REF)
    (schema,) = components.values()
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _present(field)}
        for name, field in schema["properties"].items()
    ]


def _present(field: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of a field that is there: in a query there is no null, what is None is left out."""
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else field


ROUTES: Final = (Route("GET", _PATH, get_openapi, replies=(Reply(200, "The document", body=dict[str, Any]),)),)
