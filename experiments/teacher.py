"""The teacher that a script's settings name, trained first if it is missing."""

import shlex
import subprocess
import sys
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from experiments.estimate import expected_time
from experiments.settings import SIZES, load_script, resolve
from Models import MODELS
from Models.ensemble import EnsembleTeacher
from Models.given_teacher import read_given
from Models.shared_teacher import SharedTeacher
from Models.teacher import Teacher, TrainedTeacher, read_teacher
from Utils import processes
from Utils.errors import UserError, require_known, warn
from Utils.run_folder import RunFolder, differences, in_words
from Utils.split import Split
from Utils.teacher_files import is_given

# base models by the kinds that HetComp's code calls its teachers
KINDS = {"MF": "BPR", "ML": "CML", "DL": "NeuMF", "GNN": "LightGCN", "AE": "MultVAE"}
KINDS |= {"I-AE": "ItemVAE"}
NAMED = (*KINDS, *MODELS)
SHARED = ("dataset", "split", "valid_share", "test_share", "eval_users", "seed", "model")
SHARED += ("selection", "data_dir", "device", "threads")


def load_teacher(args: Any, split: Split, device: torch.device) -> Teacher:
    """Return the teacher that a script's settings name; train it first if it is missing.

    ``args.teacher`` is a checkpoint or its folder, of any script's run: a student may be the next
    one's teacher; or factors or lists, see ``Utils.teacher_files``. If it is empty, the teacher is
    the run of ``main_no_KD.py`` with ``args.teacher_dim`` on the same data set, split and seed.
    ``args.teacher_dim`` is its size afterwards, if it has one. ``args.teachers`` are several, see
    ``load_ensemble``. For a share of the users, process 0 is the first to look for it.

    Raises
    ------
    UserError
        If the file is missing, broken, or of another data set or split, if what was trained in the
        teacher's place has other settings, or if there are to be assistants of a teacher without
        representations.
    """
    if isinstance(split, processes.Share):
        with processes.first_alone():
            teacher = load_teacher(args, split.whole, device)
        return SharedTeacher(teacher, split)
    if args.teachers:
        return load_ensemble(args, split, device)
    path, remedy = Path(args.teacher), "name another --teacher, or none to have one trained"
    if not args.teacher:
        path, remedy = own_teacher(args, split), "delete it to have it trained anew"
    teacher = teacher_at(path, split, device, remedy)
    if hasattr(args, "TA_dims"):  # refused here, and not by an assistant's own run
        one = torch.zeros(1, dtype=torch.int64, device=device)
        teacher.representations(one, one)
    if not isinstance(teacher, TrainedTeacher):
        return teacher
    if teacher.model.dim < args.dim:
        warn(
            f"{teacher.path}: the teacher (d={teacher.model.dim}) is smaller than the student "
            f"(d={args.dim})"
        )
    args.teacher_dim = teacher.model.dim
    return teacher


def teacher_at(path: Path, split: Split, device: torch.device, remedy: str) -> Teacher:
    """Return the teacher at a path: given factors or lists, or a run's weights.

    A run's folder in ``logs/`` stands for the one in ``checkpoints/``.
    """
    if (path / "config.json").exists():
        path = RunFolder.named(path).checkpoints
    if is_given(path):
        return read_given(path, split, device)
    return read_teacher(path, split, device, remedy)


