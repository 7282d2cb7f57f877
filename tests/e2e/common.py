"""Running the built `blade` and `bladegen` from end-to-end tests. Python's standard library only.

The build folder comes from BLADE_BUILD. Packs are kept in BUILD/e2e-cache, so only the first run generates them. Exit
status 77 means skipped: the programs or the golden checkpoints are not there.
"""
import base64
import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BLADE_BUILD", ROOT / "build" / "release"))
BLADE = BUILD / "bin" / "blade"
BLADEGEN = BUILD / "bin" / "bladegen"
GENERATOR = BUILD / "lib" / "libbladegen.so"
CACHE = BUILD / "e2e-cache"
GOLDEN = ROOT / "tests" / "golden" / "models"
VENV = ROOT / "build" / "venv"
TINYSTORIES = ROOT.parent / "shared" / "models" / "tinystories-260k"


class Result:
    def __init__(self, args, done):
        self.args = args
        self.code = done.returncode
        self.out = done.stdout.decode("utf-8", "replace")
        self.err = done.stderr.decode("utf-8", "replace")

    def __str__(self):
        command = " ".join(map(str, self.args))
        return f"{command}\nstatus {self.code}\nstdout: {self.out[-1500:]}\nstderr: {self.err[-1500:]}"


def blade(*args, cache=CACHE, stdin=b"", env=None, timeout=300):
    """Runs `blade COMMAND ...`; `cache` None leaves the option out."""
    command = [str(BLADE), *map(str, args)]
    if cache is not None and len(args) > 1 and args[0] in ("generate", "chat", "perplexity", "logits"):
        command += ["--cache", str(cache)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout,
                          env={**os.environ, **env} if env else None)
    result = Result(command, done)
    if result.code < 0 or result.code > 2 or "Sanitizer" in result.err:
        raise AssertionError(f"crashed\n{result}")
    return result


def good(*args, **options):
    """Output of a run that must succeed."""
    result = blade(*args, **options)
    if result.code:
        raise AssertionError(f"failed\n{result}")
    return result.out


def json_lines(text):
    return [json.loads(line) for line in text.splitlines()]


def floats(b64, shape):
    """Rows of little-endian float32."""
    rows, columns = shape
    values = struct.unpack(f"<{rows * columns}f", base64.b64decode(b64))
    return [values[i * columns:(i + 1) * columns] for i in range(rows)]


def row_error(a, b):
    """max |a - b| / max |b|"""
    worst = max(abs(x - y) for x, y in zip(a, b))
    return math.inf if math.isnan(sum(a)) else worst / max(abs(y) for y in b)


def golden_models():
    return sorted(p.parent.name for p in GOLDEN.glob("*/golden.json"))


def golden(name):
    return json.loads((GOLDEN / name / "golden.json").read_text())


def ids_text(ids):
    return ",".join(map(str, ids))


def main():
    missing = [str(p) for p in (BLADE, GENERATOR) if not p.exists()]
    if missing or not golden_models():
        print("skipped: not there:", ", ".join(missing) or GOLDEN)
        sys.exit(77)
    unittest.main(verbosity=2)


def in_venv():
    """Goes on in the Python that scripts/test.sh makes from requirements.txt, where the packages named there are."""
    if pathlib.Path(sys.prefix).resolve() == VENV.resolve():
        return
    python = VENV / "bin" / "python"
    if not (VENV / "requirements.txt").exists():
        print(f"skipped: {VENV} is not there: scripts/test.sh makes it, from tests/e2e/requirements.txt")
        sys.exit(77)
    os.execv(python, [str(python), *sys.argv])


class Case(unittest.TestCase):
    def temporary(self):
        folder = tempfile.TemporaryDirectory(prefix="blade-test-")
        self.addCleanup(folder.cleanup)
        return pathlib.Path(folder.name)
