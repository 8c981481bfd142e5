"""Where data comes from: the public files, the built-in data set, files of one's own.

``load_split`` is what scripts call: it finds or downloads the raw file, reads and filters it into
``Interactions``, and draws (or reads back) the ``Split`` of the wanted seed, kept beside them.
"""

import hashlib
import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from Utils.errors import UserError, require_known, warn
from Utils.files import write_whole
from Utils.interactions import Interactions, read_sequences, read_users_dat
from Utils.own_data import load_made, load_own, name_of
from Utils.split import (
    SHARES,
    Split,
    by_share,
    by_time,
    leave_one_out,
    name_of_measured,
    name_of_shares,
    read_published_split,
)
from Utils.synthetic import Size, synthetic_pairs
from Utils.tables import ORDER, Reading


@dataclass(frozen=True)
class Source:
    """A public file: where it is, what its bytes hash to, how it is read, which users are kept."""

    url: str
    sha256: str
    min_count: int  # users with fewer distinct items are dropped
    file: str = "users.dat"  # what it is called here
    in_order: bool = False  # each user's items are in the order of time


SOURCES = {
    "CiteULike": Source(
        url="https://raw.githubusercontent.com/js05212/citeulike-t/HEAD/users.dat",
        sha256="02d5d429b2c0362e0ed79f6ef204666b4092563d21493abf4dfb521e8a7078bf",
        min_count=5,
    ),
    "Foursquare": Source(
        url="https://raw.githubusercontent.com/hieunm44/hyperkdma/HEAD/datasets/Foursquare/users.dat",
        sha256="808c42ee414bdef5990e4f61143e2e02f1d266c59b303f37b4050a99d2536c78",
        min_count=10,
    ),
    "AmazonVideoGames": Source(
        url="https://raw.githubusercontent.com/pmixer/SASRec.pytorch/HEAD/python/data/Video.txt",
        sha256="b7376fe24430743f411dc7f567285657b2adb3f74361cc7ba0aee94f3024b651",
        min_count=5,
        file="interactions.txt",
        in_order=True,
    ),
    "Toys": Source(
        url="https://raw.githubusercontent.com/RUCAIBox/CIKM2020-S3Rec/HEAD/data/Toys_and_Games.txt",
        sha256="176c680c688d497598c4a89a03b402c0fe78d795e5db335c2e78dd5f2d778a3f",
        min_count=5,
        file="Toys_and_Games.txt",
        in_order=True,
    ),
    "Beauty": Source(
        url="https://raw.githubusercontent.com/RUCAIBox/CIKM2020-S3Rec/HEAD/data/Beauty.txt",
        sha256="226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
        min_count=5,
        file="Beauty.txt",
        in_order=True,
    ),
}
IN_ORDER = [name for name, source in SOURCES.items() if source.in_order]
SYNTHETIC = "synthetic"  # the built-in data set, made by Utils/synthetic.py
DATASETS = (*SOURCES, SYNTHETIC)
DRAWS = {"seed": leave_one_out, "share": by_share, "time": by_time}  # --split -> how it is drawn


Shares = tuple[float | None, float | None]  # for validation and test; None: the usual one


def is_own(dataset: str) -> bool:
    """Return whether ``--dataset`` is the path of a file of one's own, be it there or not."""
    path = Path(dataset)
    looks = bool(path.suffix or path.name != dataset or path.exists())
    return looks and dataset not in DATASETS and not is_made(dataset)


def is_made(dataset: str) -> bool:
    """Return whether ``--dataset`` says of which size one is to be made, be it right or not."""
    return dataset.startswith(f"{SYNTHETIC}:")


def dataset_name(dataset: str) -> str:
    """Return what a data set is called in folders: a built-in one's name, or the file's stem."""
    if is_made(dataset):
        return Size.of(dataset).name
    return name_of(Path(dataset)) if is_own(dataset) else dataset


