"""The best approximation of a teacher's scores by factors of a smaller size."""

import torch
from torch import Tensor

from Models.recommender import Recommender
from Models.shared_teacher import SharedTeacher
from Models.teacher import CHUNK, Teacher
from Utils import processes
from Utils.errors import UserError
from Utils.seeding import torch_generator

EXTRA = 10  # columns beyond those wanted, while the scores' largest directions are sought
PASSES = 3  # over all scores, for the same


def spectral_start(student: Recommender, teacher: Teacher) -> None:
    """Give the student the factors whose inner products are nearest to the teacher's scores.

    Raises
    ------
    UserError
        If the student does not take given factors, if the teacher is asked for windows, or if its
        scores have a smaller rank than the student is large.
    """
    require_assignable(student)
    if isinstance(teacher, SharedTeacher):
        _shared_start(student, teacher)
        return
    student.assign(*_best_factors(student, teacher))


def _shared_start(student: Recommender, teacher: SharedTeacher) -> None:
    """Have process 0 compute the factors, and each take those of its users."""
    users = items = None
    with processes.first_alone():
        if processes.is_first():
            users, items = _best_factors(student, teacher.whole)
    mine, theirs = student.encode()
    if items is None:
        items = torch.empty_like(theirs)
    student.assign(processes.scattered(users, mine, teacher.split.bounds), items)
    # process 0 has the items; the others take them over when the run begins


def _best_factors(student: Recommender, teacher: Teacher) -> tuple[Tensor, Tensor]:
    if teacher.asked is not teacher.split:
        raise UserError(
            f"{teacher.describe()}: has scores of windows, and none of users; use another teacher"
        )
    factors = teacher.encode() or leading_factors(teacher, student.dim + EXTRA)
    rank = min(*factors[0].shape, *factors[1].shape)
    if student.dim > rank:
        raise UserError(
            f"--dim {student.dim}: the scores are of rank {rank} ({teacher.describe()}); a student "
            f"that starts from them is at most as large"
        )
    return low_rank_factors(*factors, student.dim)


def require_assignable(student: Recommender) -> None:
    """Raise ``UserError`` unless the student takes given factors: before a teacher is trained."""
    student.assign(*require_factors(student))  # its own, so nothing changes


def require_factors(student: Recommender) -> tuple[Tensor, Tensor]:
    """Return the student's factors; raise ``UserError`` if its scores are no inner products."""
    factors = student.encode()
    if factors is None:
        raise no_products(student)
    return factors


def no_products(student: Recommender) -> UserError:
    """Return the error for a student whose scores are no inner products."""
    kind = type(student).__name__
    return UserError(
        f"--model {kind}: its scores are not inner products of factors of users and items, as this "
        f"needs them; use another base model (S2D on sequences: --start random)"
    )


@torch.no_grad()
def low_rank_factors(users: Tensor, items: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the factors of size ``dim`` whose inner products are nearest to those given.

    ``users``: (U, d), ``items``: (I, d) -> (U, dim), (I, dim), with ``dim`` at most d. Nearest in
    the sum of squares over all U x I scores (Eckart and Young, 1936). The score matrix is never
    made: with the QR decompositions ``users = Q R``, ``items = Q' R'``, its singular values are
    those of ``R R'^T``, which is d x d. They go half to either side.
    """
    (q_users, r_users), (q_items, r_items) = (
        torch.linalg.qr(factors.double()) for factors in (users, items)
    )
    left, values, right = torch.linalg.svd(r_users @ r_items.T)
    scale = values[:dim].sqrt()
    factors = (q_users @ left[:, :dim] * scale, q_items @ right[:dim].T * scale)
    return tuple(factor.to(users.dtype) for factor in factors)


@torch.no_grad()
def leading_factors(teacher: Teacher, size: int) -> tuple[Tensor, Tensor]:
    """Return factors ``(U, size)``, ``(I, size)`` of a teacher's scores, nearly the best ones.

    For scores that are no inner products, made anew for a few users at a time. Subspace iteration
    (Halko, Martinsson and Tropp, SIAM Review 53(2), 2011, algorithm 4.4), with ``A^T (A X)`` in
    one pass over the scores A.
    """
    num_users, num_items, device = teacher.split.num_users, teacher.split.num_items, teacher.device
    size = min(size, num_users, num_items)
    generator = torch_generator(0, "leading factors", 0, device)
    basis = torch.randn(num_items, size, generator=generator, device=device)
    chunks = torch.arange(num_users, device=device).split(CHUNK)
    for _ in range(PASSES - 1):
        basis = torch.linalg.qr(basis).Q
        product = torch.zeros_like(basis)
        for users in chunks:
            scores = teacher.score_all(users)
            product += scores.T @ (scores @ basis)
        basis = product
    basis = torch.linalg.qr(basis).Q
    return torch.cat([teacher.score_all(users) @ basis for users in chunks]), basis
