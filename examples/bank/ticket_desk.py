"""The bank's ticket desk: the service that the agent's tool `route_request` calls.

POST /route {"team": "cards"} answers with the sentence that the customer reads. GET /tickets tells how
many tickets each team got.
"""

from __future__ import annotations

from collections import Counter

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

tickets: Counter[str] = Counter()


async def route(request: Request) -> Response:
    team = str((await request.json()).get("team", "")).strip()
    if not team:
        return PlainTextResponse("The field `team` is missing.", status_code=422)
    tickets[team] += 1
    return PlainTextResponse(f"Your request went to our {team} team (ticket {tickets.total()}).")


async def counts(request: Request) -> Response:
    return JSONResponse(dict(tickets))


app = Starlette(
    routes=[
        Route("/route", route, methods=["POST"]),
        Route("/tickets", counts),
    ]
)

if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=8000, log_level="warning")  # noqa: S104 -- a pod serves its Service