def require_dataset(dataset: str) -> None:
    """Raise ``UserError`` unless there is such a data set, or such a file under another name."""
    if is_made(dataset):
        Size.of(dataset)
    elif not is_own(dataset):
        require_known("--dataset", dataset, DATASETS)
    elif not Path(dataset).exists():
        raise UserError(f"--dataset {dataset}: no such file; correct the path")
    elif dataset_name(dataset).lower() in map(str.lower, DATASETS):
        raise UserError(
            f"--dataset {dataset}: runs would land in logs/{dataset_name(dataset)}, which is for "
            f"the built-in data set of this name; rename the file"
        )


def refuse_reading(dataset: str, reading: Reading) -> None:
    """Raise ``UserError`` if it is chosen how to read a data set that is always read the same."""
    for name, value in reading.chosen().items() if not is_own(dataset) else ():
        raise UserError(
            f"--{name} {value}: is for files of your own, and {dataset} is built in; leave it out"
        )


def split_name(split: str, seed: int, shares: Shares = (None, None), eval_users: int = 0) -> str:
    """Return what a split is called in folders: ``seed0``, ``share0``, ``published``.

    On the published split and by time, seeds are of training: another than 0 gives ``time-seed1``.
    ``eval_users``: how many users are measured; 0: all.
    """
    if shares != (None, None) and split not in SHARES:
        raise UserError(
            f"--split {split}: has no shares; leave --valid_share and --test_share out, or use "
            f"--split share or time"
        )
    drawn = split in ("seed", "share")
    number = str(seed) if drawn else ""
    named = f"{split}{number}"
    if split in SHARES:
        named = name_of_shares(split, number, *_shares(split, shares))
    named = name_of_measured(named, eval_users) if eval_users else named
    return f"{named}-seed{seed}" if seed and not drawn else named


def _shares(split: str, given: Shares) -> list[float]:
    return [usual if one is None else one for one, usual in zip(given, SHARES[split], strict=True)]


def split_of(args: Any) -> Split:
    """Return the split that a script's settings name."""
    split = load_split(args.dataset, args.split, args.seed, args.data_dir, args.held_out, args)
    return split.measuring(args.eval_users, args.seed) if args.eval_users else split


def load_split(
    dataset: str,
    split: str,
    seed: int,
    data_dir: str,
    shares: Shares = (None, None),
    reading: Reading | None = None,
) -> Split:
    """Return a data set's split, making or downloading what is not in ``data_dir`` yet.

    Parameters
    ----------
    dataset : a name in ``DATASETS``, a size as in ``synthetic:5000x5000x1e5``, or the path of a
        file of one's own.
    split : ``"seed"`` or ``"share"`` for our own split of this seed, by leave-one-out or by shares,
        kept as ``split_<name>.npz`` beside the raw file, or beside what was made of one's own;
        ``"time"``: the last ones of each user; ``"published"`` for the authors' own, read from
        ``published_split0.npz``.
    shares : of a user's items, for ``share`` and ``time``.
    reading : how a file of one's own is read.
    """
    split_name(split, seed, shares)  # refuses shares that are none
    if is_own(dataset):
        where = Path(dataset), Path(data_dir)
        return _load_own_split(*where, split, seed, shares, reading or Reading())
    if split == "time" and dataset not in IN_ORDER:
        raise UserError(
            f"--split time: the items of a user in {dataset} are in no order of time; those in "
            f"{', '.join(IN_ORDER)} are"
        )
    folder = Path(data_dir) / dataset
    if split == "published":
        path = folder / "published_split0.npz"
        if not path.exists():
            raise UserError(
                f"{path}: no such file; put the published split there or use '--split seed'"
            )
        return read_published_split(path, dataset)
    if is_made(dataset):
        imported, folder = load_made(Size.of(dataset), Path(data_dir))
        return _drawn(imported.interactions, split, seed, shares, dataset_name(dataset), folder)
    interactions = load_interactions(dataset, data_dir)
    return _drawn(interactions, split, seed, shares, dataset, folder)


