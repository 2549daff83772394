"""Handlers of what a later ComfyUI also has (assets, users, settings, subgraphs, replacements), and lists of files."""

from typing import Final

from aiohttp import web

from worker.standin.replacements import REPLACEMENTS
from worker.standin.server import STANDIN
from worker.standin.versions import GROWING_INPUTS

_SUBGRAPHS: Final = {
    "e590027aca743fec1c4f309e83ca259927efb054ee7f75140814a5cbae6205b3": "Video Face Detection (Mediapipe)",
    "f2c7ccedeb94ce3745a2f8f261d656ce11374fe0dfccaafb15a2f7f25a52faed": "Edge-Preserving Blur",
}


async def show_replacements(request: web.Request) -> web.StreamResponse:
    """Answer which node types stand in the place of others."""
    return web.json_response(REPLACEMENTS)


async def show_subgraphs(request: web.Request) -> web.StreamResponse:
    """Answer the subgraphs that the editor offers."""
    info = {"source": "templates", "info": {"node_pack": "comfyui"}}
    return web.json_response({key: info | {"name": name} for key, name in _SUBGRAPHS.items()})


async def show_users(request: web.Request) -> web.StreamResponse:
    """Answer that there is one user, whose files lie on the server."""
    return web.json_response({"storage": "server", "migrated": False})


async def show_settings(request: web.Request) -> web.StreamResponse:
    """Answer the settings, of which there are none."""
    return web.json_response({})


async def list_assets(request: web.Request) -> web.StreamResponse:
    """Answer the registered files, the newest first; 503 without `--enable-assets`."""
    assets = request.app[STANDIN].executor.assets
    if not assets.enabled:
        message = "Assets system is disabled. Start the server with --enable-assets to use this feature."
        error = {"code": "SERVICE_DISABLED", "message": message, "details": {}}
        return web.json_response({"error": error}, status=503)
    known = list(reversed(assets.known.values()))
    return web.json_response({"assets": known, "total": len(known), "has_more": False})


async def list_files(request: web.Request) -> web.StreamResponse:
    """Answer the files that lie directly in a folder, the newest first; from 0.33 on each names its folder too."""
    kind = request.match_info["kind"]
    folder = request.app[STANDIN].folders.folder(kind)
    if folder is None:
        return web.json_response({"error": "Invalid directory type"}, status=400)
    files = sorted((path for path in folder.iterdir() if path.is_file()), key=lambda path: -path.stat().st_mtime)
    end = f" [{kind}]" if request.app[STANDIN].version >= GROWING_INPUTS else ""
    return web.json_response([f"{path.name}{end}" for path in files])
