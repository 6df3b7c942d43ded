"""The API that the stand-in shows: Pexels' endpoints, schema and quirks under /v1/videos.

The quirks are real, and code that works here must have met them: the order of `video_files` is arbitrary;
an HLS entry calls itself video/mp4 and has neither size nor dimensions; `size` is given, null or absent;
`fps` is a float, null or absent; `next_page` and `prev_page` are absent at the ends; filters by duration
and size are ignored; the quota is told on success only.
"""

import json
import random
import time
from typing import Any
from urllib.parse import urlencode

from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from lightly_pipeline.sandbox.pexels.library import Library, Offer

_MAX_PER_PAGE = 80
_QUOTA = 20_000

_ROUTES = Map(
    [
        Rule("/v1/videos/popular/", endpoint="popular", methods=["GET"]),
        Rule("/v1/videos/search/", endpoint="search", methods=["GET"]),
        Rule("/v1/videos/videos/<int:video_id>", endpoint="video", methods=["GET"]),
    ],
    strict_slashes=False,
)


class Api:
    """Answers requests to the API from a library; `files_root` is where links to files point."""

    def __init__(self, library: Library, api_key: str, files_root: str):
        self._library = library
        self._api_key = api_key
        self._files_root = files_root
        self._remaining = _QUOTA

    def answer(self, request: Request) -> Response:
        """The answer to one request whose user agent is not blocked."""
        if request.headers.get("Authorization") != self._api_key:
            return json_response({"status": 401, "code": "Unauthorized"}, 401)
        try:
            endpoint, arguments = _ROUTES.bind_to_environ(request.environ).match()
            if endpoint == "video":
                try:
                    body = self._video(self._library.offer(arguments["video_id"]), request)
                except KeyError:
                    raise NotFound from None
            else:
                if endpoint == "search" and not request.args.get("query"):
                    return json_response({"status": 400, "code": "Bad Request"}, 400)
                body = self._page(request, str(endpoint))
        except HTTPException as error:
            return json_response({"status": error.code, "code": error.name}, error.code or 500)
        self._remaining = max(self._remaining - 1, 0)
        return json_response(
            body,
            200,
            {
                "X-Ratelimit-Limit": str(_QUOTA),
                "X-Ratelimit-Remaining": str(self._remaining),
                "X-Ratelimit-Reset": str(int(time.time()) + 30 * 86400),
            },
        )

    def _page(self, request: Request, endpoint: str) -> dict[str, Any]:
        page = max(request.args.get("page", 1, type=int), 1)
        per_page = min(max(request.args.get("per_page", 15, type=int), 1), _MAX_PER_PAGE)
        ids = list(self._library)
        if endpoint == "search":
            words = request.args["query"].lower().split()
            ids = [video_id for video_id in ids if _matches(self._library.offer(video_id), words)]
        begin = (page - 1) * per_page
        body: dict[str, Any] = {
            "page": page,
            "per_page": per_page,
            "videos": [
                self._video(self._library.offer(video_id), request) for video_id in ids[begin : begin + per_page]
            ],
            "total_results": len(ids),
            "url": f"{request.host_url}videos/",
        }
        link = f"{request.base_url.rstrip('/')}/?"
        query = {key: value for key, value in request.args.items() if key not in ("page", "per_page")}
        if begin + per_page < len(ids):
            body["next_page"] = link + _query(query, page + 1, per_page)
        if page > 1:
            body["prev_page"] = link + _query(query, page - 1, per_page)
        return body

    def _video(self, offer: Offer, request: Request) -> dict[str, Any]:
        creator = offer.creator.lower().replace(" ", "-")
        return {
            "id": offer.id,
            "width": offer.width,
            "height": offer.height,
            "duration": round(offer.seconds),
            "full_res": None,
            "tags": [],
            "url": f"{request.host_url}video/{offer.slug}-{offer.id}/",
            "image": f"{self._files_root}/videos/{offer.id}/pictures/preview-0.jpg",
            "avg_color": None,
            "user": {
                "id": sum(creator.encode()),
                "name": offer.creator,
                "url": f"{request.host_url}@{creator}",
            },
            "video_files": self._files(offer),
            "video_pictures": [
                {
                    "id": offer.id * 10,
                    "nr": 0,
                    "picture": f"{self._files_root}/videos/{offer.id}/pictures/preview-0.jpg",
                }
            ],
        }

    def _files(self, offer: Offer) -> list[dict[str, Any]]:
        chance = random.Random(offer.id)  # noqa: S311 - only shuffles
        base = f"{self._files_root}/video-files/{offer.id}"
        hls: dict[str, Any] = {
            "id": offer.id * 10 + 9,
            "quality": chance.choice(["hls", None]),
            "file_type": "video/mp4",
            "width": None,
            "height": None,
            "fps": None,
            "link": f"{base}/{offer.id}-hls.m3u8",
            "size": None,
        }
        files = [hls]
        for number, rendition in enumerate(offer.renditions):
            quality = "hd" if max(rendition.width, rendition.height) >= 1280 else "sd"
            rate = round(offer.fps) if offer.fps else 30
            name = f"{offer.id}-{quality}_{rendition.width}_{rendition.height}_{rate}fps-{number}.mp4"
            file: dict[str, Any] = {
                "id": offer.id * 10 + number,
                "quality": quality,
                "file_type": "video/mp4",
                "width": rendition.width,
                "height": rendition.height,
                "link": f"{base}/{name}",
            }
            if (fps := chance.choice(["given", "null", "absent"])) != "absent":
                file["fps"] = round(float(offer.fps), 3) if offer.fps and fps == "given" else None
            if (size := chance.choice(["given", "null", "absent"])) != "absent":
                # Footage that is not rendered yet has no size to tell; Pexels does not always tell it either.
                known = size == "given" and rendition.path.is_file()
                file["size"] = rendition.path.stat().st_size if known else None
            files.append(file)
        chance.shuffle(files)
        return files


def json_response(body: dict[str, Any], status: int, headers: dict[str, str] | None = None) -> Response:
    """`body` as a JSON document."""
    return Response(json.dumps(body), status, headers, content_type="application/json; charset=utf-8")


def _matches(offer: Offer, words: list[str]) -> bool:
    text = f"{offer.title} {offer.creator}".lower()
    return all(word in text for word in words)


def _query(query: dict[str, str], page: int, per_page: int) -> str:
    return urlencode({**query, "page": page, "per_page": per_page})
