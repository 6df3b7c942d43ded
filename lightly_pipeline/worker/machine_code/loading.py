"""Kernels as machine code: compiled once, kept, and loaded without their compiler ever after."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import json
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from lightly_pipeline.worker.machine_code.parameters import Parameter, flat

_lock = threading.Lock()
_loaded: dict[str, Kernels] = {}
_C = ctypes.CDLL(None)
_C_LIBRARY = ("memset", "memcpy", "memmove")
#: Symbol of each kernel, names it refers to, object code.
Machine = tuple[dict[str, str], list[str], list[bytes]]
#: Files of machine code in a folder: of this version, earlier ones, and other processors that share it.
_KEPT = 16


@dataclass(frozen=True)
class Kernels:
    """The compiled functions of a package; each takes the address of its int64 parameters."""

    functions: Mapping[str, Callable[[int], int]]
    #: Keeps the machine code alive.
    engine: Any

    def call(self, name: str, *values: Parameter) -> int:
        """Call a kernel made by `addresses.kernel`; arrays are written to where the kernel does so."""
        block = np.array(flat(values), dtype=np.int64)
        return self.functions[name](block.ctypes.data)


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f"The worker needs {package}: install lightly-pipeline[worker].")
    return Path(spec.origin).parent


def _cache_folders(package: str) -> list[Path]:
    """Where machine code may be kept, best first: `__pycache__`, the user's cache, a private folder in temp."""
    folders = [Path(cache_from_source(str(_folder(package) / "__init__.py"))).parent]
    base = os.environ.get("XDG_CACHE_HOME") or (
        os.path.join(os.environ["HOME"], ".cache") if os.environ.get("HOME") else ""
    )
    if base:
        folders.append(Path(base) / "lightly-pipeline")
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    with suppress(OSError):  # none that can be written to
        folders.append(Path(tempfile.gettempdir()) / f"lightly-pipeline-{user}")
    return folders


def _key(package: str) -> str:
    sources = [*sorted(Path(__file__).parent.glob("*.py")), *sorted(_folder(package).glob("*.py"))]
    # The compilers' metadata would take ten times as long to read.
    versions = [_folder(compiler) / "_version.py" for compiler in ("numba", "llvmlite")]
    parts = [
        package,
        *(path.read_bytes().hex() for path in (*sources, *versions)),
        llvm.get_host_cpu_name(),
        llvm.get_host_cpu_features().flatten(),
        llvm.get_process_triple(),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _is_private(folder: Path) -> bool:
    """Machine code is only loaded from a folder that nobody else can write to."""
    if not hasattr(os, "getuid"):
        return True
    status = folder.stat()
    return status.st_uid in (os.getuid(), 0) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _read(file: Path) -> Machine | None:
    try:
        if not _is_private(file.parent):
            return None
        content = file.read_bytes()
    except OSError:
        return None
    digest, _, rest = content.partition(b"\n")
    if hashlib.sha256(rest).hexdigest().encode() != digest:
        return None  # torn or foreign: compile again
    head, _, objects = rest.partition(b"\n")
    header = json.loads(head)
    result, offset = [], 0
    for size in header["sizes"]:
        result.append(objects[offset : offset + size])
        offset += size
    return header["symbols"], header["externals"], result


def _write(file: Path, symbols: dict[str, str], externals: list[str], objects: list[bytes]) -> bool:
    head = json.dumps({"symbols": symbols, "externals": externals, "sizes": [len(code) for code in objects]}).encode()
    rest = head + b"\n" + b"".join(objects)
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        if not _is_private(file.parent):
            return False
        handle, part = tempfile.mkstemp(dir=file.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)
            os.chmod(part, 0o644)  # what root compiled serves everybody
            os.replace(part, file)
        except BaseException:
            os.unlink(part)
            raise
    except OSError:
        return False  # a cache that cannot be written costs time, nothing else
    _drop_oldest(file.parent)
    return True


def _drop_oldest(folder: Path) -> None:
    """Every version of the sources leaves a file."""
    with suppress(OSError):  # somebody else drops them, too
        for file in sorted(folder.glob("kernels-*.bin"), key=lambda file: -file.stat().st_mtime)[_KEPT:]:
            file.unlink()


@contextmanager
def _compiler_at_work() -> Iterator[None]:
    """numba compiles in the block, also where NUMBA_DISABLE_JIT says that it shall not: kernels are no Python."""
    from numba import config

    disabled = config.DISABLE_JIT
    config.DISABLE_JIT = 0
    try:
        yield
    finally:
        config.DISABLE_JIT = disabled


def _compile(package: str) -> Machine:
    with _compiler_at_work():
        module = importlib.import_module(f"{package}.table")
    machine = _target_machine()
    symbols, objects, externals = {}, [], set()
    for name, function in module.KERNELS.items():
        ir = llvm.parse_assembly(function.inspect_llvm())
        symbols[name] = function.native_name
        objects.append(machine.emit_object(ir))
        externals |= {item.name for item in (*ir.functions, *ir.global_variables) if item.is_declaration}
    return symbols, sorted(name for name in externals if not name.startswith("llvm.")), objects


def _resolve(externals: list[str]) -> None:
    """Tell MCJIT every name the machine code refers to; when one is missing it leaves all of them null.

    Compiled loops call memset and its kin. The rest belongs to numba's error branch, which cannot be reached
    (the kernels raise nothing): it ends in `abort`, loudly, rather than in a jump to nowhere.
    """
    for name in (*_C_LIBRARY, *externals):
        if llvm.address_of_symbol(name) is not None:
            continue  # the process's own, or numba's, on which other code relies
        for library in (ctypes.pythonapi, _C):
            function = getattr(library, name, None)
            if function is not None:
                break
        address = ctypes.cast(function or _C.abort, ctypes.c_void_p).value
        llvm.add_symbol(name, address)


def _target_machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        jit=True,
        codemodel="jitdefault",
    )


def _load(package: str) -> Kernels:
    name = f"kernels-{_key(package)}.bin"
    found = None
    for folder in _cache_folders(package):
        found = _read(folder / name)
        if found:
            break
    if not found:
        found = _compile(package)
        any(_write(folder / name, *found) for folder in _cache_folders(package))
    symbols, externals, objects = found
    _resolve(externals)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
    for code in objects:
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    prototype = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
    functions = {name: prototype(engine.get_function_address(symbol)) for name, symbol in symbols.items()}
    return Kernels(functions=functions, engine=engine)


def kernels_of(package: str) -> Kernels:
    """The kernels in the `KERNELS` of a package's module `table`, from the cache or compiled now.

    Compiling takes some seconds, once per machine and version. What the code depends on has to lie in the package.
    """
    if package not in _loaded:
        with _lock:  # one is compiled at a time
            if package not in _loaded:
                _loaded[package] = _load(package)
    return _loaded[package]
