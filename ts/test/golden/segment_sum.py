import torch
from golden import leaf, save


def segments(mode):
    def run(x, offsets, weights=None):
        rows = x if weights is None else x * weights[:, None]
        parts = [rows[a:b] for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist())]
        return torch.stack([p.sum(0) if mode == "sum" else p.sum(0) / max(len(p), 1) for p in parts])

    return run


offsets = torch.tensor([0, 2, 2, 7])
save(
    __file__,
    [
        ("sum", {"x": leaf(7, 3), "offsets": offsets}, {"mode": "sum"}, segments("sum")),
        ("mean", {"x": leaf(7, 3), "offsets": offsets}, {"mode": "mean"}, segments("mean")),
        ("weighted mean", {"x": leaf(7, 3), "offsets": offsets, "weights": leaf(7)}, {"mode": "mean"}, segments("mean")),
    ],
)
