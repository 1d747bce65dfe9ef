"""`make demo`: models follow a load up and down, then two tenants lend each other GPUs; on a real control plane.

With a terminal it shows a live view, without one it prints a line when something changes. Its exit code says whether
everything that it shows happened and every request was served. TRACE=file replays a trace in the first act;
PICTURE=file.svg keeps the first act's view at its peak, and the second's as GPUs go back in file-tenants.svg.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from pathlib import Path

from sandbox.cluster import Sandbox
from sandbox.demo import follow, lend
from sandbox.demo.stage import Stage, say
from sandbox.fleet import Fleet


def main() -> int:
    """Run the demo; return its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scratch = Path(tempfile.mkdtemp(prefix="modelfleet-demo-"))
    try:
        with Sandbox.start(scratch / "cluster", name="demo", report=say) as sandbox:
            say("installing CRDs, RBAC and presets; starting the operator under its own ServiceAccount")
            with Fleet(sandbox, scratch / "logs") as fleet:
                stage = Stage(sandbox, fleet, scratch)
                say("look for yourself in another terminal:")
                say(f"    kubectl --kubeconfig {sandbox.kubeconfig} get mdep,tenants -A")
                faults = [*follow.play(stage), *lend.play(stage)]
    except KeyboardInterrupt:
        say("stopped")
        return 0
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for fault in faults:
        say(f"FAILED: {fault}")
    if not faults:
        say("replicas followed the load, borrowed GPUs went back, and every request was served")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
