"""Speaks with a Dask gateway: the door to dask-gateway, which need not be installed.

The library's client is asynchronous here, in a loop of its own.  So every question has a time to be
answered in, notebooks can ask as well, and whatever is raised becomes one sentence.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from contextlib import contextmanager
from importlib import import_module
from inspect import isawaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hepdask_ml.errors import InputError, SiteError, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hepdask_ml.facility.gateway import GatewayOptions

ANSWER_S = 10.0
"""Time in which a gateway has to answer a question."""


def _library() -> Any:
    try:
        return import_module("dask_gateway")
    except ModuleNotFoundError:
        raise InputError(
            "the site gateway needs dask-gateway: install hepdask-ml[gateway]"
        ) from None


def is_plain(thing: Any, kind: str, method: str) -> bool:
    """Whether a thing has the library's own method, and not that of another client.

    Parameters
    ----------
    thing : object
        Made from the library's class, or from one that is derived from it.
    kind : str
        Name of the library's class.
    method : str
        Name of the method.

    Returns
    -------
    bool
        Whether it is the same.
    """
    return getattr(type(thing), method) is getattr(getattr(_library(), kind), method)


def _secret(options: GatewayOptions) -> str | None:
    if options.secret_variable:
        found = os.environ.get(options.secret_variable, "")
        place = f"the environment variable {options.secret_variable}, named in secret_variable,"
    elif options.secret_file:
        place = f"the file {options.secret_file}, named in secret_file,"
        try:
            found = Path(options.secret_file).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", "it is no text")
            raise InputError(f"{place} cannot be read ({reason}): check it") from None
    else:
        return None
    if not found:
        raise InputError(f"{place} is empty: put the password or the token there")
    return found


def _auth(options: GatewayOptions) -> Any:
    library = _library()
    if options.auth == "kerberos":
        try:
            import_module("kerberos")
        except ModuleNotFoundError:
            raise InputError(
                "auth: kerberos needs the package pykerberos: install it beside dask-gateway"
            ) from None
        return library.KerberosAuth()
    if options.auth == "jupyterhub":
        return library.JupyterHubAuth(api_token=_secret(options))
    return library.BasicAuth(username=options.user, password=_secret(options))


def _client_class(name: str | None) -> Any:
    library = _library()
    if name is None:
        return library.Gateway
    module, _, kind = name.partition(":")
    try:
        found = getattr(import_module(module), kind)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"the site gateway: options.client is {name}, which cannot be loaded ({words(error)}): "
            "install its package"
        ) from None
    if not (isinstance(found, type) and issubclass(found, library.Gateway)):
        raise InputError(
            f"the site gateway: options.client is {name}: it must be derived from "
            "dask_gateway.Gateway"
        )
    return found


async def _client(options: GatewayOptions) -> Any:
    """Make the gateway's client in the loop that it belongs to; it talks to nobody yet."""
    given: dict[str, Any] = {}
    if options.address:
        given["address"] = options.address
    if options.proxy_address:
        port = options.proxy_address.isdecimal()
        given["proxy_address"] = int(options.proxy_address) if port else options.proxy_address
    if options.auth:
        given["auth"] = _auth(options)
    return _client_class(options.client)(asynchronous=True, **given)


