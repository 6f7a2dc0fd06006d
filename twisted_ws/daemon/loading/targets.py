"""From a target, ``package.module:Name`` or the name of an installed service, to the service object."""

from __future__ import annotations

import inspect
import os
import sys
import sysconfig
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from twisted_ws.errors import ConfigurationError
from twisted_ws.spelling import didYouMean

# The entry point group in which packages declare their services.
GROUP = "twisted_ws.services"


def loadService(target: str, options: Mapping[str, Any]) -> object:
    """Return the service object for `target`.

    Args:
        target: ``package.module:Name``, or the name of an installed service. A class is called with `options`; anything else is
            the service itself.
        options: keyword arguments.

    Raises:
        ConfigurationError: it cannot be found, imported or made; one line says why.
    """
    found = _imported(target) if ":" in target else _installed(target)
    if not isinstance(found, type):
        if options:
            raise ConfigurationError(f"The service {target} is not a class, so it takes no options: {', '.join(options)}.")
        return found
    try:
        return found(**options)
    except TypeError as error:
        signature = inspect.signature(found)
        try:
            signature.bind(**options)
        except TypeError as wrong:
            unknown = [name for name in options if name not in signature.parameters]
            if unknown:
                meant = didYouMean(unknown[0], signature.parameters)
                raise ConfigurationError(f"The service {target} has no option {unknown[0]}{meant}") from None
            raise ConfigurationError(f"The service {target} cannot be made with these options: {wrong}.") from None
        raise _failed(target, error) from error
    except (Exception, SystemExit) as error:
        if isinstance(error, ValueError) and found.__module__.startswith("twisted_ws."):
            # Our own services check their options: it is the operator's mistake, and its place in our code does not help.
            raise ConfigurationError(f"The service {target} cannot be made: {error}.") from None
        raise _failed(target, error) from error


def loadInterceptor(target: str) -> Any:
    """Return the interceptor for a target: a class is called without arguments, anything else is the interceptor itself.

    Raises:
        ConfigurationError: it cannot be found, imported or made; one line says why.
    """
    found = _imported(target, "interceptor")
    if isinstance(found, type):
        try:
            found = found()
        except Exception as error:
            raise _failed(target, error, "interceptor") from error
    if not callable(found):
        raise ConfigurationError(f"The interceptor {target} must be callable with (event, caller, call).")
    return found


def _failed(target: str, error: BaseException, what: str = "service") -> ConfigurationError:
    return ConfigurationError(f"The {what} {target} cannot be made: {type(error).__name__}: {error}{_place(error)}.")


# Where code that is not the user's is: Python, installed packages, and this package.
_LIBRARIES = tuple(
    f"{each}{os.sep}"
    for each in (*map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")), Path(__file__).parents[1])
)


def _place(error: BaseException) -> str:
    """Return where an error came from, in brackets: the last line of the user's code, else the last line; "" if unknown."""
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ is not None else []
    # Frames of this file are only those that called the user's code.
    frames = [each for each in frames if "importlib" not in each.filename and each.filename != __file__]
    own = [each for each in frames if not each.filename.startswith((*_LIBRARIES, "<"))] or frames
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""


def _imported(target: str, what: str = "service") -> Any:
    module, _, name = target.partition(":")
    if not module or not name:
        raise ConfigurationError(f"The {what} {target} must be written as package.module:Name.")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)  # as with python -m: modules in the working directory
    try:
        found: Any = import_module(module)
    except (Exception, SystemExit) as error:  # a script that is not meant to be imported may even exit
        if isinstance(error, ModuleNotFoundError) and module.endswith(".py"):
            raise ConfigurationError(
                f"The {what} {target} must be written as package.module:Name: write {Path(module).stem}:{name}."
            ) from None
        # The module, or one that it imports, is missing or broken.
        place = _place(error)
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            place = f" (searched the working directory, {here}, and Python's package directories)"
        raise ConfigurationError(f"The {what} {target} cannot be imported: {type(error).__name__}: {error}{place}.") from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigurationError(f"The module {module} has no {name}{didYouMean(part, dir(found))}") from None
    return found


def _installed(name: str) -> Any:
    known = {each.name: each for each in entry_points(group=GROUP)}
    if name not in known:
        isModule = name.isidentifier() and os.path.exists(f"{name}.py")
        meant = f": did you mean {name}:NAME?" if isModule else didYouMean(name, known)
        raise ConfigurationError(
            f"There is no installed service {name}{meant} Write package.module:Name, or see --help-services."
        )
    try:
        return known[name].load()
    except (Exception, SystemExit) as error:
        raise ConfigurationError(
            f"The installed service {name} ({known[name].value}) cannot be imported: {type(error).__name__}: {error}."
        ) from error


def describeInstalled() -> str:
    """Return a list of the installed services for a person: name, target, and the first line of its docstring."""
    lines = ["Installed services (use the name as TARGET in --service PATH=TARGET):"]
    for each in sorted(entry_points(group=GROUP)):
        lines.append(f"  {each.name:16} {each.value:40} {_summary(each)}".rstrip())
    return "\n".join(lines)


def _summary(entryPoint: EntryPoint) -> str:
    try:
        return (inspect.getdoc(entryPoint.load()) or "").partition("\n")[0].replace("``", "")
    except Exception as error:
        return f"(cannot be imported: {type(error).__name__}: {error})"
