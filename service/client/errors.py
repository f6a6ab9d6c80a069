"""What a client raises: the service's own words, by what kind of error it is."""

from __future__ import annotations

import httpx


class ClientError(Exception):
    """Anything that the client raises."""


class NoService(ClientError):
    """Nothing answers at this address, or what answers is no autombw service."""


class ApiError(ClientError):
    """The service answered with a problem (RFC 9457).

    status: of HTTP; title: the kind of problem; errors: each wrong field of a body, as {where, what};
    str() is its detail: what was wrong with which input, and what to do.
    """

    def __init__(
        self, status: int, title: str, detail: str, errors: list[dict[str, str]], retry_after: float | None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.errors = errors
        self.retry_after = retry_after


class WrongInput(ApiError):
    """The request is wrong as it is (400, 413, 422)."""


class NotAllowed(ApiError):
    """No token, a wrong one, or one of too small a role (401, 403)."""


class Missing(ApiError):
    """What is named does not exist (404)."""


class Conflicting(ApiError):
    """It does not fit the present state (409)."""


class Changed(ApiError):
    """It has changed since it was read (412)."""


class TooManyRequests(ApiError):
    """Too many requests, or too many jobs (429); `retry_after` in seconds."""


class ServiceFailed(ApiError):
    """The service could not do it (5xx)."""


_KINDS: dict[int, type[ApiError]] = {
    400: WrongInput,
    413: WrongInput,
    422: WrongInput,
    401: NotAllowed,
    403: NotAllowed,
    404: Missing,
    409: Conflicting,
    412: Changed,
    429: TooManyRequests,
}


def error_of(response: httpx.Response) -> ClientError:
    """The error that an answer with a status of 4xx or 5xx means; its body must have been read."""
    try:
        told = response.json()
        title, detail = str(told["title"]), str(told["detail"])
        errors = [{str(k): str(v) for k, v in each.items()} for each in told.get("errors") or []]
    except (ValueError, KeyError, TypeError, AttributeError):
        return NoService(
            f"{response.request.url} answered {response.status_code}; is that an autombw service?"
        )
    kind = _KINDS.get(response.status_code, ServiceFailed if response.status_code >= 500 else ApiError)
    return kind(response.status_code, title, detail, errors, retry_after(response))


def retry_after(response: httpx.Response) -> float | None:
    """The seconds that a service asks to wait; None where it names none."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else None
