"""What the machine is, and the two rates that no kernel can pass.

python benchmarks/gpu/ceilings.py --json FILE [--dry]
"""

from __future__ import annotations

import shutil
import subprocess

import torch
from part import Part

from xlt_engine.engine.bench.harness import ceilings, versions


def main() -> None:
    part = Part(__doc__)
    part.result["environment"]["versions"] |= versions()
    if part.device.type == "cuda":
        properties = torch.cuda.get_device_properties(part.device)
        part.result["device"] = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": properties.total_memory / 2**30,
            "l2_mib": getattr(properties, "L2_cache_size", 0) / 2**20,
            "cuda": torch.version.cuda,
        }
        part.result["nvidia_smi"] = _nvidia_smi()
    part.result["ceilings"] = ceilings(part.device, part.dry)
    part.write()


def _nvidia_smi() -> str | None:
    """Clocks, power and temperature as they are; nothing is changed."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    fields = "driver_version,clocks.sm,clocks.mem,power.draw,power.limit,temperature.gpu"
    command = [program, f"--query-gpu={fields}", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout.strip()


if __name__ == "__main__":
    main()