def _load_own_split(
    path: Path, data_dir: Path, split: str, seed: int, shares: Shares, reading: Reading
) -> Split:
    """Return the split of a file of one's own, and print what is in it."""
    if split == "published":
        raise UserError(f"--split published: nobody has published one of {path}; use another")
    imported, folder = load_own(path, data_dir, reading)
    print(imported.said, flush=True)
    if split == "time" and not imported.in_order:
        raise UserError(
            f"--split time: {path} has no column of times of a usual name; --time_column NAME says "
            f"which it is, --time_column {ORDER} that the rows are in the order of time"
        )
    return _drawn(imported.interactions, split, seed, shares, name_of(path), folder)


def _drawn(
    interactions: Interactions, split: str, seed: int, shares: Shares, dataset: str, folder: Path
) -> Split:
    """Return a split of our own, from where it is kept, or drawn and then kept there."""
    seed = 0 if split == "time" else seed  # nothing is drawn
    name = split_name(split, seed, shares)
    path = folder / f"split_{name}.npz"
    if path.exists():
        kept = Split.load(path)
        found = (kept.dataset, kept.name, kept.source_sha256)
        if found != (dataset, name, interactions.sha256):
            raise UserError(f"{path}: of another raw file or seed; delete it to make it anew")
        return kept
    more = _shares(split, shares) if split in SHARES else [folder]
    made = DRAWS[split](interactions, seed, dataset, *more)
    try:
        made.save(path)
    except UserError as error:  # the same split can be drawn again at any time
        warn(f"the split is not kept: {error}")
        return made
    return Split.load(path)  # of which large arrays stay there


def load_interactions(dataset: str, data_dir: str) -> Interactions:
    """Return the filtered interactions of a data set, downloading its file if it is missing."""
    if dataset == SYNTHETIC:
        users, items = synthetic_pairs()
        digest = hashlib.sha256(users.tobytes() + items.tobytes()).hexdigest()
        return Interactions.from_pairs(users, items, 1, digest, where=SYNTHETIC)
    source = SOURCES[dataset]
    path = Path(data_dir) / dataset / source.file
    if not path.exists():
        download(source.url, source.sha256, path)
    interactions = (read_sequences if source.in_order else read_users_dat)(path, source.min_count)
    if interactions.sha256 != source.sha256:
        raise UserError(
            f"{path}: not the public file (sha256 {interactions.sha256[:8]}..., not "
            f"{source.sha256[:8]}...), and runs on other data must not stand under its name; "
            f"delete it to have that of {source.url} downloaded"
        )
    return interactions


def download(url: str, sha256: str, path: Path) -> None:
    """Fetch ``url`` to ``path`` with a progress bar; the file appears only if its hash is right."""
    remedy = f"put the file from {url} there"
    try:
        response = urllib.request.urlopen(url, timeout=30)
    except OSError as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is an open response, too
        raise UserError(f"{path}: no such file, and no download ({error}); {remedy}") from error
    print(f"{path}: no such file, so it is downloaded from {url}")
    digest = hashlib.sha256()
    total = int(response.headers.get("Content-Length", 0)) or None
    bar = tqdm(desc=path.name, total=total, unit="B", unit_scale=True, disable=None)
    with response, bar, write_whole(path) as file:
        while chunk := _receive(response, f"{path}: the download broke off; {remedy}"):
            file.write(chunk)
            digest.update(chunk)
            bar.update(len(chunk))
        if digest.hexdigest() != sha256:
            raise UserError(
                f"{path}: the download broke off or is another file (its sha256 differs) and is "
                f"not kept; {remedy}"
            )


def _receive(response: http.client.HTTPResponse, complaint: str) -> bytes:
    try:
        return response.read(1 << 16)
    except (OSError, http.client.HTTPException) as error:  # the network's errors, not the disk's
        raise UserError(complaint) from error
