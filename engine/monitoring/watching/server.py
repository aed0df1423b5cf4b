"""The pages of the runs over HTTP, to be read and nothing else."""

import hmac
import ipaddress
import json
import socket
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from werkzeug.exceptions import Forbidden, HTTPException, MisdirectedRequest, NotFound
from werkzeug.routing import Map, RequestRedirect, Rule
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.utils import redirect
from werkzeug.wrappers import Request, Response

from engine.config.options import ConfigError
from engine.monitoring.report import page
from engine.monitoring.report.data import RunRecord, read_run
from engine.monitoring.watching.comparison import MOST, compare
from engine.monitoring.watching.found_runs import RunList, stamp_of
from engine.monitoring.watching.machine_load import MachineLoad

_FOLDER = Path(__file__).parent
_COOKIE = "inception_watch"
_HEADERS = {
    # Nothing but the page itself, and its own questions whether there is something new.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Application:
    """The pages as a WSGI application; `token`: what a visitor must know, if not empty; `hosts`: by which names the server may
    be called, any where empty (a page elsewhere could have its own name mean this machine)."""

    def __init__(self, roots: Sequence[Path], token: str = "", hosts: Sequence[str] = ()):
        self._runs, self._load, self._token, self._hosts = RunList(roots), MachineLoad(), token, hosts
        self._pages: dict[str, tuple[str, str]] = {}  # of each run the stamp and the page
        self._routes = Map(
            [
                Rule("/", endpoint=self._list),
                Rule("/stamp", endpoint=self._list_stamp),
                Rule("/run/<path:name>/", endpoint=self._run),
                Rule("/run/<path:name>/stamp", endpoint=self._run_stamp),
                Rule("/compare", endpoint=self._comparison),
                Rule("/compare/stamp", endpoint=self._comparison_stamp),
            ]
        )

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        request = Request(environ)
        try:
            response = self._answer(request)
        except RequestRedirect:  # to the same page with its slash
            response = redirect(quote(request.path + "/"))
        except HTTPException as error:
            response = Response(f"{error.code} {error.name}\n", error.code, mimetype="text/plain")
        response.headers.update(_HEADERS)
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        if self._hosts and request.host.rpartition(":")[0] not in self._hosts and request.host not in self._hosts:
            raise MisdirectedRequest
        if request.method not in ("GET", "HEAD"):
            raise Forbidden
        if self._token and not self._is_token(request.cookies.get(_COOKIE, "")):
            if not self._is_token(request.args.get("token", "")):
                raise Forbidden
            response = redirect(quote(request.path))  # the address that stays in the browser is without it
            response.set_cookie(_COOKIE, self._token, httponly=True, samesite="Strict")
            return response
        endpoint, values = self._routes.bind_to_environ(request.environ).match()
        answer = endpoint(request, **values)
        return answer if isinstance(answer, Response) else Response(answer, mimetype="text/html")

    def _is_token(self, told: str) -> bool:
        return hmac.compare_digest(*(text.encode("utf-8", "surrogatepass") for text in (told, self._token)))

    def _list(self, request: Request) -> str:
        stamp = self._stamp_of_all()  # before what is read, so that what comes meanwhile is seen as new
        summaries = self._runs.summaries()
        return page.template("runs.html", _FOLDER).render(runs=summaries, most=MOST, live=True, stamp=stamp)

    def _run(self, request: Request, name: str) -> str:
        folder = self._folder(name)
        stamp = stamp_of(folder)
        if self._pages.get(name, ("", ""))[0] != stamp:
            self._pages[name] = (stamp, page.render(_read(folder), live=True, stamp=stamp))
        return self._pages[name][1]

    def _comparison(self, request: Request) -> str:
        chosen = self._chosen(request)
        stamp = self._stamp(chosen.values())
        runs = {name: _read(folder) for name, folder in chosen.items()}
        return page.template("comparison.html", _FOLDER).render(**compare(runs), live=True, stamp=stamp)

    def _list_stamp(self, request: Request) -> Response:
        return self._stamped(self._stamp_of_all())

    def _run_stamp(self, request: Request, name: str) -> Response:
        return self._stamped(stamp_of(self._folder(name)))

    def _comparison_stamp(self, request: Request) -> Response:
        return self._stamped(self._stamp(self._chosen(request).values()))

    def _stamped(self, stamp: str) -> Response:
        return Response(json.dumps({"stamp": stamp, "load": self._load.line()}), mimetype="application/json")

    def _stamp_of_all(self) -> str:
        return self._stamp(self._runs.by_name().values())

    @staticmethod
    def _stamp(folders: Iterable[Path]) -> str:
        return str(hash(tuple((str(folder), stamp_of(folder)) for folder in folders)))

    def _folder(self, name: str) -> Path:
        """The run of that name, among those that were found: no address leads to any other file."""
        try:
            return self._runs.by_name()[name]
        except KeyError:
            raise NotFound from None

    def _chosen(self, request: Request) -> dict[str, Path]:
        names = request.args.getlist("run")[:MOST]
        if not names:
            raise NotFound
        return {name: self._folder(name) for name in names}


def _read(folder: Path) -> RunRecord:
    try:
        return read_run(folder)
    except (ConfigError, ValueError, OSError):  # removed meanwhile, or half written
        raise NotFound from None


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        if type == "error":
            print(message % args, file=sys.stderr)


def serve(roots: Sequence[Path], host: str, port: int, token: str) -> tuple[BaseWSGIServer, str]:
    """A server that listens, and the address to open; `serve_forever()` answers. Raises OSError where the port is taken."""
    own = is_own(host)
    application = Application(roots, token, ("127.0.0.1", "localhost", "[::1]", host) if own else ())
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Listening here: the library would print and end the process where it cannot.
    with socket.create_server((host, port), family=family) as listening:
        settings: dict[str, Any] = {"threaded": True, "request_handler": _Quiet, "fd": listening.fileno()}
        taken = listening.getsockname()[1]
        server = make_server(host, taken, application, **settings)
    shown = f"[{host}]" if ":" in host else host
    return server, f"http://{shown}:{taken}/" + (f"?token={token}" if token else "")


def is_own(host: str) -> bool:
    """Whether only this machine can reach what listens at `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
