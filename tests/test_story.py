"""The README's example, as it stands: from a table and another library's model to an export."""

import csv
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from Utils.synthetic import synthetic_pairs

README = (ROOT / "README.md").read_text()


def test_ten_lines_compress_a_recommender_of_ones_own(tmp_path):
    pytest.importorskip("implicit")
    section = README.split("## Compress a recommender of your own")[1].split("\n## ")[0]
    ((_, program), (_, commands)) = re.findall(r"```(python|shell)\n(.*?)```", section, re.DOTALL)
    assert len([line for line in (program + commands).splitlines() if line]) <= 12
    with open(tmp_path / "ratings.csv", "w", newline="") as file:
        pairs = zip(*synthetic_pairs(), strict=True)
        csv.writer(file).writerows(
            [("userId", "itemId"), *((f"u{u}", f"item {i}") for u, i in pairs)]
        )
    program = program.replace("factors=200", "factors=64, num_threads=1").replace("300", "20")
    program = program.replace("regularization=200", "regularization=10")
    short = f"{sys.executable} {ROOT}/main_S2D.py --max_epoch 8 --threads 1"
    commands = commands.replace("python main_S2D.py", short)
    commands = commands.replace("python recommend.py", f"{sys.executable} {ROOT}/recommend.py")
    environment = {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    for command in ([sys.executable, "-c", program], ["bash", "-ec", commands]):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert "teacher of given factors d=64: 1,000 of 1,000 users" in done.stdout
    student, teacher = (line.split("|") for line in done.stdout.splitlines()[-2:])
    assert [student[1].strip(), teacher[1].strip()] == ["this run", "teacher"]
    sizes = [float(row[5]) for row in (student, teacher)]
    reached = [float(row[9]) for row in (student, teacher)]
    assert sizes[0] < sizes[1] / 2
    assert reached[0] > 0.7 * reached[1] > 0.1
    assert {path.name for path in (tmp_path / "student").iterdir()} >= {
        *("README.md", "factors.safetensors", "items.faiss", "items.txt", "users.txt")
    }
