"""Routes of tokens and of the audit, and who is asking."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from service.access.identity import Asker
from service.access.roles import Role
from service.api.context import Ctx
from service.api.paging import MAX_ID, link_next
from service.api.problems import responses
from service.db.access import AuditRecord, TokenRecord

router = APIRouter(prefix="/api/v1", tags=["access"])


class Whoami(BaseModel):
    """Who is asking."""

    name: str
    role: Role
    via: Literal["local", "bearer", "cookie"] = Field(
        description="local: this service asks for no token, as nobody but this machine reaches it."
    )


class NewToken(BaseModel):
    """A token to be made."""

    name: str = Field(
        min_length=1,
        max_length=80,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._@-]*$",
        description="Whose it is; the audit calls its owner so.",
        examples=["anna laptop"],
    )
    role: Role = Field(description="viewer reads; submitter also submits and changes jobs; admin all.")
    expires_days: float | None = Field(
        default=None, gt=0, le=3650, description="It is refused after so many days; never if not given."
    )


class MadeToken(BaseModel):
    """A token that was made."""

    token: str = Field(description="The secret: it is shown now and never again.")
    made: TokenRecord


@router.get("/whoami", summary="Who is asking")
def whoami(asker: Asker) -> Whoami:
    """The name and the role of the token that was shown."""
    return Whoami(name=asker.name, role=asker.role, via=asker.via)


@router.get("/tokens", summary="List tokens")
def tokens(context: Ctx) -> list[TokenRecord]:
    """All tokens without their secrets, also expired and revoked ones."""
    return context.store.tokens()


@router.post("/tokens", status_code=201, summary="Make a token", responses=responses(409))
def make_token(body: NewToken, context: Ctx) -> MadeToken:
    """The secret is in this answer alone: what is stored is its hash.

    Once a token was made, every request to the service needs one.
    """
    expires = None if body.expires_days is None else time.time() + body.expires_days * 86_400
    made, secret = context.store.create_token(body.name, body.role, expires)
    return MadeToken(token=secret.text, made=made)


@router.delete("/tokens/{name}", summary="Revoke a token", responses=responses(404, 409))
def revoke_token(name: str, context: Ctx) -> TokenRecord:
    """End a token, by its id or name, and every login with it, within a second."""
    return context.store.revoke_token(name)


@router.get("/audit", summary="Who did what")
def audit(
    request: Request,
    response: Response,
    context: Ctx,
    before: Annotated[int | None, Query(ge=1, le=MAX_ID, description="Only entries older than this.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[AuditRecord]:
    """Everything that was changed, and who was refused; the newest first."""
    found = context.store.audit_entries(before=before, limit=limit)
    link_next(request, response, {"before": found[-1].id} if len(found) == limit else None)
    return found
