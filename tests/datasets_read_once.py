"""The datasets that configs name, which the tests of a module read once: that takes most of the time of wiring."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ssl_runner.config import building
from ssl_runner.data.dataset import Splits
from ssl_runner.runtime import no_download

Known = dict[str, tuple[Splits, dict[str, Any]]]


@contextmanager
def datasets_read_once(known: Known) -> Iterator[None]:
    """Inside, a dataset is read when it is first asked for, and each further config that asks gets the same one.

    Args:
        known: The datasets read so far, with their arguments; it is added to.
    """
    call = building._call

    def called(path: str, target: Callable[..., Any], /, *positional: Any, **arguments: Any) -> Any:
        if not getattr(target, "__module__", "").startswith("ssl_runner.data.sources."):
            return call(path, target, *positional, **arguments)
        # a dataset made from others has them among its arguments; they are known, so they stay where they are
        key = json.dumps([target.__name__, positional, arguments], sort_keys=True, default=id)
        if key in known:
            return known[key][0]
        found = call(path, target, *positional, **arguments)
        # a config is first checked with blank images in the place of those that have to be decoded
        if isinstance(found, Splits) and not no_download._absent.get():
            assert found.train.images[:100].any(), f"{path} is blank"
            known[key] = found, arguments
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "_call", called)
        yield
