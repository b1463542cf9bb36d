"""The server of the page: JSON from the runs of one folder, on the loopback address alone."""

from __future__ import annotations

import getpass
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from nfilter import NfilterError
from nfilter_view import comparing, reviewing
from nfilter_view.guard import Guard
from nfilter_view.index import Filter, Index, filter_of
from nfilter_view.library import Library, Shelf, folder_of
from nfilter_view.overview import headline, overview

PAGE: Final = Path(__file__).parent / "page"
_MOST: Final = 200
_BODY: Final = 2**20
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class Pages:
    """The answers of the server. Each is made in a worker thread."""

    def __init__(self, library: Library, who: str) -> None:
        self._library = library
        self._who = who
        self._compared: dict[tuple[str | None, str | None], comparing.Difference] = {}

    def routes(self) -> list[Route]:
        """Return all routes."""
        run = "/api/runs/{key}"
        return [
            Route("/", _page),
            Route("/static/{name}", _static),
            Route("/api/runs", self._answer(self.runs)),
            Route(run, self._answer(self.overview)),
            Route(f"{run}/index", self._answer(self.facets)),
            Route(f"{run}/histogram", self._answer(self.histogram)),
            Route(f"{run}/rows", self._answer(self.rows)),
            Route(f"{run}/row", self._answer(self.row)),
            Route(f"{run}/review", self._answer(self.review)),
            Route(f"{run}/review/decide", self._answer(self.decide), methods=["POST"]),
            Route(f"{run}/review/draw", self._answer(self.draw), methods=["POST"]),
            Route("/api/compare", self._answer(self.compare)),
            Route("/api/compare/rows", self._answer(self.compare_rows)),
        ]

    def _answer(
        self, method: Callable[[Request, Mapping[str, Any]], Any]
    ) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            try:
                body = await _body(request)
                return JSONResponse(await run_in_threadpool(method, request, body))
            except (OSError, ValueError, NfilterError) as error:
                return JSONResponse({"error": str(error)}, status_code=400)

        return answer

    def runs(self, request: Request, body: Mapping[str, Any]) -> Any:
        """Every run with its headline."""
        shelves = self._library.shelves()
        base = self._library.root
        return {
            "root": str(base),
            "runs": [
                {"key": each.key, "folder": _folder(each.path, base), **headline(each.reader)}
                for each in shelves
            ],
        }

    def overview(self, request: Request, body: Mapping[str, Any]) -> Any:
        """The figures of a run."""
        shelf = self._shelf(request)
        reviews = shelf.reader.reviews()
        return {
            "key": shelf.key,
            "folder": _folder(shelf.path, self._library.root),
            "reviewed": sum(review.decides for review in reviews.values()),
            **overview(shelf.reader),
        }

    def facets(self, request: Request, body: Mapping[str, Any]) -> Any:
        """What rows can be filtered and sorted by; while the index is made, how far it is."""
        shelf = self._shelf(request)
        index = self._library.index(shelf)
        if index is None:
            return {"ready": False, "done": shelf.done, "of": shelf.reader.size()}
        return {
            "ready": True,
            "rows": index.columns.rows,
            **index.summary(),
            "stages": [*(stage.label for stage in shelf.reader.stages()), "encode"],
        }

    def histogram(self, request: Request, body: Mapping[str, Any]) -> Any:
        """A score's distribution."""
        index = self._index(self._shelf(request))
        name = request.query_params.get("score") or index.main_score
        return index.histogram(name) if name else None

    def rows(self, request: Request, body: Mapping[str, Any]) -> Any:
        """A page of the rows that a filter lets through."""
        shelf = self._shelf(request)
        index = self._index(shelf)
        places = index.find(filter_of(request.query_params))
        offset, limit = _whole(request, "offset", 0), min(_whole(request, "limit", 50), _MOST)
        reviews = shelf.reader.reviews()
        page = index.page(places[offset : offset + limit].tolist())
        for row in page:
            review = reviews.get(row["id"])
            row["review"] = review.action if review else None
        return {"total": len(places), "offset": offset, "rows": page}

    def row(self, request: Request, body: Mapping[str, Any]) -> Any:
        """Everything about one row; its neighbours as the table shows them."""
        shelf = self._shelf(request)
        found, index = self._row(shelf, request.query_params.get("id", ""), tokens=True)
        review = shelf.reader.reviews().get(found["id"])
        near = _named(found)
        places = index.places_of([*near, *found["parents"], *found["children"]])
        cards = dict(zip(places, index.page(list(places.values())), strict=True))
        return {
            **found,
            "choices": reviewing.choices(found),
            "answer": shelf.reader.answer_settings().get("kind"),
            "review": None
            if review is None
            else {name: getattr(review, name) for name in review.__slots__},
            "related": cards,
        }

    def review(self, request: Request, body: Mapping[str, Any]) -> Any:
        """The next rows to review, and how far the review is."""
        shelf = self._shelf(request)
        index = self._index(shelf)
        reviews = shelf.reader.reviews()
        if request.query_params.get("of") == "audit":
            names = reviewing.undecided(shelf.reader.drawn().ids, reviews)
            by_name = index.places_of(names)
            places: Any = [by_name[name] for name in names if name in by_name]
        else:
            wanted = filter_of(request.query_params)
            plain = wanted if wanted.sort else _borderline(wanted)
            places = reviewing.queue(index, reviews, plain)
        return {
            "left": len(places),
            "next": index.page(list(places[:20])),
            **reviewing.standing(shelf.reader, reviews),
        }

    def decide(self, request: Request, body: Mapping[str, Any]) -> Any:
        """Record a decision."""
        shelf = self._shelf(request)
        found, _ = self._row(shelf, str(body.get("id", "")), tokens=False)
        review = reviewing.decide(shelf.reader, found, body, self._who)
        return {
            "review": {name: getattr(review, name) for name in review.__slots__},
            **reviewing.standing(shelf.reader, shelf.reader.reviews()),
        }

    def draw(self, request: Request, body: Mapping[str, Any]) -> Any:
        """Draw rows at random for an audit."""
        shelf = self._shelf(request)
        size = body.get("n", 50)
        if not isinstance(size, int) or not 2 <= size <= 10_000:
            raise ValueError(f"n is {size!r:.80}; write a whole number from 2 to 10000")
        shelf.reader.audit(size)
        return reviewing.standing(shelf.reader, shelf.reader.reviews())

    def compare(self, request: Request, body: Mapping[str, Any]) -> Any:
        """The figures of two runs."""
        a, b = self._pair(request)
        found = comparing.figures(a.path, b.path)
        if self._library.index(a) is None or self._library.index(b) is None:
            return {**found, "ready": False}
        return {**found, "ready": True, "counts": self._difference(a, b).counts}

    def compare_rows(self, request: Request, body: Mapping[str, Any]) -> Any:
        """The rows whose fate differs."""
        a, b = self._pair(request)
        found = self._difference(a, b)
        kinds = {"kept_to_dropped": 0, "dropped_to_kept": 1, "other_label": 2}
        wanted = request.query_params.get("kind")
        if wanted and wanted not in kinds:
            raise ValueError(f"kind is {wanted!r:.80}; write one of {', '.join(kinds)}")
        kind = kinds[wanted] if wanted else None
        offset, limit = _whole(request, "offset", 0), min(_whole(request, "limit", 50), _MOST)
        return {"total": found.total(kind), "rows": found.page(kind, offset, limit)}

    def _difference(self, a: Shelf, b: Shelf) -> comparing.Difference:
        first, second = self._index(a), self._index(b)
        key = (f"{a.key} {a.mark}", f"{b.key} {b.mark}")
        if key not in self._compared:
            self._compared.clear()
            folders = (folder_of(a), folder_of(b))
            self._compared[key] = comparing.Difference(first, second, folders)
        return self._compared[key]

    def _pair(self, request: Request) -> tuple[Shelf, Shelf]:
        return self._named(request.query_params.get("a", "")), self._named(
            request.query_params.get("b", "")
        )

    def _row(self, shelf: Shelf, name: str, *, tokens: bool) -> tuple[dict[str, Any], Index]:
        index = self._index(shelf)
        place = index.place(name)
        if place is None:
            raise ValueError(f"no row {name!r:.80}")
        unreadable = name.startswith("line:")
        return shelf.reader.explain(
            name, chunk=None if unreadable else place[1], tokens=tokens
        ), index

    def _index(self, shelf: Shelf) -> Index:
        index = self._library.index(shelf)
        if index is None:
            raise ValueError("the index of this run is being made; ask again in a moment")
        return index

    def _shelf(self, request: Request) -> Shelf:
        return self._named(request.path_params["key"])

    def _named(self, key: str) -> Shelf:
        shelf = self._library.shelf(key)
        if shelf is None:
            raise HTTPException(404, "no such run")
        return shelf


