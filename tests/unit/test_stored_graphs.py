"""Graphs that files carry: as ComfyUI and the stand-in write them, as other programs do, and what nobody should."""

from __future__ import annotations

import io
import json
import random
import struct
import time
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from unit.standin.standin_client import BOTH, Client, image_graph, serve_standin

from app.media.inspection import inspect
from app.media.stored_graphs import MOST_TEXTS, StoredGraph, UnreadableGraph, stored_graph
from app.media.uploads import recognized
from app.settings import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

FILES = ROOT / "tests" / "data" / "graphs-in-files"
TOLD = json.loads((FILES / "graphs.json").read_text(encoding="utf-8"))
EXTRA = TOLD["extra_pnginfo"]
GRAPH: dict[str, Any] = {"1": {"class_type": "A", "inputs": {"text": "Größe 猫"}}}
UI: dict[str, Any] = {"nodes": [{"id": 1, "type": "A"}], "links": []}
MIB = 2**20


@pytest.fixture
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    async with serve_standin(version=request.param) as client:
        yield client


def read(data: bytes) -> StoredGraph | None:
    return stored_graph(io.BytesIO(data))


def prompt_of(data: bytes) -> Any:
    found = read(data)
    assert found is not None
    assert found.prompt is not None
    return json.loads(found.prompt)