def load_ensemble(args: Any, split: Split, device: torch.device) -> EnsembleTeacher:
    """Return the teachers that ``args.teachers`` lists, as one; train first what is missing.

    Each is a checkpoint, its folder, or the name of a base model or of its kind (``KINDS``): then
    it is the run of ``main_no_KD.py`` of the usual size of such a teacher.

    Raises
    ------
    UserError
        As ``load_teacher``, and if one is named twice, has no scores of all users and items, or
        the weights are no such.
    """
    if args.teacher:
        raise UserError(f"--teacher {args.teacher} --teachers {args.teachers}: use one of them")
    names = [name.strip() for name in args.teachers.split(",")]
    for model in (args.model, *(KINDS.get(name, name) for name in names)):
        if model in MODELS and MODELS[model].in_order:  # before the others are trained
            raise UserError(
                f"--teachers {args.teachers}: an ensemble averages scores of users, and {model} "
                f"has one of a user for each window; use --teacher for a single one"
            )
    weights = _weights(args.teacher_weights, len(names))
    members = [_member(name, args, split, device) for name in names]
    for place, member in enumerate(members):
        earlier = [each.sha256 for each in members[:place]]
        if member.sha256 in earlier:
            first = names[earlier.index(member.sha256)]
            raise UserError(
                f"--teachers {args.teachers}: {first} and {names[place]} are the same; name each "
                f"once, --teacher_weights says how much it counts"
            )
    ensemble = EnsembleTeacher(
        members, weights, args.combine, Path("checkpoints", split.dataset, "ensembles")
    )
    args.teacher_dim = ensemble.model.dim
    return ensemble


def _member(name: str, args: Any, split: Split, device: torch.device) -> TrainedTeacher:
    path, remedy = Path(name), "name another of --teachers"
    if name in NAMED:
        given = _usual_member(name, args)
        path, remedy = trained_run("no_KD", given, split), "delete it to have it trained anew"
    elif path.name == name and not path.exists():
        require_known("--teachers", name, NAMED)
    teacher = teacher_at(path, split, device, remedy)
    partial = not isinstance(teacher, TrainedTeacher) or any(
        teacher.covered(kind, 0) is not None for kind in ("items", "users")
    )
    if partial:
        raise UserError(
            f"{path}: an ensemble averages scores of all users and items, and this teacher has not "
            f"all; use it alone, with --teacher"
        )
    return teacher


def _usual_member(name: str, args: Any) -> dict[str, Any]:
    """Return the settings of the run that a base model, or its kind, stands for."""
    model = KINDS.get(name, name)
    return _shared(args) | {"model": model, "dim": SIZES[model]["teacher_dim"], **_states(args)}


def checkpoints_of(name: str, args: Any) -> Path:
    """Return where a teacher's weights are, or will be: of a path, a base model or its kind."""
    if name not in NAMED:
        return Path(name)
    wanted = resolve(load_script("no_KD").Settings, _usual_member(name, args))[0]
    return RunFolder.of(wanted).checkpoints


def _weights(text: str, count: int) -> list[float]:
    try:
        weights = [float(part) for part in text.split(",")] if text else [1.0] * count
    except ValueError:
        weights = []
    if len(weights) != count or not all(isfinite(weight) and weight > 0 for weight in weights):
        raise UserError(
            f"--teacher_weights {text}: write a number above 0 for each of the {count} teachers, "
            f"like 1,2"
        )
    return weights


def load_assistants(args: Any, split: Split, device: torch.device) -> list[TrainedTeacher]:
    """Return a chain of assistants, largest first; train first what is missing.

    The largest is the run of ``main_<args.kd>.py`` of its size, taught by ``args.teacher`` or the
    teacher that belongs to the run; the next ones are runs of the script itself, with the larger
    ones as their assistants. So whoever is larger stands at the same place in every such chain, and
    is trained once.

    Raises
    ------
    UserError
        As ``load_teacher``, and if the sizes are none between student and teacher.
    """
    if args.teachers:
        raise UserError(
            f"--teachers {args.teachers}: an ensemble has no representations, which assistants "
            f"learn; use --teacher for a single one"
        )
    sizes = assistant_sizes(args.num_TAs, args.TA_dims, args.dim, args.teacher_dim)[::-1]
    shared = _shared(args) | {name: getattr(args, name) for name in ("teacher_dim", "teacher")}
    for name in ("layer", "precision"):
        if hasattr(load_script(args.kd).Settings, name):  # a setting without use stays as it is
            shared[name] = getattr(args, name)
    assistants = []
    for count, size in enumerate(sizes):
        method, given = args.kd, shared | {"dim": size}
        if count:
            above = [str(larger) for larger in sizes[:count]]
            name = "-".join([args.kd, "via", *above])
            method, given = args.method, given | {"kd": args.kd, "name": name}
            given["TA_dims"] = ",".join(above)
        path = trained_run(method, given, split, role="assistant")
        assistants.append(read_teacher(path, split, device, "delete it to have it trained anew"))
    return assistants