def _borderline(wanted: Filter) -> Filter:
    from dataclasses import replace

    return replace(wanted, sort="borderline")


def _named(found: Mapping[str, Any]) -> list[str]:
    """The neighbours that voted about a row, as far as views name them."""
    names: dict[str, None] = {}
    for event in found["events"]:
        for note in event["notes"].values():
            near = note.get("neighbors") if isinstance(note, Mapping) else None
            names.update(dict.fromkeys(name for name in near or () if isinstance(name, str)))
    return list(names)[:50]


def _folder(path: Path, root: Path) -> str:
    return "." if path == root else path.relative_to(root).as_posix()


def _whole(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 12:
        raise ValueError(f"{name} is {text!r:.80}, not a whole number of at least 0")
    return int(text)


async def _body(request: Request) -> Mapping[str, Any]:
    if request.method != "POST":
        return {}
    if request.headers.get("content-type") != "application/json":
        raise ValueError("a decision is sent as application/json")
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > _BODY:
            raise ValueError("the request is too long")
    import json

    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError("the request is not a JSON object")  # noqa: TRY004 - a fault of form
    return value


def _page(_: Request) -> Response:
    return FileResponse(PAGE / "index.html", media_type="text/html; charset=utf-8")


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    files = {path.name: path for path in PAGE.iterdir() if path.suffix in _TYPES}
    if name not in files:
        return PlainTextResponse("no such file\n", status_code=404)
    return FileResponse(files[name], media_type=f"{_TYPES[files[name].suffix]}; charset=utf-8")


def application(library: Library, *, token: str, port: int, who: str) -> Any:
    """Return the server's application, behind its guard."""
    return Guard(Starlette(routes=Pages(library, who).routes()), token=token, port=port)


def serve(root: Path, port: int, who: str, opened: Callable[[str], None]) -> None:
    """Serve the runs at ``root`` on 127.0.0.1 until Ctrl-C; ``opened`` is called with the address of the page.

    Raises:
        StoreError: when there is no run.
        NfilterError: when the port is taken.
    """
    import uvicorn

    library = Library(root)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        # A browser that is opened below waits in the queue until the server answers.
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise NfilterError(
            f"port {port} cannot be used ({error.strerror}); choose another: --port 0 takes a free one"
        ) from error
    port = listener.getsockname()[1]
    token = secrets.token_urlsafe(32)
    app = application(library, token=token, port=port, who=who or getpass.getuser())
    opened(f"http://127.0.0.1:{port}/#{token}/")
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, lifespan="off"
    )
    uvicorn.Server(config).run(sockets=[listener])
