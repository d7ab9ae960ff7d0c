import torch
import torch.nn.functional as F
from golden import leaf, save


def bag(mode):
    def run(table, indices, offsets, weights=None):
        return F.embedding_bag(indices, table, offsets, mode=mode, per_sample_weights=weights, include_last_offset=True)

    return run


ints = {"indices": torch.tensor([5, 0, 5, 1, 5, 2, 2]), "offsets": torch.tensor([0, 3, 3, 7])}
save(
    __file__,
    [
        ("sum", {"table": leaf(6, 4), **ints}, {"mode": "sum"}, bag("sum")),
        ("mean", {"table": leaf(6, 4), **ints}, {"mode": "mean"}, bag("mean")),
        ("weighted sum", {"table": leaf(6, 4), **ints, "weights": leaf(7)}, {"mode": "sum"}, bag("sum")),
    ],
)
