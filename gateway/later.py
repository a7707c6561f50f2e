"""Modules that are named at the start and used later, if ever: their names are bound at once, and they are loaded with
the first use of anything in them. Like importlib.util.LazyLoader, whose modules another `import` loads all the same.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class Later(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def postpone(*names: str) -> None:
    """Let each of these modules, unless it is loaded already, be loaded by who uses it, and not by who imports it."""
    for name in names:
        sys.modules.setdefault(name, Later(name))
