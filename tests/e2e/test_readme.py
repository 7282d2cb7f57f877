"""The README's "Add an operator", followed literally: its two Lua files are put where it says and the command is run."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BLADE_BUILD", ROOT / "build" / "release"))
BLADEGEN = BUILD / "bin" / "bladegen"
if not BLADEGEN.exists():
    sys.exit(77)


class AddAnOperator(unittest.TestCase):
    def test_as_written(self):
        chapter = (ROOT / "README.md").read_text().split("**Add an operator.**")[1].split("**Add a schedule.**")[0]
        blocks = [textwrap.dedent(b) for b in re.findall(r"```lua\n(.*?)```", chapter, re.S)]
        names = re.findall(r"Write `([^`]+\.lua)`", chapter)
        command = re.search(r"`bladegen (check [^`]+)`", chapter).group(1).split()
        self.assertEqual((len(blocks), len(names)), (2, 2))
        with tempfile.TemporaryDirectory() as folder:
            for part in ("compiler/lua", "templates", "schedules"):
                shutil.copytree(ROOT / part, pathlib.Path(folder) / part)
            for name, text in zip(names, blocks):
                (pathlib.Path(folder) / name).write_text(text)
            done = subprocess.run([BLADEGEN, *command, "--source", folder], capture_output=True, text=True, timeout=120)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertRegex(done.stdout, r"[1-9]\d* passed, 0 failed")

    def test_every_source_file_is_named(self):
        """One line a file: nothing in the tree is missing from the README's table, nothing named there is gone."""
        table = (ROOT / "README.md").read_text().split("## Where things are")[1].split("## Changing things")[0]
        named = re.findall(r"`([a-z0-9_/*]+)\.(?:c|h|lua|inc)`", table)
        patterns = [re.compile(name.split("/")[-1].replace("*", "[a-z0-9_]*")) for name in named]
        present = [path for folder in ("compiler", "compiler/host", "compiler/gpu", "compiler/simt", "compiler/lua", "runtime", "autotune", "templates", "templates/models")
                   for path in (ROOT / folder).iterdir() if path.suffix in (".c", ".h", ".lua", ".inc")]
        for path in present:
            if path.parent.name != "templates":
                self.assertTrue(any(p.fullmatch(path.stem) for p in patterns), f"{path.relative_to(ROOT)} is not in the table")
        for name, pattern in zip(named, patterns):
            self.assertTrue(any(pattern.fullmatch(path.stem) for path in present), f"{name} is in the table but not in the tree")


if __name__ == "__main__":
    unittest.main()
