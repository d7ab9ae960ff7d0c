import torch
import torch.nn.functional as F
from golden import leaf, save


def one_direction(s, positives, hidden, weights):
    n = torch.arange(len(s))
    hidden = hidden.clone()
    hidden[n, positives] = False
    s = s.masked_fill(hidden, -torch.inf)
    rows = torch.logsumexp(s, 1) - s[n, positives]
    return (rows * weights).sum() / weights.sum()


def info_nce(q, k, positives=None, negatives=None, rowGroups=None, colGroups=None, weights=None, logQ=None, scale=1.0, symmetric=False):
    n = torch.arange(len(q))
    positives = n if positives is None else positives.long()
    weights = torch.ones(len(q), dtype=q.dtype) if weights is None else weights
    s = scale * q @ k.T - (0 if logQ is None else logQ)
    if negatives is not None:
        own = s[n, positives]
        listed = torch.gather(s, 1, negatives.long())
        rows = torch.logsumexp(torch.cat([own[:, None], listed], 1), 1) - own
        return (rows * weights).sum() / weights.sum()
    hidden = torch.zeros_like(s, dtype=torch.bool)
    if rowGroups is not None:
        for rows, columns in zip(rowGroups.reshape(-1, len(q)), colGroups.reshape(-1, len(k))):
            hidden = hidden | (rows[:, None] == columns) & (rows >= 0)[:, None]
    loss = one_direction(s, positives, hidden, weights)
    return (loss + one_direction(s.T, positives, hidden.T, weights)) / 2 if symmetric else loss


def ints(*values):
    return torch.tensor(values, dtype=torch.int32)


def unit(n, d, seed):
    return F.normalize(leaf(n, d, seed=seed).detach(), dim=1).requires_grad_()


def case(name, N, M, D, scale, symmetric=False, **extra):
    options = {"scale": scale, "symmetric": symmetric}
    inputs = {"q": unit(N, D, 1), "k": unit(M, D, 2), **extra}
    return name, inputs, options, lambda **tensors: info_nce(**tensors, **options)


groups = ints(0, 1, -1, 0, 2, -1, 1)
save(__file__, [
    case("square", 5, 5, 4, 10.0),
    case("more columns than rows", 3, 11, 8, 50.0),
    case("groups", 7, 7, 5, 10.0, rowGroups=groups, colGroups=groups),
    case("groups, weights, symmetric", 7, 7, 5, 10.0, symmetric=True, rowGroups=groups, colGroups=groups,
         weights=torch.tensor([1.0, 0, 2, 0.5, 1, 3, 0], dtype=torch.float64)),
    case("two kinds of groups", 4, 4, 5, 10.0, rowGroups=torch.stack([ints(0, 1, 1, -1), ints(5, 6, 5, 5)]),
         colGroups=torch.stack([ints(0, 1, 1, -1), ints(5, 6, 5, 5)])),
    case("shared positives and logQ", 6, 4, 3, 20.0, positives=ints(0, 3, 3, 1, 0, 2), logQ=torch.tensor([-1.0, -2, -0.5, -3]).double()),
    case("listed negatives, own column among them", 4, 6, 3, 10.0, negatives=ints(0, 3, 3, 2, 1, 5, 4, 4, 4, 0, 3, 1).reshape(4, 3)),
    case("scale 100", 3, 3, 2, 100.0),
])
