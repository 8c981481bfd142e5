"""The README's example, as it stands: from a table and another library's model to an export."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_tables import ids

import main_no_KD
import recommend
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


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_ids_come_back_from_training(data, tmp_path_factory):
    """From a table, by a run, to lists: users have their own ids, and items that they had not."""
    pytest.importorskip("pyarrow")
    users = data.draw(st.lists(ids, min_size=6, max_size=9, unique=True), "users")
    items = data.draw(st.lists(ids, min_size=14, max_size=16, unique=True), "items")
    taken = {
        user: [items[(3 * n + k) % len(items)] for k in range(8)] for n, user in enumerate(users)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("story"))
        with open("mine.csv", "w", newline="", encoding="utf-8") as file:
            rows = [(item, "extra", user) for user in users for item in taken[user]]
            csv.writer(file).writerows([("item_id", "note", "user_id"), *rows])
        run(main_no_KD, dataset="mine.csv", model="Popularity", split="share", max_epoch=1, dim=1)
        folder = Path("logs/mine/Popularity-d1/no_KD/share0")
        recommend.main(recommend.Settings(folder, top=5, output=Path("lists.csv"), threads=1))
        with open("lists.csv", newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file))
    assert {row["user"] for row in found} == set(users)
    for user in users:
        mine = [row["item"] for row in found if row["user"] == user]
        assert 0 < len(mine) == len(set(mine)) <= 5
        assert set(mine) <= {item for each in taken.values() for item in each} - set(taken[user])
