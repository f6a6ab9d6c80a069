"""Lists in pages: the answer is the list, and its Link header says where the next page is."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Request, Response

MAX_ID = 2**63 - 1
"""The largest number of a row: databases refuse larger ones."""


def link_next(request: Request, response: Response, changes: Mapping[str, object] | None) -> None:
    """Point to the next page: this request with other query parameters; None: this is the last one.

    The link is a relative one (RFC 8288), so it holds behind any proxy and prefix.
    """
    if changes is not None:
        query = request.url.include_query_params(**changes).query
        response.headers["Link"] = f'<?{query}>; rel="next"'
