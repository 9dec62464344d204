"""The fast tests, half of the files in each of two processes: most of their time goes into starting Python on one core.

python tests/run.py        what `make test` calls; words behind it go to pytest
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# about as long as all the others together
FIRST = ["test_run.py", "test_evaluate.py", "test_vae.py"]


def main():
    names = sorted(path.name for path in HERE.glob("test_*.py"))
    halves = [FIRST, [name for name in names if name not in FIRST]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "A3_TEST_THREADS": "1"}
    calls = [
        [sys.executable, "-m", "pytest", "-m", "not slow", *sys.argv[1:], *(str(HERE / name) for name in half)]
        for half in halves
    ]
    with tempfile.TemporaryFile("w+") as kept:
        second = subprocess.Popen(calls[1], env=environment, cwd=HERE.parent, stdout=kept, stderr=subprocess.STDOUT)
        try:
            status = subprocess.run(calls[0], env=environment, cwd=HERE.parent).returncode
            status = second.wait() or status
        finally:
            second.terminate()
        kept.seek(0)
        print(kept.read(), end="")
    sys.exit(status)


if __name__ == "__main__":
    main()