def fault_of(data: bytes) -> str:
    with pytest.raises(UnreadableGraph) as caught:
        read(data)
    return str(caught.value)


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    ihdr = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    whole = [(b"IHDR", ihdr), *chunks, (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in whole
    )


def with_prompt(value: bytes) -> bytes:
    return png((b"tEXt", b"prompt\0" + value))


def box(kind: bytes, *inside: bytes) -> bytes:
    data = b"".join(inside)
    return struct.pack(">I4s", 8 + len(data), kind) + data


def film(*inside: bytes, brand: bytes = b"isom") -> bytes:
    return box(b"ftyp", brand, bytes(4)) + box(b"mdat", b"x") + box(b"moov", *inside)


def element(name: int, data: bytes) -> bytes:
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + (len(data) | 1 << 56).to_bytes(8, "big") + data


def tag(name: bytes, value: bytes) -> bytes:
    return element(0x7373, element(0x67C8, element(0x45A3, name) + element(0x4487, value)))


def matroska(*inside: bytes) -> bytes:
    return element(0x1A45DFA3, element(0x4282, b"webm")) + element(0x18538067, b"".join(inside))


def exif(*entries: tuple[int, int, bytes], order: str = "<") -> bytes:
    """Make EXIF data of these entries: tag, type and value, each behind the directory."""
    place = 8 + 2 + 12 * len(entries) + 4
    directory, values = struct.pack(f"{order}H", len(entries)), b""
    for number, kind, value in entries:
        offset = struct.pack(f"{order}I", place + len(values)) if len(value) > 4 else value.ljust(4, b"\0")
        directory += struct.pack(f"{order}HHI", number, kind, 1 if kind == 4 else len(value)) + offset
        values += value if len(value) > 4 else b""
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(f"{order}I", 8) + directory + bytes(4) + values


def webp(exif_data: bytes) -> bytes:
    chunks = b"VP8X" + struct.pack("<I", 10) + bytes(10) + b"VP8 " + struct.pack("<I", 10) + bytes(6) + b"\1\0\1\0"
    chunks += b"EXIF" + struct.pack("<I", len(exif_data)) + exif_data + bytes(len(exif_data) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def jpeg(*segments: tuple[int, bytes]) -> bytes:
    made = b"".join(struct.pack(">BBH", 0xFF, marker, 2 + len(data)) + data for marker, data in segments)
    return b"\xff\xd8" + made + b"\xff\xc0\0\x0b\x08\0\1\0\1\1\1\x11\0\xff\xda\0\x08\1\1\0\0\x3f\0\x00\xff\xd9"


def comments(*members: bytes) -> bytes:
    return struct.pack("<II", 0, len(members)) + b"".join(struct.pack("<I", len(each)) + each for each in members)


def ogg(*packets: bytes) -> bytes:
    """Make an Ogg file: each packet begins a page, and the long ones go on over as many as it takes."""
    pages = []
    for packet in packets:
        lacing = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
        for at in range(0, len(lacing), 255):
            table = lacing[at : at + 255]
            body = packet[at * 255 : at * 255 + sum(table)]
            flags = (0 if pages else 2) | (1 if at else 0)
            pages.append(
                b"OggS\0" + bytes([flags]) + bytes(8) + b"abcd" + bytes(8) + bytes([len(table)]) + table + body
            )
    return b"".join(pages)


def id3(*frames: tuple[bytes, bytes], version: int = 4, flags: int = 0, frame_flags: int = 0) -> bytes:
    body = b"".join(
        name + (synchsafe(len(data)) if version == 4 else struct.pack(">I", len(data))) + bytes([0, frame_flags]) + data
        for name, data in frames
    ) + bytes(20)
    return b"ID3" + bytes([version, 0, flags]) + synchsafe(len(body)) + body


def synchsafe(number: int) -> bytes:
    return bytes(number >> shift & 127 for shift in (21, 14, 7, 0))


def glb(scene: Any) -> bytes:
    data = text(scene)
    return struct.pack("<4sIII4s", b"glTF", 2, 20 + len(data), len(data), b"JSON") + data


def svg(inside: bytes, before: bytes = b"") -> bytes:
    return before + b'<svg xmlns="http://www.w3.org/2000/svg"><g/>' + inside + b"</svg>"


class TestFilesOfComfyUI:
    @pytest.mark.parametrize("name", sorted(TOLD["prompts"]))
    def test_the_graph_is_read_as_it_was_sent_with_what_was_beside_it(self, name: str) -> None:
        with (FILES / name).open("rb") as file:
            found = stored_graph(file)
        assert found is not None
        assert json.loads(found.prompt or "") == TOLD["prompts"][name]
        if name.endswith("-plain.png"):
            assert (found.workflow, found.others) == (None, {})
        else:
            assert json.loads(found.workflow or "") == EXTRA["workflow"]
            assert {key: json.loads(each) for key, each in found.others.items()} == {"note": EXTRA["note"]}

    def test_there_is_a_file_of_each_saver_and_each_is_small(self) -> None:
        kept = {path.name: path.stat().st_size for path in FILES.iterdir()}
        assert set(TOLD["prompts"]) == {name for name in kept if name.startswith(("new-", "old-"))}
        assert max(kept.values()) <= 20_000
        savers = {node["class_type"] for prompt in TOLD["prompts"].values() for node in prompt.values()}
        assert {"SaveImage", "SaveAnimatedPNG", "SaveAnimatedWEBP", "SaveWEBM", "SaveVideo", "SaveAudio"} < savers
        assert {"SaveAudioMP3", "SaveAudioOpus", "SaveSVGNode", "SaveGLB", "SaveImageAdvanced"} < savers

    @pytest.mark.parametrize("name", sorted(TOLD["prompts"]))
    def test_each_is_a_file_that_may_be_handed_over(self, name: str) -> None:
        with (FILES / name).open("rb") as file:
            assert recognized(file, name).content_type == inspect(file, name).content_type

    def test_what_the_server_notes_at_nodes_is_left_out(self) -> None:
        data = (FILES / "new-always.png").read_bytes()
        assert b'"is_changed": [NaN]' in data
        assert all(node.keys() <= {"class_type", "inputs", "_meta"} for node in prompt_of(data).values())

    @pytest.mark.parametrize("path", sorted((ROOT / "tests" / "data" / "media").iterdir()), ids=lambda path: path.name)
    def test_files_of_encoders_carry_none(self, path: Any) -> None:
        with path.open("rb") as file:
            found = stored_graph(file)
        # ComfyUI's own, made for other tests.
        assert (found is not None) == (path.name == "scene.glb")

    @pytest.mark.parametrize("name", sorted(TOLD["prompts"]))
    def test_cut_off_or_with_wrong_bytes_it_is_read_or_refused_but_nothing_else(self, name: str) -> None:
        data, chance = (FILES / name).read_bytes(), random.Random(name)
        for _ in range(300):
            wrong = bytearray(data[: chance.randrange(len(data))] if chance.random() < 0.3 else data)
            for _ in range(chance.randrange(4)):
                if wrong:
                    wrong[chance.randrange(min(len(wrong), 2000))] = chance.randrange(256)
            try:
                found = read(bytes(wrong))
            except UnreadableGraph:
                continue
            assert found is None or isinstance(json.loads(found.prompt or found.workflow or ""), dict)


class TestFilesOfTheStandIn:
    @BOTH
    async def test_the_graph_is_read_with_what_was_beside_it(self, client: Client) -> None:
        graph = image_graph()
        entry = await client.run(graph, extra_data={"extra_pnginfo": EXTRA})
        _, data = await client.get("/view", **entry["outputs"]["2"]["images"][0])
        found = read(data)
        assert found is not None
        assert json.loads(found.prompt or "") == graph
        assert json.loads(found.workflow or "") == EXTRA["workflow"]
        assert json.loads(found.others["note"]) == EXTRA["note"]


BOTH_OF_THEM = text({"prompt": json.dumps(GRAPH), "workflow": UI})
OTHERS: dict[str, Callable[[], bytes]] = {
    "png packed": lambda: png((b"zTXt", b"prompt\0\0" + zlib.compress(text(GRAPH)))),
    "png international": lambda: png(
        (b"iTXt", b"prompt\0\0\0de\0Prompt\0" + json.dumps(GRAPH, ensure_ascii=False).encode())
    ),
    "png international, packed": lambda: png((b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(text(GRAPH)))),
    "png in Latin-1": lambda: with_prompt('{"1": {"class_type": "A", "inputs": {"text": "Größe"}}}'.encode("latin-1")),
    "png in UTF-8": lambda: with_prompt(json.dumps(GRAPH, ensure_ascii=False).encode()),
    "png, a capital letter": lambda: png((b"tEXt", b"Prompt\0" + text(GRAPH))),
    "png, twice the same": lambda: png(*[(b"tEXt", b"prompt\0" + text(GRAPH))] * 2),
    "png behind the pixels": lambda: with_prompt(text(GRAPH)).replace(b"tEXt", b"comf"),
    "png, the graph under the name of the other": lambda: png((b"tEXt", b"workflow\0" + text(GRAPH))),
    "webp with a mark before it": lambda: webp(b"Exif\0\0" + exif((0x0110, 2, b"prompt:" + text(GRAPH) + b"\0"))),
    "webp, the other order": lambda: webp(exif((0x0110, 2, b"Prompt:" + text(GRAPH) + b"\0"), order=">")),
    "jpeg": lambda: jpeg((0xE1, b"Exif\0\0" + exif((0x010E, 2, b"prompt:" + text(GRAPH) + b"\0")))),
    "jpeg, a comment": lambda: jpeg((0xE0, b"JFIF\0"), (0xFE, BOTH_OF_THEM)),
    "jpeg, a comment of the user": lambda: jpeg((0xE1, b"Exif\0\0" + user_comment(b"ASCII\0\0\0" + BOTH_OF_THEM))),
    "jpeg, one in UTF-16": lambda: jpeg(
        (0xE1, b"Exif\0\0" + user_comment(b"UNICODE\0" + BOTH_OF_THEM.decode().encode("utf-16-le")))
    ),
    "jpeg, one in UTF-16, the other order": lambda: jpeg(
        (0xE1, b"Exif\0\0" + user_comment(b"UNICODE\0" + BOTH_OF_THEM.decode().encode("utf-16-be"), ">"))
    ),
    "mp4, iTunes' comment": lambda: film(
        box(b"udta", box(b"meta", bytes(4), box(b"ilst", box(b"\xa9cmt", box(b"data", bytes(8), BOTH_OF_THEM)))))
    ),
    "mov, QuickTime's comment": lambda: film(
        box(b"udta", box(b"\xa9cmt", struct.pack(">HH", len(BOTH_OF_THEM), 0), BOTH_OF_THEM), bytes(4)), brand=b"qt  "
    ),
    "mov, QuickTime's metadata": lambda: film(
        box(
            b"meta",
            box(b"hdlr", bytes(8), b"mdta", bytes(12)),
            box(b"keys", bytes(4), struct.pack(">I", 2), box(b"mdta", b"encoder"), box(b"mdta", b"prompt")),
            box(
                b"ilst",
                box(struct.pack(">I", 1), box(b"data", bytes(8), b"Lavf")),
                box(struct.pack(">I", 2), box(b"data", bytes(8), text(GRAPH))),
            ),
        ),
        brand=b"qt  ",
    ),
    "mov without a brand": lambda: film(
        box(b"udta", box(b"\xa9cmt", struct.pack(">HH", len(BOTH_OF_THEM), 0), BOTH_OF_THEM))
    )[16:],
    "webm, a comment": lambda: matroska(element(0x1254C367, tag(b"ENCODER", b"x") + tag(b"COMMENT", BOTH_OF_THEM))),
    "webm, of unknown length": lambda: (
        element(0x1A45DFA3, element(0x4282, b"webm"))
        + b"\x18\x53\x80\x67\x01"
        + b"\xff" * 7
        + element(0x1254C367, tag(b"PROMPT", text(GRAPH)))
    ),
    "ogg, Vorbis": lambda: ogg(b"\x01vorbis" + bytes(20), b"\x03vorbis" + comments(b"PROMPT=" + text(GRAPH)) + b"\1"),
    "ogg, FLAC": lambda: ogg(b"\x7fFLAC" + bytes(40), flac_block(comments(b"a=b", b"prompt=" + text(GRAPH)))),
    "ogg, over many pages": lambda: ogg(
        b"OpusHead" + bytes(11), b"OpusTags" + comments(b"picture=" + b"x" * 200_000, b"prompt=" + text(GRAPH))
    ),
    "mp3, version 3 in UTF-16": lambda: id3(
        (b"TIT2", b"\0x"),
        (b"TXXX", b"\1" + "prompt\0".encode("utf-16") + json.dumps(GRAPH).encode("utf-16")),
        version=3,
    ),
    "mp3, UTF-16 without a mark": lambda: id3(
        (b"TXXX", b"\2" + ("prompt\0" + json.dumps(GRAPH) + "\0").encode("utf-16-be"))
    ),
    "mp3, Latin-1": lambda: id3((b"TXXX", b"\0prompt\0" + text(GRAPH))),
    "mp3, unsynchronised": lambda: id3(
        (b"PRIV", b"\xff\0\xff\0"), (b"TXXX", b"\3prompt\0" + text(GRAPH)), version=3, flags=0x80
    ).replace(b"\0\4\0\0\xff\0\xff\0", b"\0\2\0\0\xff\0\xff\0"),
    "mp3, with its length before it": lambda: id3((b"TXXX", bytes(4) + b"\3prompt\0" + text(GRAPH)), frame_flags=1),
    "svg, without CDATA": lambda: svg(b"<metadata>" + text({"prompt": GRAPH}) + b"</metadata>"),
    "svg, a second one": lambda: svg(
        b"<metadata>text<rdf/></metadata><metadata> " + text({"prompt": GRAPH}) + b"</metadata>",
        b'<?xml version="1.0"?>',
    ),
    "glb": lambda: glb({"asset": {"version": "2.0", "extras": {"prompt": json.dumps(GRAPH)}}}),
}


def user_comment(value: bytes, order: str = "<") -> bytes:
    """Make EXIF data whose second directory, behind the first one, has the comment of the user."""
    first = exif((0x8769, 4, struct.pack(f"{order}I", 8 + 2 + 12 + 4)), order=order)
    entry = struct.pack(f"{order}HHHII", 1, 0x9286, 7, len(value), len(first) + 2 + 12 + 4)
    return first + entry + bytes(4) + value


def flac_block(data: bytes) -> bytes:
    return b"\x84" + len(data).to_bytes(3, "big") + data


class TestFilesOfOthers:
    @pytest.mark.parametrize("how", OTHERS)
    def test_the_graph_is_read(self, how: str) -> None:
        words = {"Größe", "Größe 猫"}
        assert prompt_of(OTHERS[how]())["1"]["inputs"]["text"] in words

    def test_a_comment_gives_way_to_a_member_of_its_own(self) -> None:
        other = {"2": {"class_type": "B", "inputs": {}}}
        tags = tag(b"COMMENT", text({"prompt": other, "workflow": UI, "made": 5})) + tag(b"PROMPT", text(GRAPH))
        found = read(matroska(element(0x1254C367, tags)))
        assert found is not None
        assert (json.loads(found.prompt or ""), json.loads(found.workflow or "")) == (GRAPH, UI)
        assert found.others == {"made": "5"}

    def test_tags_behind_clusters_are_found_but_not_behind_those_of_a_live_stream(self) -> None:
        tags = element(0x1254C367, tag(b"PROMPT", text(GRAPH)))
        assert prompt_of(matroska(element(0x1F43B675, b"\xec\x80" * 5), tags)) == GRAPH
        assert read(matroska(b"\x1f\x43\xb6\x75\x01" + b"\xff" * 7 + b"\xec\x80", tags)) is None

    def test_a_drawing_has_it_at_its_beginning_or_not_at_all(self) -> None:
        metadata = b"<metadata>" + text({"prompt": GRAPH}) + b"</metadata>"
        assert prompt_of(svg(b"<a/>" * 9_000 + metadata)) == GRAPH
        assert read(svg(b"<a/>" * 10_000 + metadata)) is None

    def test_of_a_jpeg_what_comes_before_the_scan_is_read_and_its_first_exif_data(self) -> None:
        told = (0xE1, b"Exif\0\0" + exif((0x010E, 2, b"prompt:" + text(GRAPH) + b"\0")))
        assert prompt_of(jpeg(told)[:-2]) == GRAPH
        assert read(jpeg()[:-2]) is None
        assert read(jpeg((0xE1, b"Exif\0\0" + exif((0x010E, 2, b"a lake\0"))), told)) is None

    def test_what_a_packed_or_encrypted_frame_holds_is_not_read(self) -> None:
        assert read(id3((b"TXXX", b"\3prompt\0" + text(GRAPH)), frame_flags=8)) is None

    def test_texts_of_other_programs_are_no_members(self) -> None:
        others = [
            b"Software\0x",
            b"parameters\0a cat, Steps: 20",
            b"track\x005",
            b"broken\0{x",
            b"list\0[1]",
            b'word\0"a"',
        ]
        found = read(png((b"tEXt", b"prompt\0" + text(GRAPH)), *((b"tEXt", each) for each in others)))
        assert found is not None
        assert found.others == {"list": "[1]", "word": '"a"'}

    @pytest.mark.parametrize("prompt", [b"a cat on a mat", b"[1]", b"{}", b'{"a": 1}', b'"x"', b""])
    def test_a_prompt_that_is_no_graph_is_none(self, prompt: bytes) -> None:
        assert read(with_prompt(prompt)) is None
        found = read(png((b"tEXt", b"prompt\0" + prompt), (b"tEXt", b"workflow\0" + text(UI))))
        assert found is not None
        assert (found.prompt, json.loads(found.workflow or "")) == (None, UI)

    def test_files_of_other_kinds_carry_none(self) -> None:
        for data in (b"", b"x", b"GIF89a" + bytes(20), text({"prompt": GRAPH}), b"RIFF\x04\0\0\0WAVE", bytes(5000)):
            assert read(data) is None


class TestOnlyTheGraphOfThePage:
    @pytest.mark.parametrize("name", [b"workflow", b"prompt"])
    def test_it_is_told_apart(self, name: bytes) -> None:
        found = read(png((b"tEXt", name + b"\0" + text(UI)), (b"tEXt", b"note\0{}")))
        assert found is not None
        assert (found.prompt, json.loads(found.workflow or ""), found.others) == (None, UI, {"note": "{}"})

    def test_of_both_the_graph_counts_even_if_the_other_is_broken(self) -> None:
        found = read(png((b"tEXt", b"prompt\0" + text(GRAPH)), (b"tEXt", b'workflow\0{"nodes":')))
        assert found is not None
        assert (json.loads(found.prompt or ""), found.workflow) == (GRAPH, None)
        assert fault_of(png((b"tEXt", b'workflow\0{"nodes":'))).startswith("it is no JSON")


class TestWrongTexts:
    @pytest.mark.parametrize(
        ("prompt", "fault"),
        [
            (b'{"1": {"class_type": "A", "inputs": {}}', "it is no JSON: Expecting ',' delimiter at character 39"),
            (b'{"1": {"class_type": "A", "inputs": {"a": "\0"}}}', "it is no JSON: Invalid control character"),
            (b'{"1": {"class_type": "A"}, "1": {"class_type": "B"}}', "it has the name '1' twice"),
            (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nests too deep"),
            (b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "nests too deep"),
            (b'{"a":' + b"1" * 1000 + b"}", "a number in it is too long"),
            (b'{"a":1e999}', "a number in it is too long"),
            (b'{"a":[' + b"0," * 500_000 + b"0]}", "more than 500000 names and values"),
            (b'{"a":"' + b"x" * (8 * MIB) + b'"}', "its prompt is larger than 8 MiB"),
        ],
        ids=range(9),
    )
    def test_the_fault_is_named(self, prompt: bytes, fault: str) -> None:
        assert fault in fault_of(with_prompt(prompt))

    def test_wrong_utf8_is_named(self) -> None:
        wrong = b'{"1": {"class_type": "\xff", "inputs": {}}}'
        for data in (
            matroska(element(0x1254C367, tag(b"PROMPT", wrong))),
            png((b"iTXt", b"prompt\0\0\0\0\0" + wrong)),
            id3((b"TXXX", b"\3prompt\0" + wrong)),
            webp(exif((0x0110, 2, b"prompt:" + wrong + b"\0"))),
        ):
            assert fault_of(data) == "it is not UTF-8"

    def test_of_two_different_ones_none_is_guessed(self) -> None:
        other = {"2": {"class_type": "B", "inputs": {}}}
        data = png((b"tEXt", b"prompt\0" + text(GRAPH)), (b"tEXt", b"prompt\0" + text(other)))
        assert fault_of(data) == "it has two of them, and which prompt is meant cannot be known"

    def test_nan_and_infinity_become_null_and_half_a_character_stays(self) -> None:
        inputs = b'{"a": NaN, "b": [-Infinity], "c": "\\ud800", "d": 12345678901234567890}'
        told = b'{"1": {"class_type": "A", "inputs": ' + inputs + b"}}"
        assert prompt_of(with_prompt(told))["1"]["inputs"] == {
            "a": None,
            "b": [None],
            "c": "\ud800",
            "d": 12345678901234567890,
        }

    def test_a_text_of_eight_mebibytes_is_still_read(self) -> None:
        graph = {"1": {"class_type": "A", "inputs": {"a": "x" * (8 * MIB - 100)}}}
        assert prompt_of(png((b"zTXt", b"prompt\0\0" + zlib.compress(text(graph))))) == graph

    def test_members_beyond_their_limits_are_left_out(self) -> None:
        long = [(b"tEXt", b"%d\0" % number + b'"' + b"x" * (6 * MIB) + b'"') for number in range(4)]
        found = read(png((b"tEXt", b"prompt\0" + text(GRAPH)), *long))
        assert found is not None
        assert sorted(found.others) == ["0", "1"]


BOMB = zlib.compress(b'{"a":"' + b"x" * (100 * MIB), 9)
SIZE = 16 * MIB
SVG_SIZE = 15 * MIB
"""Longer ones are not looked at."""
HOSTILE: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "png, small chunks": (lambda: png(*[(b"abCd", b"x" * 4)] * (SIZE // 16)), "too many parts"),
    "png, texts": (lambda: png(*[(b"tEXt", b"a\0{")] * (SIZE // 16)), "too many parts or texts"),
    "png, a bomb": (lambda: png((b"zTXt", b"prompt\0\0" + BOMB)), "larger than 8 MiB"),
    "png, a bomb in iTXt": (lambda: png((b"iTXt", b"prompt\0\1\0\0\0" + BOMB)), "larger than 8 MiB"),
    "png, bombs": (lambda: png(*[(b"zTXt", b"%d\0\0" % n + BOMB) for n in range(100)]), "too many parts or texts"),
    "png, a damaged packed text": (lambda: png((b"zTXt", b"prompt\0\0" + b"x" * 100)), "the file is damaged"),
    "mp4, boxes": (lambda: film(box(b"free") * (SIZE // 8)), "too many parts"),
    "mp4, longer than its end": (lambda: film()[:-8] + b"\x7f\xff\xff\xffmoov", "the file is damaged"),
    "mp4, itself within itself": (lambda: box(b"ftyp", b"isom") + (bytes(4) + b"moov") * (SIZE // 8), None),
    "mp4, names": (
        lambda: film(box(b"meta", bytes(4), box(b"keys", bytes(8), box(b"mdta") * (SIZE // 8)))),
        "too many parts",
    ),
    "webm, elements": (lambda: matroska(b"\xec\x80" * (SIZE // 2)), "too many parts"),
    "webm, tags": (lambda: matroska(element(0x1254C367, tag(b"A", b"{}") * (SIZE // 50))), "too many parts"),
    "webp, EXIF without end": (lambda: webp(exif((0x8769, 4, struct.pack("<I", 8)))), None),
    "webp, one text many times": (
        lambda: webp(
            b"II*\0\x08\0\0\0"
            + struct.pack("<H", 500)
            + b"".join(struct.pack("<HHII", 1, 2, 8 * MIB, 6100) for _ in range(500))
            + bytes(200 + 8 * MIB)
        ),
        "too many parts or texts",
    ),
    "webp, texts": (
        lambda: webp(exif(*[(1, 2, b"abc")] * 60_000)),
        "too many parts or texts",
    ),
    "jpeg, segments": (lambda: b"\xff\xd8" + b"\xff\xe2\0\2" * (SIZE // 4), "too many parts"),
    "flac, blocks": (lambda: b"fLaC" + b"\1\0\0\0" * (SIZE // 4), "too many parts"),
    "flac, comments": (
        lambda: b"fLaC" + flac_block(struct.pack("<II", 0, 2**32 - 1) + bytes(SIZE - 1000)),
        "too many parts or texts",
    ),
    "flac, a comment longer than all": (
        lambda: b"fLaC" + flac_block(struct.pack("<III", 0, 1, 2**32 - 1)),
        "a comment is longer than what it is in",
    ),
    "ogg, pages": (
        lambda: ogg(b"OpusHead") + (b"OggS\0\0" + bytes(8) + b"abcd" + bytes(8) + b"\0") * (SIZE // 27),
        "too many parts",
    ),
    "ogg, a packet without end": (
        lambda: (
            ogg(b"OpusHead")
            + (b"OggS\0\0" + bytes(8) + b"abcd" + bytes(8) + b"\xff" * 256 + bytes(255 * 255)) * (40 * MIB // 65_000)
        ),
        "too many parts",
    ),
    "mp3, frames": (lambda: id3(*[(b"ABCD", b"")] * (SIZE // 10)), "too many parts"),
    "exr, attributes": (lambda: b"\x76\x2f\x31\x01\2\0\0\0" + b"a\0s\0\1\0\0\0{" * (SIZE // 9), "too many parts"),
    "glb, a long scene": (
        lambda: glb({"asset": {"extras": {"prompt": "x" * (9 * MIB)}}}),
        "the description of the scene is larger than 8 MiB",
    ),
    "svg, elements": (lambda: svg(b"<a/>" * (SVG_SIZE // 4)), None),
    "svg, attributes": (
        lambda: svg(b"<a " + b" ".join(b"a%d=''" % number for number in range(SVG_SIZE // 14)) + b"/>"),
        None,
    ),
    "svg, long metadata": (
        lambda: svg(b'<metadata>{"prompt"' + b"\n" * (9 * MIB) + b"</metadata>"),
        "larger than 8 MiB",
    ),
    "svg, empty metadata": (lambda: svg(b"<metadata> </metadata>" * (SVG_SIZE // 22)), None),
    "svg, entities": (
        lambda: svg(
            b"<metadata>&b;</metadata>",
            b"<!DOCTYPE svg [<!ENTITY a '" + text(GRAPH) + b"'><!ENTITY b '{\"prompt\": &a;}'>]>",
        ),
        None,
    ),
}


class TestHostileFiles:
    @pytest.mark.parametrize("how", HOSTILE)
    def test_little_time_and_memory_is_taken_and_the_fault_is_named(self, how: str) -> None:
        make, fault = HOSTILE[how]
        file = io.BytesIO(make())
        tracemalloc.start()
        began = time.thread_time()
        try:
            if fault is None:
                assert stored_graph(file) is None
            else:
                with pytest.raises(UnreadableGraph, match=fault):
                    stored_graph(file)
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        # Ten times what it takes, and tracing is slow as well; without its bounds each takes many times that.
        assert time.thread_time() - began < 2.5
        assert peak < 96 * MIB

    def test_the_number_of_texts_has_a_limit_that_files_of_others_do_not_reach(self) -> None:
        some = [(b"tEXt", b"a\0b")] * (MOST_TEXTS - 1)
        assert prompt_of(png(*some, (b"tEXt", b"prompt\0" + text(GRAPH)))) == GRAPH
        assert "too many parts or texts" in fault_of(png(*some, *some))
