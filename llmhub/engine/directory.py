"""Who is meant by a name: ``provider/model`` to a target, with what is known of where it is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llmhub.core.errors import AuthFailed, AuthFailedError, InvalidRequest, InvalidRequestError
from llmhub.core.provider import Endpoint, Provider
from llmhub.engine.call import Target


@dataclass(frozen=True, slots=True)
class Directory:
    """Who can be asked.

    Parameters
    ----------
    providers
        All that are known, by name.
    endpoints
        Where those are that can be asked.
    """

    providers: Mapping[str, Provider]
    endpoints: Mapping[str, Endpoint]

    def target(self, model: str) -> Target:
        """Find whom ``provider/model`` names.

        Raises
        ------
        InvalidRequestError
            No provider is named, or none by that name is known.
        AuthFailedError
            The provider has no credentials; says which variables to set.
        """
        provider, rest = self.provider(model)
        name = model.partition("/")[0]
        endpoint = self.endpoints.get(name)
        if endpoint is None and provider.needs:
            raise AuthFailedError(AuthFailed(provider=name, path="model", message=_no_credentials(model, provider)))
        endpoint = endpoint or Endpoint()
        if not (endpoint.base_url or provider.base_url):
            said = (
                f"{model!r}: {name!r} has no public address; give Hub(endpoints={{{name!r}: Endpoint(base_url=...)}})"
            )
            raise InvalidRequestError(InvalidRequest(path="model", message=said))
        return Target(provider, endpoint, rest, model)

    def provider(self, model: str) -> tuple[Provider, str]:
        """Find the provider that ``provider/model`` names, be there credentials or not, and its name of the model.

        Raises
        ------
        InvalidRequestError
            No provider is named, or none by that name is known.
        """
        asked: object = model
        if not isinstance(asked, str):
            said = f"{asked!r:.80} is no model; write 'provider/model', such as 'openai/gpt-4o-mini'"
            raise InvalidRequestError(InvalidRequest(path="model", message=said))
        name, slash, rest = model.partition("/")
        if not slash or not rest or not name:
            example = f"openai/{model.strip('/') or 'gpt-4o-mini'}"
            said = f"{model!r} names no provider; write 'provider/model', such as {example!r}"
            raise InvalidRequestError(InvalidRequest(path="model", message=said))
        if name not in self.providers:
            said = f"{model!r}: {unknown_provider(name, self.providers)}"
            raise InvalidRequestError(InvalidRequest(path="model", message=said))
        return self.providers[name], rest


def unknown_provider(name: str, known: Iterable[str]) -> str:
    """Say that no provider has this name, and which there are.

    Examples
    --------
    >>> unknown_provider("opnai", ["anthropic", "openai"])
    "no provider is named 'opnai'. Did you mean 'openai'? There are anthropic, openai"
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"no provider is named {name!r}.{hint} There are {', '.join(known)}"


def _no_credentials(model: str, provider: Provider) -> str:
    groups = " or ".join(" and ".join(group) for group in provider.needs)
    return (
        f"{model!r} needs credentials: set {groups} in the environment, or give "
        f"Hub(endpoints={{{provider.name!r}: Endpoint(api_key=...)}}); "
        "the simulator (`llmhub sim`, `llmhub demo`) needs none"
    )