class Dialogue:
    """A gateway that is spoken to from ordinary code, and answers within a time, in sentences.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        Runs in another thread.
    options : GatewayOptions
        How to reach the gateway.

    Attributes
    ----------
    client : dask_gateway.Gateway
        Asynchronous; its methods are called within `ask`.
    address : str
        Where the gateway is.

    Raises
    ------
    InputError
        If options, or Dask's configuration, are no way to reach a gateway.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, options: GatewayOptions) -> None:
        self._loop = loop
        try:
            self.client = asyncio.run_coroutine_threadsafe(_client(options), loop).result()
        except (InputError, SiteError):
            raise
        except (TypeError, ValueError, KeyError, ImportError) as error:
            raise InputError(
                f"the gateway's client cannot be made ({words(error)}): check options.address and "
                "options.auth, or gateway.address and gateway.auth in Dask's configuration"
            ) from None
        self.address = str(self.client.address)

    def ask(
        self,
        question: Callable[[], Any],
        patience_s: float | None = ANSWER_S,
        *,
        advice: str = "change options.cluster, or gateway.cluster.options in Dask's configuration",
    ) -> Any:
        """Ask something.

        Parameters
        ----------
        question : callable
            Gives the answer, or something that can be awaited for it.
        patience_s : float or None
            Time for the answer in seconds; None waits for as long as the gateway does.
        advice : str
            What to do where it refuses.

        Returns
        -------
        object
            The answer.

        Raises
        ------
        InputError
            If the gateway refuses what is asked, or whoever asks.
        SiteError
            If it does not answer, or fails.
        """

        async def answer() -> Any:
            async with asyncio.timeout(patience_s):
                said = question()
                return await said if isawaitable(said) else said

        future = asyncio.run_coroutine_threadsafe(answer(), self._loop)
        try:
            with _in_a_sentence(self.address, advice):
                return future.result()
        finally:
            future.cancel()


@contextmanager
def spoken_to(options: GatewayOptions) -> Iterator[Dialogue]:
    """Have a gateway's client, and a loop for it.

    Parameters
    ----------
    options : GatewayOptions
        How to reach the gateway.

    Yields
    ------
    Dialogue
        Nothing was said yet.

    Raises
    ------
    InputError
        If options, or Dask's configuration, are no way to reach a gateway.
    """
    _library()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="hepdask-ml-gateway", daemon=True)
    thread.start()
    try:
        gateway = Dialogue(loop, options)
        try:
            yield gateway
        finally:
            gateway.ask(gateway.client.close)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def check_proxy(gateway: Dialogue) -> None:
    """See that the way to schedulers is there before one is started.

    Parameters
    ----------
    gateway : Dialogue
        The gateway.

    Raises
    ------
    SiteError
        If nothing answers.
    """
    place = urlsplit(gateway.client.proxy_address)
    try:
        socket.create_connection((place.hostname, place.port), ANSWER_S).close()
    except (OSError, TypeError) as error:
        raise SiteError(
            f"nothing answers at {place.netloc} ({words(error)}), where the gateway at "
            f"{gateway.address} should pass connections on: give options.proxy_address"
        ) from None


@contextmanager
def _in_a_sentence(address: str, advice: str) -> Iterator[None]:
    """Turn what the library raises into a sentence."""
    library, aiohttp = _library(), import_module("aiohttp")
    try:
        yield
    except library.GatewayClusterError as error:
        raise SiteError(
            f"the gateway at {address} has no such cluster, or could not start it "
            f"({words(error)}): try again, or show this to those who run it"
        ) from None
    except library.GatewayServerError as error:
        raise SiteError(
            f"the gateway at {address} has an error of its own ({words(error)}): show this to "
            "those who run it"
        ) from None
    except _kerberos_errors() as error:
        raise InputError(
            f"Kerberos has no ticket for the gateway at {address} ({words(error)}): run kinit"
        ) from None
    except aiohttp.ClientResponseError as error:
        raise _refused(address, error.status, error.message) from None
    except (aiohttp.ClientError, OSError) as error:
        raise SiteError(
            f"no Dask gateway answers at {address} ({words(error)}): check the address, and that "
            "it can be reached from here"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"the gateway at {address} refuses what is asked ({words(error)}): {advice}"
        ) from None


def _kerberos_errors() -> tuple[type[Exception], ...]:
    """Give what Kerberos raises, where it is used."""
    kerberos = sys.modules.get("kerberos")
    return (kerberos.KrbError,) if kerberos else ()


def _refused(address: str, status: int, message: str) -> InputError | SiteError:
    if status in {401, 403}:
        return InputError(
            f"the gateway at {address} does not let you in ({status} {message}): check "
            "options.auth, the user, and the password or token"
        )
    return SiteError(
        f"what answers at {address} is no Dask gateway, or not well ({status} {message}): check "
        "the address"
    )
