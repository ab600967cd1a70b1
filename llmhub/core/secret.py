"""Credentials that are not shown: values whose ``repr``, ``str`` and format do not contain them.

Credentials are kept as `Secret` from where they are given to the functions that send them (`llmhub.providers.auth`), so
that tracebacks with local variables, logs and copies of a configuration hold none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NoReturn, Self

HIDDEN: Final = "[redacted]"


class _NotEncoded:
    """An immutable value that copies share and that is not pickled: a pickle shows what it contains."""

    __slots__ = ()

    def __copy__(self) -> Self:
        """Return the same object."""
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        """Return the same object."""
        return self

    def __reduce__(self) -> NoReturn:
        """Refuse."""
        raise TypeError(
            "credentials and headers are not pickled; pickle the Hub, with Hub(keys='carry') to include them"
        )


class Secret(_NotEncoded):
    """A string that only `reveal` returns. Equal strings and secrets are equal; an empty one is false.

    Parameters
    ----------
    value
        The credential.
    source
        Environment variable or file that it was read from; ``""`` if it was given in code.

    Examples
    --------
    >>> key = Secret("sk-123", source="OPENAI_API_KEY")
    >>> key, str(key), key.reveal()
    (Secret(source='OPENAI_API_KEY'), '[redacted]', 'sk-123')
    """

    __slots__ = ("_value", "source")

    def __init__(self, value: str = "", *, source: str = "") -> None:
        self._value = value
        self.source = source

    def reveal(self) -> str:
        """Return the credential itself."""
        return self._value

    def __repr__(self) -> str:
        """Return where the credential comes from."""
        return f"Secret(source={self.source!r})" if self.source else "Secret()"

    def __str__(self) -> str:
        """Return a constant."""
        return HIDDEN

    def __bool__(self) -> bool:
        """Return whether there is a credential."""
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        """Compare the credentials."""
        if isinstance(other, Secret):
            return self._value == other._value
        return self._value == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        """Return the hash of the credential."""
        return hash(self._value)


class SecretHeaders(_NotEncoded, Mapping[str, str]):
    """HTTP headers whose values are not shown, because a header of any name may hold a credential.

    Examples
    --------
    >>> headers = SecretHeaders({"X-Auth-Token": "t"})
    >>> headers, headers["X-Auth-Token"]
    (SecretHeaders('X-Auth-Token'), 't')
    """

    __slots__ = ("_secrets",)

    def __init__(self, headers: Mapping[str, str] | None = None) -> None:
        self._secrets = {name: Secret(value) for name, value in (headers or {}).items()}

    def __getitem__(self, name: str) -> str:
        """Return the value of a header; names are case-sensitive."""
        return self._secrets[name].reveal()

    def __iter__(self) -> Iterator[str]:
        """Return the names."""
        return iter(self._secrets)

    def __len__(self) -> int:
        """Return the number of headers."""
        return len(self._secrets)

    def __repr__(self) -> str:
        """Return the names only."""
        return f"SecretHeaders({', '.join(map(repr, self._secrets))})"
