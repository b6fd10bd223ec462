"""Keeps torch's compiler out of a process that does not compile: importing it takes three seconds of each start."""

import contextlib
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"
# where `torch._compile._disable_dynamo` keeps what `disable` has made of a function
_MADE = "__dynamo_disable"


class _Aside(ModuleType):
    """Stands in the place of ``torch._dynamo``, and gives way to it as soon as anything else is asked of it.

    Torch's optimizers import the compiler only to mark their methods as not to be compiled, and `torch.func.grad` only
    to turn off compiled autograd. Without the compiler there is nothing to mark and nothing to turn off.
    """

    def __init__(self) -> None:
        super().__init__(NAME)
        self.unmarked: list[Callable[..., Any]] = []
        self.compiled_autograd = _NoCompiledAutograd(f"{NAME}.compiled_autograd")

    def disable(self, fn: Callable[..., Any], recursive: bool = True, **_: Any) -> Callable[..., Any]:
        """The function as it is; it is marked once the compiler is there."""
        self.unmarked.append(fn)
        return fn

    def graph_break(self, msg: str = "") -> None:
        """Nothing is compiled that could be broken."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # what looks through sys.modules asks for these
            raise AttributeError(name)
        return getattr(self.give_way(), name)

    def give_way(self) -> ModuleType:
        """Import the compiler in this one's place."""
        import torch

        if sys.modules.get(NAME) is self:
            del sys.modules[NAME]
            del torch._dynamo
        for fn in self.unmarked:
            vars(fn).pop(_MADE, None)
        self.unmarked.clear()
        return importlib.import_module(NAME)


class _NoCompiledAutograd(ModuleType):
    """Stands in the place of ``torch._dynamo.compiled_autograd``, likewise."""

    def _disable(self) -> contextlib.AbstractContextManager[None]:
        """Nothing is on that could be turned off."""
        return contextlib.nullcontext()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


def leave_compiler_out() -> None:
    """Import torch's compiler only when something needs it. Does nothing if it is imported already."""
    import torch

    if NAME not in sys.modules:
        torch._dynamo = sys.modules[NAME] = _Aside()
