"""Composition root: the application of one stand-in."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from aiohttp import web

from worker.standin import (
    account_routes,
    control_routes,
    file_routes,
    information_routes,
    job_routes,
    middlewares,
    prompt_routes,
    upload_routes,
    websocket,
)
from worker.standin.options import StandinOptions
from worker.standin.server import STANDIN, Standin
from worker.standin.sockets import MAX_UPLOAD_BYTES
from worker.standin.versions import GROWING_INPUTS, STRICT, Version, parse_version

__all__ = ["STANDIN", "Standin", "StandinOptions", "create_app"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_GET: Final[dict[str, Handler]] = {
    "/ws": websocket.open_websocket,
    "/prompt": prompt_routes.show_queue_length,
    "/queue": prompt_routes.show_queue,
    "/history": prompt_routes.show_history,
    "/history/{prompt_id}": prompt_routes.show_history_entry,
    "/view": file_routes.view_file,
    "/object_info": information_routes.show_node_types,
    "/object_info/{name}": information_routes.show_node_type,
    "/models": information_routes.show_model_folders,
    "/models/{folder}": information_routes.show_models,
    "/view_metadata/{folder}": information_routes.show_model_metadata,
    "/embeddings": information_routes.show_embeddings,
    "/system_stats": information_routes.show_system,
    "/features": information_routes.show_features,
    "/experiment/models": information_routes.show_experimental_models,
}

_NEWER_GET: Final[dict[str, Handler]] = {
    "/node_replacements": account_routes.show_replacements,
    "/global_subgraphs": account_routes.show_subgraphs,
    "/users": account_routes.show_users,
    "/settings": account_routes.show_settings,
}

_POST: Final[dict[str, Handler]] = {
    "/prompt": prompt_routes.submit_prompt,
    "/queue": prompt_routes.change_queue,
    "/history": prompt_routes.change_history,
    "/interrupt": prompt_routes.interrupt,
    "/free": prompt_routes.free_memory,
    "/upload/image": upload_routes.upload_image,
    "/upload/mask": upload_routes.upload_mask,
}


def create_app(options: StandinOptions | None = None) -> web.Application:
    """Return the application of a stand-in; several can run in one process. Its state is `app[STANDIN]`."""
    app = web.Application(
        client_max_size=MAX_UPLOAD_BYTES,
        middlewares=[
            middlewares.guard_control,
            middlewares.answer_trouble,
            middlewares.disturb,
            middlewares.check_origin,
        ],
    )
    chosen = options or StandinOptions()

    @asynccontextmanager
    async def standin(app: web.Application) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="standin-") as temporary:
            threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="standin")
            app[STANDIN] = Standin(chosen, chosen.directory or Path(temporary), threads)
            app[STANDIN].start()
            yield
            await app[STANDIN].stop()
            await asyncio.to_thread(threads.shutdown, cancel_futures=True)

    app.cleanup_ctx.append(standin)
    app.on_shutdown.append(_cut_sockets)
    app.add_routes(_routes(parse_version(chosen.version)))
    return app


async def _cut_sockets(app: web.Application) -> None:
    """Cut the open sockets, so that nothing waits for them: a real server's clients see 1006 too."""
    app[STANDIN].sockets.abort()


def _routes(version: Version) -> list[web.RouteDef]:
    """Return all routes, those of ComfyUI also below /api, but for the internal ones."""
    routes = [
        web.get("/", information_routes.show_front_page),
        web.get("/standin/faults", control_routes.show_faults),
        web.post("/standin/faults", control_routes.add_fault),
        web.delete("/standin/faults", control_routes.clear_faults),
        web.get("/standin/log", control_routes.show_log),
        web.get("/internal/logs", information_routes.show_logs),
        web.get("/internal/logs/raw", information_routes.show_raw_logs),
        web.get("/internal/files/{kind}", account_routes.list_files),
        web.get("/internal/folder_paths", information_routes.show_folder_paths),
    ]
    if version >= STRICT:
        routes += [
            web.get("/api/jobs", job_routes.list_jobs),
            web.get("/api/jobs/{job_id}", job_routes.show_job),
            web.post("/api/jobs/cancel", job_routes.cancel_jobs),
            web.post("/api/jobs/{job_id}/cancel", job_routes.cancel_job),
        ]
    shown = _GET
    if version >= GROWING_INPUTS:
        shown = _GET | _NEWER_GET
        routes.append(web.get("/api/assets", account_routes.list_assets))
    for prefix in ("", "/api"):
        routes += [web.get(prefix + path, handler) for path, handler in shown.items()]
        routes += [web.post(prefix + path, handler) for path, handler in _POST.items()]
    return [*routes, web.get("/{path:.*}", _unknown)]


async def _unknown(request: web.Request) -> web.StreamResponse:
    """Answer a path that is none; another method than GET is thereby 405, as in ComfyUI."""
    return web.Response(status=404, content_type="application/octet-stream")
