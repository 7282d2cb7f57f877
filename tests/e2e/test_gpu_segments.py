"""Attention over several segments on GPUs (stand-in drivers): blocks that have one segment each and a merge, one block
that has them all, and tiles of a prompt give the same bits, however the prompt is cut."""
import re
import shutil
import subprocess

from common import BLADEGEN, ROOT, Case, good, json_lines, main
from serving import DEMO
from test_gpu_standin import TARGETS, environment

TOKENS = ",".join(str((i * 37 + 11) % 1000) for i in range(131)) # pieces of 65 and of 13 leave one token, in segment 3


class Segments(Case):
    def pack(self, target, rooms):
        """A pack for segments of 64 tokens instead of 512, with room for so many of them."""
        source = self.temporary()
        for part in ("compiler/lua", "templates", "schedules"):
            shutil.copytree(ROOT / part, source / part)
        for name, old, new in (("plan.lua", r"attention_segment = \d+", "attention_segment = 64"),
                               ("graph.lua", r"return math.min\(2048, ", f"return math.min({rooms}, ")):
            path = source / "compiler" / "lua" / name
            text, count = re.subn(old, new, path.read_text())
            self.assertEqual(count, 1, name)
            path.write_text(text)
        out = source / "model.pack"
        subprocess.run([BLADEGEN, "build", DEMO, "--source", source, "--target", f"simt:{target}", "--weights", "bf16",
                        "-o", out], check=True, capture_output=True, timeout=600)
        return out

    def logits(self, device, pack, budget):
        line, = json_lines(good("logits", DEMO, "--pack", pack, "--ids", TOKENS, "--all", "--device", device,
                                "--weights", "bf16", "--max-model-len", 256, "--max-num-batched-tokens", budget,
                                env=environment(device), timeout=600))
        return line["logits_b64"]

    def test_same_bits(self):
        for device, target in TARGETS.items():
            with self.subTest(device=device):
                spread, alone = self.pack(target, 2048), self.pack(target, 1)
                whole = self.logits(device, spread, 256)
                self.assertEqual(self.logits(device, spread, 65), whole, "the last token alone, segments spread")
                self.assertEqual(self.logits(device, alone, 65), whole, "the last token alone, in one block")
                self.assertEqual(self.logits(device, spread, 13), whole, "in small pieces")


if __name__ == "__main__":
    main()
