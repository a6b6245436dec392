"""Full-text search over a small collection of articles: the service behind the agent's tool `searchArticles`.

GET /search?query=… gives the best articles, GET /articles/{id} a whole one, GET /openapi.json says so to
programs. The collection is a file of JSON lines (`id`, `title`, `text`), `corpus.jsonl` beside this one if
`CORPUS` names no other.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

CORPUS = Path(os.environ.get("CORPUS", Path(__file__).with_name("corpus.jsonl")))
MAX_RESULTS = 10
SNIPPET_CHARS = 200
# BM25's usual constants: how soon a repeated word stops to count, and how much long articles are held back.
SATURATION, LENGTH_WEIGHT = 1.2, 0.75


@dataclass(frozen=True)
class Article:
    id: str
    title: str
    text: str

    @property
    def words(self) -> list[str]:
        return words(f"{self.title} {self.title} {self.text}")  # a title counts twice


class Index:
    """BM25 over all articles, computed at each question: fine for thousands, not for millions."""

    def __init__(self, articles: list[Article]) -> None:
        self.articles = {article.id: article for article in articles}
        self._counts = {article.id: Counter(article.words) for article in articles}
        self._holders = Counter(word for counts in self._counts.values() for word in counts)
        lengths = [counts.total() for counts in self._counts.values()]
        self._mean_length = sum(lengths) / len(lengths) if lengths else 1.0

    def search(self, query: str, limit: int) -> list[tuple[float, Article]]:
        """The best articles that share a word with the query, best first."""
        scores = [(self._score(set(words(query)), id_), id_) for id_ in self.articles]
        best = sorted((pair for pair in scores if pair[0] > 0), key=lambda pair: (-pair[0], pair[1]))
        return [(score, self.articles[id_]) for score, id_ in best[:limit]]

    def _score(self, query: set[str], article: str) -> float:
        counts = self._counts[article]
        held_back = 1 - LENGTH_WEIGHT + LENGTH_WEIGHT * counts.total() / self._mean_length
        total = 0.0
        for word in query & counts.keys():
            holders = self._holders[word]
            rarity = math.log(1 + (len(self.articles) - holders + 0.5) / (holders + 0.5))
            total += rarity * counts[word] * (SATURATION + 1) / (counts[word] + SATURATION * held_back)
        return total


def words(text: str) -> list[str]:
    """In lower case, without the endings that plurals have."""
    return [
        word[:-1] if len(word) > 3 and word.endswith("s") else word
        for word in re.findall(r"\w+", text.lower())
    ]


def read_corpus(path: Path) -> Index:
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    return Index([Article(**json.loads(line)) for line in lines])


def build_app(index: Index) -> Starlette:
    async def search(request: Request) -> Response:
        query = request.query_params.get("query", "").strip()
        limit = request.query_params.get("limit", "3")
        if not query:
            return JSONResponse({"error": "the parameter `query` is missing"}, status_code=422)
        if not (limit.isdigit() and 1 <= int(limit) <= MAX_RESULTS):
            return JSONResponse({"error": f"`limit` is a number from 1 to {MAX_RESULTS}"}, status_code=422)
        found = index.search(query, int(limit))
        return JSONResponse(
            [
                {
                    "id": each.id,
                    "title": each.title,
                    "score": round(score, 2),
                    "text": each.text[:SNIPPET_CHARS],
                }
                for score, each in found
            ]
        )

    async def article(request: Request) -> Response:
        found = index.articles.get(request.path_params["article"])
        if found is None:
            return JSONResponse({"error": "there is no such article; search first"}, status_code=404)
        return JSONResponse({"id": found.id, "title": found.title, "text": found.text})

    async def document(_: Request) -> Response:
        return JSONResponse(OPENAPI)

    return Starlette(
        routes=[
            Route("/search", search),
            Route("/articles/{article}", article),
            Route("/openapi.json", document),
        ]
    )


OPENAPI: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Help articles", "version": "1"},
    "paths": {
        "/search": {
            "get": {
                "operationId": "searchArticles",
                "summary": "Finds help articles by words. Gives their beginnings, best first.",
                "parameters": [
                    {
                        "name": "query",
                        "in": "query",
                        "required": True,
                        "description": "A few telling words.",
                        "schema": {"type": "string"},
                    },
                    {
                        "name": "limit",
                        "in": "query",
                        "description": "How many articles, 3 if absent.",
                        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_RESULTS},
                    },
                ],
                "responses": {"200": {"description": "Articles."}},
            }
        },
        "/articles/{article}": {
            "get": {
                "operationId": "readArticle",
                "summary": "The whole text of one article.",
                "parameters": [
                    {
                        "name": "article",
                        "in": "path",
                        "required": True,
                        "description": "The id that a search gave.",
                        "schema": {"type": "string"},
                    }
                ],
                "responses": {"200": {"description": "The article."}},
            }
        },
    },
}

if __name__ == "__main__":
    # a pod serves its Service
    uvicorn.run(build_app(read_corpus(CORPUS)), host="0.0.0.0", port=8000, log_level="warning")  # noqa: S104
