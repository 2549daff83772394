"""Handlers that tell what the server is and has."""

import os
import platform
import sys
from typing import Final

from aiohttp import web

from worker.standin.server import STANDIN
from worker.standin.sockets import features
from worker.standin.versions import GROWING_INPUTS

_PACKAGES: Final = [
    {"name": "comfyui-frontend-package", "installed": "1.49.6", "required": "1.49.6"},
    {"name": "comfyui-workflow-templates", "installed": None, "required": "0.11.44"},
]


async def show_front_page(request: web.Request) -> web.StreamResponse:
    """Say what this is to somebody who opens it in a browser."""
    text = "<!doctype html><title>ComfyUI stand-in</title><p>A ComfyUI stand-in: it has the API, not the interface."
    return web.Response(text=text, content_type="text/html")


async def show_system(request: web.Request) -> web.StreamResponse:
    """Answer version and memory."""
    standin = request.app[STANDIN]
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    newer = standin.version >= GROWING_INPUTS
    system = {
        "os": sys.platform if newer else os.name,
        "ram_total": total,
        "ram_free": free,
        "comfyui_version": standin.options.version,
        "required_frontend_version": "1.49.6" if newer else "1.27.10",
        "installed_templates_version": None,
        "required_templates_version": "0.11.44" if newer else "0.1.95",
        **({"comfy_package_versions": _PACKAGES} if newer else {}),
        "python_version": f"{platform.python_version()} ({platform.python_implementation()})",
        "pytorch_version": "none (stand-in)",
        "embedded_python": False,
        **({"deploy_environment": "local-git"} if newer else {}),
        "argv": ["standin", *sys.argv[1:]],
    }
    device = {
        "name": "stand-in, no GPU",
        "type": "cpu",
        "index": None,
        "vram_total": total,
        "vram_free": free,
        "torch_vram_total": total,
        "torch_vram_free": free,
    }
    return web.json_response({"system": system, "devices": [device]})


async def show_features(request: web.Request) -> web.StreamResponse:
    """Answer what the server can do."""
    standin = request.app[STANDIN]
    return web.json_response(features(standin.version, assets=standin.options.assets))


async def show_node_types(request: web.Request) -> web.StreamResponse:
    """Answer every node type."""
    standin = request.app[STANDIN]
    return web.json_response({name: one.described(standin.version) for name, one in standin.types.items()})


async def show_node_type(request: web.Request) -> web.StreamResponse:
    """Answer one node type; an unknown one is an empty object."""
    name, standin = request.match_info["name"], request.app[STANDIN]
    known = name in standin.types
    return web.json_response({name: standin.types[name].described(standin.version)} if known else {})


async def show_model_folders(request: web.Request) -> web.StreamResponse:
    """Answer the names of the model folders."""
    return web.json_response(list(request.app[STANDIN].models))


async def show_models(request: web.Request) -> web.StreamResponse:
    """Answer the model files of one folder."""
    models = request.app[STANDIN].models
    folder = request.match_info["folder"]
    return web.json_response(list(models[folder])) if folder in models else web.Response(status=404)


async def show_model_metadata(request: web.Request) -> web.StreamResponse:
    """Answer what a model file tells about itself."""
    models, folder = request.app[STANDIN].models, request.match_info["folder"]
    name = request.query.get("filename", "")
    if name not in models.get(folder, ()) or not name.endswith(".safetensors"):
        return web.Response(status=404)
    return web.json_response({"modelspec.title": name.removesuffix(".safetensors")})


async def show_embeddings(request: web.Request) -> web.StreamResponse:
    """Answer the names of the embeddings."""
    return web.json_response(list(request.app[STANDIN].options.embeddings))


async def show_experimental_models(request: web.Request) -> web.StreamResponse:
    """Answer the model folders in the form of the experimental route."""
    models = request.app[STANDIN].models
    return web.json_response([{"name": name, "folders": [f"models/{name}"]} for name in models])


async def show_folder_paths(request: web.Request) -> web.StreamResponse:
    """Answer where model files lie."""
    return web.json_response({name: [f"models/{name}"] for name in request.app[STANDIN].models})


async def show_logs(request: web.Request) -> web.StreamResponse:
    """Answer the log as one text."""
    return web.json_response(request.app[STANDIN].console.text())


async def show_raw_logs(request: web.Request) -> web.StreamResponse:
    """Answer the log as the pieces in which it was written, and the size of the terminal."""
    entries = list(request.app[STANDIN].console.entries)
    return web.json_response({"entries": entries, "size": {"cols": 80, "rows": 24}})
