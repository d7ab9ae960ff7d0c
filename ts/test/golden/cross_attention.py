import torch
from golden import leaf, save


def attend(q, k, v, offsets, qOffsets=None, mask=None, causal=False, scale=None):
    """Item by item with full matrices, the textbook way."""
    q, shape = (q, None) if qOffsets is not None else (q.reshape(-1, *q.shape[2:]), q.shape)
    items = len(offsets) - 1
    rows = qOffsets.tolist() if qOffsets is not None else [b * shape[1] for b in range(items + 1)]
    shared = shape is not None and shape[0] == 1
    group, outs = q.shape[1] // k.shape[1], []
    for b in range(items):
        keys = slice(offsets[b], offsets[b + 1])
        qb = q if shared else q[rows[b]:rows[b + 1]]
        kb, vb = (x[keys].repeat_interleave(group, 1) for x in (k, v))
        s = torch.einsum("ihd,jhd->hij", qb, kb) * (scale if scale is not None else q.shape[-1] ** -0.5)
        hidden = torch.zeros(s.shape[1:], dtype=torch.bool)
        if mask is not None:
            hidden |= (mask[keys] < 0)[None]
        if causal:
            i, j = torch.arange(s.shape[1])[:, None], torch.arange(s.shape[2])[None]
            hidden |= j > i + s.shape[2] - s.shape[1]
        p = s.masked_fill(hidden, -torch.inf).softmax(-1)
        p = p.masked_fill(hidden.all(-1, keepdim=True), 0)
        outs.append(torch.einsum("hij,jhd->ihd", p, vb))
    out = torch.cat(outs)
    return out.reshape(items, shape[1], *q.shape[1:]) if shape is not None else out


def ints(*values):
    return torch.tensor(values, dtype=torch.int32)


def case(name, q, T, Hkv, offsets, qOffsets=None, mask=None, **options):
    inputs = {"q": leaf(*q), "k": leaf(T, Hkv, q[-1], seed=2), "v": leaf(T, Hkv, q[-1], seed=3), "offsets": ints(*offsets)}
    if qOffsets:
        inputs["qOffsets"] = ints(*qOffsets)
    if mask:
        inputs["mask"] = ints(*mask)
    return name, inputs, options, lambda **tensors: attend(**tensors, **options)


save(__file__, [
    case("cross", (3, 2, 2, 4), 9, 2, [0, 3, 4, 9]),
    case("cross, shared queries, two query heads per key head", (1, 3, 4, 8), 7, 2, [0, 2, 7], mask=[0, 5, -1, 3, -2, 0, 0]),
    case("jagged self", (9, 2, 8), 9, 2, [0, 4, 5, 9], qOffsets=[0, 4, 5, 9]),
    case("causal self, scale", (9, 2, 3), 9, 2, [0, 4, 5, 9], qOffsets=[0, 4, 5, 9], causal=True, scale=0.7),
    case("long keys", (1, 1, 1, 5), 37, 1, [0, 37]),
])
