"""Examples of answers in the OpenAPI document; a test holds them to the models."""

from __future__ import annotations

from typing import Any, Final

MODELS: Final[dict[str, Any]] = {
    "live": True,
    "backends": ["big", "small"],
    "checkpoints": [
        {"name": "dreamshaper_8.safetensors", "backends": ["big"], "warm_on": []},
        {"name": "sd_xl_base_1.0.safetensors", "backends": ["big", "small"], "warm_on": ["small"]},
    ],
    "samplers": [{"name": "euler", "backends": ["big", "small"], "warm_on": None}],
}
NODES: Final[dict[str, Any]] = {
    "live": True,
    "backends": ["big", "small"],
    "total": 41,
    "limit": 1,
    "next_cursor": "LoadImage",
    "items": [
        {
            "class": "LoadImage",
            "display_name": "Load Image",
            "category": "image",
            "output_node": False,
            "core": True,
            "backends": ["big", "small"],
        }
    ],
}
NODE: Final[dict[str, Any]] = {
    "live": True,
    **NODES["items"][0],
    "inputs": [
        {
            "name": "image",
            "type": "COMBO",
            "required": True,
            "default": None,
            "min": None,
            "max": None,
            "step": None,
            "choices": ["example.png"],
            "choices_count": 1,
            "multiselect": False,
            "uploads": "image",
            "folder": None,
            "grows": None,
        }
    ],
    "outputs": [
        {"name": "IMAGE", "type": "IMAGE", "is_list": False, "choices": None, "choices_count": None},
        {"name": "MASK", "type": "MASK", "is_list": False, "choices": None, "choices_count": None},
    ],
    "differs": False,
    "descriptions": [],
}
QUEUE: Final[dict[str, Any]] = {
    "paused": {"since": "2026-11-23T12:00:00.000Z", "by": "ops", "reason": "New models are copied."}
}
USER: Final[dict[str, Any]] = {"user_id": "ann", "weight": 2.0, "paused": None, "waiting": 12, "running": 1}
USERS: Final[dict[str, Any]] = {"items": [USER], "next_after": None}
UPLOAD: Final[dict[str, Any]] = {
    "upload_id": "4f2d6c0e8a5b4b7c9d1e2f3a4b5c6d7e",
    "user_id": "your-user-id",
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "kind": "image",
    "content_type": "image/png",
    "size_bytes": 48213,
    "width": 832,
    "height": 1216,
    "duration_seconds": None,
    "created_at": "2026-11-29T12:00:00.000Z",
    "expires_at": "2026-12-06T12:00:00.000Z",
    "url": "/api/v1/uploads/4f2d6c0e8a5b4b7c9d1e2f3a4b5c6d7e/data",
}
TICKET: Final[dict[str, Any]] = {
    "ticket": "kq3cWJQ0pQm1k1vYx3y9p0b3Jr6Uo2sVt8eZ5hX7aLM",
    "expires_at": "2026-11-29T12:01:00.000Z",
    "url": "/ws/jobs?job_ids=17,18&ticket=kq3cWJQ0pQm1k1vYx3y9p0b3Jr6Uo2sVt8eZ5hX7aLM",
}
UPLOADS: Final[dict[str, Any]] = {"items": [UPLOAD], "next_cursor": None}
CHECK: Final[dict[str, Any]] = {
    "accepted": True,
    "faults": [],
    "warnings": [],
    "eligible_backends": ["big"],
    "backends": [
        {"backend": "big", "eligible": True, "idle_reason": None, "known": True, "faults": [], "warnings": []},
        {
            "backend": "small",
            "eligible": False,
            "idle_reason": "It is drained.",
            "known": True,
            "faults": [
                {
                    "pointer": "/checkpoint_model",
                    "code": "value_not_in_list",
                    "detail": "'sdxl.safetensors' is not among the 1 values that 'ckpt_name' takes.",
                    "allowed": ["sd_xl_base_1.0.safetensors"],
                    "suggestion": "sd_xl_base_1.0.safetensors",
                }
            ],
            "warnings": [],
        },
    ],
    "checkpoint_model": "sdxl.safetensors",
    "width": 832,
    "height": 1216,
    "position": 3,
    "wait_seconds": {"low": 8.0, "likely": 11.5, "high": 20.0},
    "waits_because": None,
    "run_seconds": {"low": 4.0, "likely": 5.2, "high": 7.1},
}
UPLOAD_WORKFLOW: Final[dict[str, Any]] = {
    "workflow": {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 256, "height": 256, "batch_size": 1, "color": 3368601}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "square"}},
    },
    "extra_pnginfo": None,
}
ATTEMPTS: Final[dict[str, Any]] = {
    "items": [
        {
            "number": 1,
            "worker": "host-4711-a1b2",
            "backend": "big",
            "prompt_id": "0b1d7c56-6d0e-4a52-9a53-0d7f3c0a9f11",
            "started_at": "2026-11-30T12:00:00.000Z",
            "submitted_at": "2026-11-30T12:00:00.010Z",
            "executing_at": "2026-11-30T12:00:00.030Z",
            "executed_at": "2026-11-30T12:00:06.120Z",
            "ended_at": "2026-11-30T12:00:06.200Z",
            "outcome": "completed",
            "error_code": None,
            "error": None,
            "node_id": None,
            "node_type": None,
            "choice": {"reason": "warm", "rank": 2, "overtook": 2, "load_s": 0.0, "alternatives": 5},
            "load_s": 0.0,
        }
    ],
    "next_after": None,
}
BACKENDS: Final[dict[str, Any]] = {
    "items": [
        {
            "name": "big",
            "live": True,
            "state": "healthy",
            "healthy": True,
            "reason": None,
            "since": "2026-11-23T12:00:00Z",
            "age_seconds": 1.2,
            "drained": False,
            "asked": None,
            "driver": "host-4711-a1b2",
            "version": "0.33.0",
            "slots": 1,
            "used": 1,
            "current": [17],
            "queue_own": 1,
            "queue_foreign": 0,
            "models": ["sd_xl_base_1.0.safetensors", "add_detail.safetensors"],
            "speed": 1.4,
            "loads_last_hour": 3,
            "load_seconds_last_hour": 12.5,
            "vram_total_bytes": 25757220864,
            "vram_used_bytes": 7516192768,
        }
    ]
}
WORKERS: Final[dict[str, Any]] = {
    "items": [
        {
            "name": "host-4711-a1b2",
            "live": True,
            "state": "working",
            "asked": None,
            "age_seconds": 1.2,
            "host": "host",
            "pid": 4711,
            "version": "1.0.0",
            "started_at": "2026-11-23T11:59:00Z",
            "backends": ["big"],
            "slots": 1,
            "used": 1,
            "running": [17],
            "done": 16,
            "failed": 0,
            "memory_bytes": 104857600,
        }
    ]
}
ME: Final[dict[str, Any]] = {
    "name": "bot",
    "role": "user",
    "owner": "ann",
    "limits": {
        "requests_per_second": 50,
        "burst": 200,
        "sockets": 100,
        "waiting": 1000,
        "running": None,
        "jobs_per_day": 2000,
        "upload_bytes": 10737418240,
        "priority": None,
    },
    "use": {
        "requests_left": 199,
        "sockets": 1,
        "waiting": 12,
        "running": 2,
        "jobs_today": 480,
        "upload_bytes": 7340032,
    },
}
KEY: Final[dict[str, Any]] = {
    "key_id": 3,
    "name": "ann",
    "role": "user",
    "owner": "ann",
    "limits": {"running": 2, "jobs_per_day": None},
    "state": "active",
    "created_at": "2026-11-23T12:00:00Z",
    "expires_at": "2027-11-23T12:00:00Z",
    "last_used_at": "2026-11-23T12:05:00Z",
    "last_used_from": "10.1.2.3",
    "revoked_at": None,
}
MADE_KEY: Final[dict[str, Any]] = KEY | {
    "last_used_at": None,
    "last_used_from": None,
    "key": "gno_0123456789abcdefghijABCDEFGHIJ0123456789abc0aBcDe",
}
KEYS: Final[dict[str, Any]] = {"items": [KEY], "next_cursor": None}
AUDIT: Final[dict[str, Any]] = {
    "items": [
        {
            "entry_id": 41,
            "timestamp": "2026-11-23T12:06:00Z",
            "actor": "ann",
            "role": "operator",
            "action": "cancel",
            "target": "job 17",
            "outcome": "cancelled",
            "address": "10.1.2.3",
            "request_id": "0c4f1d6d2b5f4a0f9a4c3f1f5e7d8c9b",
            "data": {},
        }
    ],
    "next_cursor": None,
}
