"""A client of the HTTP API, for Python programs and for the commands of autombw themselves.

    from service.client import Client

    with Client("http://127.0.0.1:8188") as autombw:
        job = autombw.submit({"name": "mine", "leaves": ["left", "right"], ...})
        for event in autombw.events(job.id):
            print(event.kind)

`AsyncClient` has the same methods, to be awaited. Answers are the models that the service answers with.
"""

from service.client.errors import (
    ApiError,
    Changed,
    ClientError,
    Conflicting,
    Missing,
    NoService,
    NotAllowed,
    ServiceFailed,
    TooManyRequests,
    WrongInput,
)
from service.client.in_async import AsyncClient
from service.client.in_sync import Client

__all__ = [
    "ApiError",
    "AsyncClient",
    "Changed",
    "Client",
    "ClientError",
    "Conflicting",
    "Missing",
    "NoService",
    "NotAllowed",
    "ServiceFailed",
    "TooManyRequests",
    "WrongInput",
]
