"""Replacing attributes of moto's classes for as long as a sandbox is open, and putting the old ones back."""

from types import TracebackType
from typing import Any

_ABSENT = object()


class Grafts:
    """A stack of replaced attributes; as a context manager it puts them back at the end."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> "Grafts":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def replace(self, owner: Any, name: str, value: Any) -> Any:
        """Set `owner.name` and return what stood there on `owner` itself or in its bases."""
        before = getattr(owner, name, None)
        self._undo.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, value)
        return before

    def undo(self) -> None:
        """Put everything back, the last first."""
        while self._undo:
            owner, name, value = self._undo.pop()
            if value is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, value)
