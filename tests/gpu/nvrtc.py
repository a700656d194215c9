"""NVRTC, the compiler that CuPy uses, through its C interface: it needs no GPU."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@cache
def nvrtc() -> Any:
    """NVRTC of one of the packages that bring it, or None."""
    spec = find_spec("nvidia")
    places = list(spec.submodule_search_locations or []) if spec else []
    found = [
        library
        for place in places
        for library in sorted(Path(place).glob("*/lib/libnvrtc.so.*"))
        if "alt" not in library.name
    ]
    return ctypes.CDLL(str(found[-1])) if found else None


def compiled(library: Any, code: str, options: list[str]) -> tuple[bytes, str]:
    """Compile for one architecture; gives the binary, empty if that failed, and what was said."""
    program = ctypes.c_void_p()
    text = code.encode()
    assert not library.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None)
    words = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = library.nvrtcCompileProgram(program, len(options), words)
    log = _fetched(library, program, "ProgramLog").rstrip(b"\0").decode()
    binary = b"" if failed else _fetched(library, program, "CUBIN")
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return binary, log


def _fetched(library: Any, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    assert not library[f"nvrtcGet{what}Size"](program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    assert not library[f"nvrtcGet{what}"](program, buffer)
    return buffer.raw
