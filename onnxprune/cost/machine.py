# SPDX-License-Identifier: Apache-2.0
"""What a measured time belongs to: processor, governor, runtime, threads."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from onnxprune.ort import PROVIDER, version

KERNELS = frozenset(
    """avx avx2 avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_bf16 avx512_fp16 avx_vnni amx_tile amx_int8 amx_bf16 fma
    f16c asimd asimddp asimdhp neon vfpv4 sve sve2 i8mm bf16 sme vsx lsx lasx""".split()
)
"""Features of processors by which onnxruntime chooses its kernels, as Linux names them."""
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
BOARD = Path("/proc/device-tree/model")


@dataclass(frozen=True, slots=True)
class Machine:
    """What a measured time belongs to.

    Attributes:
        processor: its model, such as "Intel(R) Xeon(R) Processor"; of Arm boards, the board and the part.
        features: those of `KERNELS` that it has; empty where the system does not tell.
        system: such as "Linux x86_64".
        governor: how the clock is chosen, such as "performance"; empty where the system does not tell.
        onnxruntime: version of the runtime.
        provider: what runs the operators.
        threads: threads inside an operator.
    """

    processor: str
    features: tuple[str, ...]
    system: str
    governor: str
    onnxruntime: str
    provider: str
    threads: int

    @property
    def key(self) -> str:
        """A short name of all that, for a file."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]

    def differs(self, other: Machine) -> str:
        """What another machine has that differs, as "threads 4 instead of 1"; empty if nothing does."""
        for name in (f.name for f in fields(self)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{name} {_shown(theirs)} instead of {_shown(mine)}"
        return ""


def this_machine(threads: int) -> Machine:
    """The machine that this program runs on."""
    facts = _cpuinfo()
    return Machine(
        _processor(facts),
        features_here(),
        f"{platform.system()} {platform.machine()}",
        _text(GOVERNOR),
        version(),
        PROVIDER,
        threads,
    )


def features_here() -> tuple[str, ...]:
    """Those of `KERNELS` that this processor has; empty where the system does not tell."""
    facts = _cpuinfo()
    listed = facts.get("flags") or facts.get("Features") or ""
    return tuple(sorted(KERNELS & set(listed.split())))


def _processor(facts: dict[str, str]) -> str:
    board, part = _text(BOARD), facts.get("CPU part", "")
    name = facts.get("model name") or ", ".join(filter(None, (board, part and f"part {part}")))
    return name or platform.processor() or platform.machine() or "unknown"


def _cpuinfo() -> dict[str, str]:
    """What Linux says about the first processor; empty elsewhere."""
    found: dict[str, str] = {}
    for name, value in re.findall(r"^([^\t:]+)\t*: ?(.*)$", _text(Path("/proc/cpuinfo")), re.MULTILINE):
        found.setdefault(name.strip(), value.strip())
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().rstrip("\0")
    except OSError:
        return ""


def _shown(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value) or "unknown"
