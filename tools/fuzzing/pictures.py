# SPDX-License-Identifier: Apache-2.0
"""Folders of images some of which are damaged, odd, or no images."""

from __future__ import annotations

import struct
import zlib

from fuzzing.arrays import arrays, npy
from fuzzing.blobs import NAMES, damaged
from fuzzing.cases import FIFO, LINK, Case
from fuzzing.classifier import QUICK, classifier
from fuzzing.seeds import generator


def png(width: int, height: int, kind: int = 2, depth: int = 8, rows: bytes | None = None) -> bytes:
    """A PNG file; its header may state a size that its rows do not have."""
    per_row = width * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind] * depth // 8
    shown = height if per_row * height < 20_000 else 0
    content = b"".join(b"\0" + bytes((7 * k + r) % 256 for k in range(per_row)) for r in range(shown))

    def part(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    stated = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    palette = part(b"PLTE", bytes(768)) if kind == 3 else b""
    pixels = zlib.compress(content if rows is None else rows)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", stated) + palette + part(b"IDAT", pixels) + part(b"IEND", b"")


PREPARED = (
    *"size=8x8 size=0x0 size=99999999x9 size=8 size=x mean=0.5 mean=0.5:0.5 mean=nan std=0 std=inf:1:1 order=bgr".split(),
    *"order=x layout=nhwc resize=letterbox resize=none crop=0 crop=9 pad=-1 pad=999 scale=0 scale=1e400 = , ²=3".split(),
    *("size=8x8,size=9x9", "size=²x²", "mean=" + ":".join("0" * 500), "crop=0.5,resize=height"),
)
"""Odd values of --preprocess."""
NAMED = [name for name in NAMES if name.strip(".") and not {"\0", "/"} & set(name) and len(name) < 200]
"""Odd names of files."""
BMP = struct.Struct("<IHHIIiiHHIIiiII")


def images(name: str, seed: int) -> Case:
    """A folder of images some of which are damaged, odd, or no images."""
    rng = generator(seed, "images", name)
    files = {"m.onnx": classifier()}
    what = rng.choice(("none", "one", "one", "some", "some", "classes", "mixed", "links"))
    good = [
        png(8, 8),
        png(9, 7),
        png(16, 16, 0),
        *(png(8, 8, kind) for kind in (3, 4, 6)),
        png(8, 8, 2, 16),
        png(1, 1),
        png(300, 3),
    ]
    for k in range({"none": 0, "one": 1}.get(what, 6)):
        folder = f"{'abcd'[k % 4]}/" if what == "classes" else ""
        files[f"i/{folder}{k}.png"] = rng.choice(good)
    bad = rng.choice("bytes bytes bytes huge empty text name folder bmp ppm gif rows nothing".split())
    size = rng.choice(((60_000, 60_000), (2**31 - 1, 1), (0, 8), (20_000, 20_000), (30_000, 10)))
    path, data = {
        "bytes": ("i/x.png", damaged(rng, rng.choice(good), classifier())[0]),
        "huge": ("i/x.png", png(*size)),
        "empty": ("i/x.png", b""),
        "text": ("i/x.jpg", b"no image\n" * 9),
        "name": (f"i/{rng.choice(NAMED)}.png", png(8, 8)),
        "folder": ("i/x.png/y.png", png(8, 8)),
        "bmp": ("i/x.bmp", b"BM" + BMP.pack(54, 0, 0, 54, 40, rng.choice((8, -8, 2**30)), 8, 1, 24, 0, 0, 0, 0, 0, 0)),
        "ppm": ("i/x.ppm", b"P6 %d 8 255\n" % rng.choice((8, 0, 10**9)) + bytes(192)),
        "gif": ("i/x.gif", b"GIF89a" + struct.pack("<HH", 8, 8) + b"\x80\0\0" + bytes(6) + b";"),
        "rows": ("i/x.png", png(8, 8, rows=rng.choice((b"", bytes(10), bytes(10**7))))),
        "nothing": ("i/readme.txt", b"hello"),
    }[bad]
    files[path] = data
    if what == "links":
        files |= {"i/loop": LINK + b".", "i/gone.png": LINK + b"nowhere.png", "i/up": LINK + b".."}
    if what == "mixed":
        files |= {"i/pipe.png": FIFO, "i/a.npy": npy(arrays()["x"]), "i/labels.csv": b"0.png,1\n1.png,x\n"}
    preprocess = ("--preprocess", rng.choice(PREPARED)) if rng.random() < 0.5 else ()
    labels = ("--labels", "i/labels.csv") if what == "mixed" else ()
    command = ("m.onnx", *QUICK, "--data", "i", *preprocess, *labels, *(("--recover", "none") if rng.random() < 0.5 else ()))
    return Case(f"images/{name}", f"{what}, and {bad}", files, command)
