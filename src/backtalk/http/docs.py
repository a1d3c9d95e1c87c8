"""`/docs`: Swagger UI out of this package, so that it works where there is no internet.

The page obeys a strict Content-Security-Policy: nothing inline, and no request to anyone but this server.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from starlette.responses import FileResponse, HTMLResponse, Response

from backtalk.core.errors import NotFound

URL = "/docs"
_ASSETS = Path(__file__).parent / "docs_assets"
_PREFIX = "/docs/assets/"
_PACKED = {"content-encoding": "gzip"}
_FILES: Mapping[str, tuple[str, str, Mapping[str, str]]] = {
    "swagger-ui-bundle.js": ("swagger-ui-bundle.js.gz", "text/javascript", _PACKED),
    "swagger-ui.css": ("swagger-ui.css.gz", "text/css", _PACKED),
    "docs.js": ("docs.js", "text/javascript", {}),
    "favicon.png": ("favicon-32x32.png", "image/png", {}),
}
"""The assets, as (file, media type, headers). Packed ones go out as they lie there: every browser unpacks them."""
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
}

DESCRIPTION = """The backend behind a ChatGPT-shaped application, on OpenAI's wire: every SDK works against it.

**Keys.** While no key exists, programs on the same machine need none: *Try it out* works at once. `backtalk keys create`
makes a key and ends that; *Authorize* takes it.

**Streams.** With `stream: true` the answer is server-sent events. Each event is stored before it is sent, so a lost
line is taken up again behind the last number seen: `GET /v1/responses/{id}?stream=true&starting_after=N`.

**Errors** have one shape, `{"error": {"message", "type", "param", "code"}}` (below `/v1/messages` Anthropic's), and every
answer has an `x-request-id`.
"""

TAGS = (
    {
        "name": "Responses",
        "description": "Turns of talk: ask, stream, resume, cancel, and see what went into a prompt.",
    },
    {"name": "Chat", "description": "The same turns for programs that speak Chat Completions."},
    {"name": "Messages", "description": "The same turns for programs that speak Anthropic's Messages API."},
    {"name": "Conversations", "description": "Talks that are kept, as lists of items."},
    {"name": "Files", "description": "Uploads: text, Markdown, HTML and PDF can be searched once in a vector store."},
    {"name": "Vector stores", "description": "Collections of files that are searched by words and by meaning."},
    {"name": "Vector store files", "description": "The files of a vector store, and how far their reading is."},
    {"name": "Models", "description": "What can be called, and vectors of texts."},
    {"name": "Health", "description": "For load balancers and container engines. No key is needed."},
)


def is_docs(path: str) -> bool:
    """Whether a path is the documentation's. A browser reads it without a key; calls that it makes carry one."""
    return path in (URL, "/openapi.json") or path.startswith(_PREFIX)


def install(app: FastAPI) -> None:
    """Serves Swagger UI for `app` at its `docs_url`, unless that or its schema's is None."""
    if app.docs_url is None or app.openapi_url is None:
        return

    async def page(request: Request) -> Response:
        base = request.scope.get("root_path", "").rstrip("/")
        options = {**_OPTIONS, **(app.swagger_ui_parameters or {}), "url": f"{base}{app.openapi_url}"}
        return HTMLResponse(_page(app.title, base, options), headers=_HEADERS)

    app.add_route(app.docs_url, page, include_in_schema=False)
    app.add_route(_PREFIX + "{name}", _asset, include_in_schema=False)


_OPTIONS = {
    "deepLinking": True,
    "defaultModelsExpandDepth": 0,
    "displayRequestDuration": True,
    "validatorUrl": None,
}


async def _asset(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _FILES:
        raise NotFound(f"There is no {name[:128]!r} here.")
    file, media_type, headers = _FILES[name]
    return FileResponse(_ASSETS / file, media_type=media_type, headers={"cache-control": "max-age=3600", **headers})


def _page(title: str, base: str, options: Mapping[str, Any]) -> str:
    assets = html.escape(base + _PREFIX)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<link rel="icon" type="image/png" href="{assets}favicon.png">
<link rel="stylesheet" href="{assets}swagger-ui.css">
</head>
<body>
<div id="swagger-ui" data-options="{html.escape(msgspec.json.encode(options).decode())}"></div>
<script src="{assets}swagger-ui-bundle.js"></script>
<script src="{assets}docs.js"></script>
</body>
</html>
"""


def tags(own: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Our sections, then those of a user."""
    return [*map(dict, TAGS), *map(dict, own or ())]
