"""Packages whose public functions load on first use.

The command must answer `--help` without importing torch, and `mobileclip.fuse` must be the function although
`fuse.py` is a module of the same name. Python binds a submodule to its package when it is first imported; `install`
keeps the function.
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    _home: Mapping[str, str]

    def __getattr__(self, name: str) -> Any:
        home = self.__dict__.get("_home", {})
        if name not in home:
            raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")
        value = getattr(import_module(f"{self.__name__}.{home[name]}"), name)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.__dict__.get("_home", {}) and isinstance(value, ModuleType):
            return  # the import system binding a submodule over the function of the same name
        super().__setattr__(name, value)


def install(package: str, home: Mapping[str, str]) -> None:
    """Make `package` resolve each name of `home` (name -> its submodule) when it is first used."""
    module = sys.modules[package]
    module.__class__ = _Package
    module.__dict__["_home"] = home
