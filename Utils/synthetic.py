"""The built-in data set: small, offline, the same everywhere, and hard enough to need capacity."""

import numpy as np

NUM_USERS = 1000
NUM_ITEMS = 2000
NUM_GROUPS = 50  # interests; a student of 20 dimensions cannot keep them all apart


def synthetic_pairs() -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) users and (n,) items, about 30,000 distinct pairs, always the same.

    Each item belongs to one latent group, each user follows a few groups, items have a long-tailed
    popularity and users a long-tailed activity. A user takes the items with the largest
    ``affinity + log popularity + Gumbel noise``: a draw without replacement in proportion to
    popularity, mostly from the user's own groups.
    """
    rng = np.random.default_rng(20201019)
    group = rng.integers(NUM_GROUPS, size=NUM_ITEMS)
    popularity = 1 / np.arange(10, NUM_ITEMS + 10) ** 1.0
    rng.shuffle(popularity)
    activity = np.clip(rng.lognormal(3.2, 0.6, NUM_USERS), 8, 150).astype(int)
    users, items = [], []
    for user in range(NUM_USERS):
        affinity = np.zeros(NUM_GROUPS)
        followed = rng.choice(NUM_GROUPS, size=rng.integers(2, 6), replace=False)
        affinity[followed] = rng.uniform(4, 6, len(followed))
        noisy = affinity[group] + np.log(popularity) + rng.gumbel(size=NUM_ITEMS)
        taken = np.argsort(-noisy, kind="stable")[: activity[user]]
        users.append(np.full(len(taken), user))
        items.append(taken)
    return np.concatenate(users), np.concatenate(items)