def assistant_sizes(count: int, chosen: str, d_s: int, d_t: int) -> list[int]:
    """Return the sizes of assistants between a student's and a teacher's, smallest first.

    Those that are ``chosen``, as in ``80,140``, or else ``d_s + i (d_t - d_s) / (count + 1)``.

    Source: HyperKDMA paper, equation 20.

    Raises
    ------
    UserError
        If one is not larger than the student and smaller than the teacher, or not written so.
    """
    asked = f"--num_TAs {count}"
    sizes = [round(d_s + i * (d_t - d_s) / (count + 1)) for i in range(1, count + 1)]
    if chosen:
        asked = f"--TA_dims {chosen}"
        try:
            sizes = sorted(map(int, chosen.split(",")))
        except ValueError:
            raise UserError(f"{asked}: these are no sizes; write them like 80,140") from None
    for size in sizes:
        if not d_s < size < d_t:
            raise UserError(
                f"{asked}: an assistant of size {size} is not between the student's {d_s} and the "
                f"teacher's {d_t}"
            )
    if len(set(sizes)) < len(sizes):
        raise UserError(f"{asked}: two assistants of one size; use fewer, or others")
    return sizes


def own_teacher(args: Any, split: Split) -> Path:
    """Return the checkpoint of the teacher that belongs to a run; train it to its end if needed."""
    given = _shared(args) | {"dim": args.teacher_dim}
    return trained_run("no_KD", given | _states(args), split)


def _shared(args: Any) -> dict[str, Any]:
    """Return what a run and its teachers have in common."""
    return {name: getattr(args, name) for name in SHARED} | args.chosen()


def _states(args: Any) -> dict[str, int]:
    """Return the states that a method asks of its teachers, if it does."""
    return {"keep_states": args.num_states} if hasattr(args, "num_states") else {}


def trained_run(method: str, given: dict[str, Any], split: Split, role: str = "teacher") -> Path:
    """Return the checkpoint of a script's run with the settings ``given``; train what is missing.

    ``role`` is what it is called in messages.

    Raises
    ------
    UserError
        If its folder holds a run of other settings, or if it cannot be trained.
    """
    script = load_script(method)
    wanted = resolve(script.Settings, given)[0]
    folder = RunFolder.of(wanted)
    flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
    command = ["python", f"main_{method}.py", *flags]
    if folder.config.exists():
        found = differences(folder.read_config()["settings"], wanted)
        if found:
            as_it_is = f"take it as it is with --teacher {folder.checkpoints}, or "
            raise UserError(
                f"{folder.logs}: is no {role} of the usual settings, but has {in_words(found)}; "
                f"{as_it_is * (role == 'teacher')}train the usual one with "
                f"{shlex.join([*command, '--overwrite'])}"
            )
    if folder.has_weights() and folder.summary.exists():
        return folder.best
    print(
        f"no finished {role} in {folder.checkpoints}: training it first"
        f"{expected_time(wanted, split)}\n{shlex.join([*command, '--resume'])}",
        flush=True,
    )
    if _run([sys.executable, script.__file__, *flags, "--resume"]):
        remedy = "; --teacher PATH names one" * (role == "teacher")
        raise UserError(f"the {role} could not be trained, as said above{remedy}")
    return folder.best


def _run(command: list[str]) -> int:
    """Run a command to its end, which Ctrl-C reaches, too, and return its exit status."""
    interrupted = 0
    with subprocess.Popen(command, env=processes.alone()) as process:
        while True:
            try:
                status = process.wait()
                break
            except KeyboardInterrupt:
                interrupted += 1
                if interrupted > 2:
                    process.terminate()
    if interrupted:
        raise KeyboardInterrupt
    return status
