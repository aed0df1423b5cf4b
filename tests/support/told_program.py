"""Started by tests/launch/test_warm_python.py: writes what it finds itself to be into a file, then ends or waits as it is told.

python told_program.py FILE end STATUS | wait
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

place, what, *more = sys.argv[1:]
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
child = subprocess.Popen(["sleep", "1000"]) if what == "wait" else None
told = {
    "pid": os.getpid(), "argv": sys.argv, "cwd": str(Path.cwd()), "answer": os.environ.get("ANSWER"),
    "executable": sys.executable, "torch": "torch" in sys.modules, "child": child and child.pid,
}  # fmt: skip
Path(f"{place}.new").write_text(json.dumps(told))
Path(f"{place}.new").rename(place)
print("said")
if child is None:
    sys.exit(int(more[0]))
try:
    child.wait()
finally:
    child.kill()
