"""The gateway site where there is no gateway: options, scripts, and what it says of the rest."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hepdask_ml.config import record_of
from hepdask_ml.errors import HepdaskError, InputError, SiteError
from hepdask_ml.facility import gateway_client
from hepdask_ml.facility.gateway import GatewayOptions, GatewaySite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def options(**given: Any) -> GatewayOptions:
    return record_of(GatewayOptions, given, "the site gateway: options.")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"Address": "http://a"}, r'options\.Address is no setting: did you mean "address"\?'),
        ({"address": "localhost:8000"}, "options.address is .* must begin with http:// or https"),
        ({"address": "http://me:secret@a"}, "it must hold no password: see auth"),
        ({"auth": "kerberoz"}, 'did you mean "kerberos"'),
        ({"secret_variable": "X"}, "a secret is for auth: basic or jupyterhub"),
        ({"auth": "kerberos", "secret_file": "x"}, "a secret is for auth: basic or jupyterhub"),
        (
            {"auth": "basic", "secret_variable": "X", "secret_file": "x"},
            "secret_variable and secret_file are both given: drop one",
        ),
        ({"auth": "jupyterhub", "user": "alice"}, "user is alice without auth: basic"),
        ({"connect": "a", "cluster": {"image": "b"}}, "cluster is for a new one"),
        ({"client": "module"}, 'it must be written "module:Class"'),
        ({"cluster": "image"}, "options.cluster is .* must be a mapping"),
        ({"idle": "soon"}, '"soon" is no duration'),
    ],
)
def test_wrong_options_get_a_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        options(**given)


def test_workers_and_threads_that_cannot_be_had_get_a_sentence() -> None:
    with pytest.raises(InputError, match="threads is 4, which the gateway decides"):
        GatewaySite(threads=4)
    with pytest.raises(InputError, match="workers is 4, but a cluster that runs already is used"):
        GatewaySite(4, options=options(connect="a"))


def test_the_script_shows_what_would_be_asked_and_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PASSWORD", "hush")
    asked = options(
        address="https://gateway.example",
        auth="basic",
        user="alice",
        secret_variable="PASSWORD",
        cluster={"image": "hep:1"},
        client="lab:Gateway",
    )
    assert GatewaySite(3, options=asked).script().splitlines() == [
        "# at https://gateway.example, by basic as alice, with the secret in the variable PASSWORD",
        "# by the client lab:Gateway, which may do more",
        'POST /api/v1/clusters/            {"cluster_options": {"image": "hep:1"}}',
        'POST /api/v1/clusters/NAME/scale  {"count": 3}',
        "# at the end",
        "DELETE /api/v1/clusters/NAME",
    ]
    assert "hush" not in repr(asked)
    script = GatewaySite(options=options(connect="mine", auth="jupyterhub")).script()
    assert script.endswith("GET /api/v1/clusters/mine")
    assert "address of Dask's configuration" in script


def fails(**given: Any) -> HepdaskError:
    with pytest.raises(HepdaskError) as told, GatewaySite(options=options(**given)).open():
        pass
    assert "\n" not in str(told.value)
    return told.value


def test_nobody_at_the_address_is_a_site_error() -> None:
    error = fails(address="http://127.0.0.1:9")
    assert isinstance(error, SiteError)
    assert "no Dask gateway answers at http://127.0.0.1:9" in str(error)


def test_no_address_at_all_is_an_input_error() -> None:
    error = fails()
    assert isinstance(error, InputError)
    assert "check options.address and options.auth, or gateway.address" in str(error)


class Answers(BaseHTTPRequestHandler):
    """Gives the same answer to everything."""

    status = 200
    patience = threading.Event()

    def do_GET(self) -> None:
        if self.status == 0:
            self.patience.wait(60)
            return
        body = b"<html>welcome</html>"
        with suppress(OSError):
            self.send_response(self.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def strange_server() -> Iterator[str]:
    """A web server that is no gateway."""
    Answers.patience.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        Answers.patience.set()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "kind", "sentence"),
    [
        (200, SiteError, "is no Dask gateway, or not well"),
        (404, InputError, "refuses what is asked (<html>welcome</html>): check the address"),
        (403, InputError, "does not let you in (403 Forbidden)"),
        (500, SiteError, "has an error of its own (<html>welcome</html>)"),
        (503, SiteError, "is no Dask gateway, or not well (503 Service Unavailable)"),
    ],
)
def test_another_server_is_told_from_a_gateway(
    strange_server: str,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    kind: type[HepdaskError],
    sentence: str,
) -> None:
    monkeypatch.setattr(Answers, "status", status)
    error = fails(address=strange_server, auth="basic")
    assert isinstance(error, kind)
    assert sentence in str(error)


def test_a_server_that_never_answers_is_not_waited_for(
    strange_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answers, "status", 0)

    def ask(self: gateway_client.Dialogue, question: Any, *_: Any, **others: Any) -> Any:
        return asked(self, question, 0.2, **others)

    asked = gateway_client.Dialogue.ask
    monkeypatch.setattr(gateway_client.Dialogue, "ask", ask)
    error = fails(address=strange_server, auth="basic")
    assert "no Dask gateway answers" in str(error)
    assert "TimeoutError" in str(error)


@pytest.mark.parametrize("content", ["", "\n", None])
def test_a_secret_that_is_not_there_gets_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
    error = fails(address="http://127.0.0.1:9", auth="basic", secret_file=str(file))
    assert isinstance(error, InputError)
    assert ("is empty" if content is not None else "cannot be read (No such file") in str(error)
    monkeypatch.delenv("NO_SUCH_SECRET", raising=False)
    error = fails(address="http://127.0.0.1:9", auth="jupyterhub", secret_variable="NO_SUCH_SECRET")
    assert "NO_SUCH_SECRET, named in secret_variable, is empty" in str(error)


def test_jupyterhub_without_a_token_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUPYTERHUB_API_TOKEN", raising=False)
    error = fails(address="http://127.0.0.1:9", auth="jupyterhub")
    assert isinstance(error, InputError)
    assert "JUPYTERHUB_API_TOKEN" in str(error)


def test_kerberos_sim_without_its_package_or_a_ticket_gets_a_sentence(
    strange_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kerberos", None)
    assert "needs the package pykerberos" in str(fails(address=strange_server, auth="kerberos"))

    class KrbError(Exception):
        pass

    def initialise(*_: Any, **__: Any) -> None:
        raise KrbError("No Kerberos credentials available")

    kerberos = SimpleNamespace(
        KrbError=KrbError,
        authGSSClientInit=initialise,
        GSS_C_MUTUAL_FLAG=1,
        GSS_C_SEQUENCE_FLAG=2,
    )
    monkeypatch.setitem(sys.modules, "kerberos", kerberos)
    monkeypatch.setattr(Answers, "status", 401)
    error = fails(address=strange_server, auth="kerberos")
    assert isinstance(error, InputError)
    assert "has no ticket for the gateway" in str(error)
    assert "(No Kerberos credentials available): run kinit" in str(error)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no_such_package:Gateway", "cannot be loaded (No module named 'no_such_package')"),
        ("json:Gateway", "cannot be loaded (module 'json' has no attribute 'Gateway')"),
        ("json:JSONDecoder", "it must be derived from dask_gateway.Gateway"),
    ],
)
def test_wrong_clients_get_a_sentence(name: str, sentence: str) -> None:
    error = fails(address="http://127.0.0.1:9", client=name)
    assert isinstance(error, InputError)
    assert f"options.client is {name}" in str(error)
    assert sentence in str(error)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_gateway", None)
    assert GatewaySite().script()
    assert "install hepdask-ml[gateway]" in str(fails(address="http://127.0.0.1:9"))


def test_a_state_folder_that_cannot_be_written_gets_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    site = GatewaySite(options=options(state=str(file / "folder")))
    with pytest.raises(InputError, match=r"options\.state is .* cannot be written"):
        site._folder()
