"""EmbeddingBag with sparse gradients and the optimizer's step on them (SGD, the cheapest that takes sparse gradients; SparseAdam)."""

import torch
import torch.nn.functional as F
from timing import Call, device, main, normal


def implementations(case, s, dtype):
    def make(optimizer):
        def one():
            table = normal(s["table"], s["width"], factor=0.1, leaf=True)
            indices = torch.randint(s["distinct"], (s["bags"] * s["each"],), device=device)
            offsets = torch.arange(s["bags"], device=device) * s["each"]
            forward = lambda: F.embedding_bag(indices, table, offsets, mode="sum", sparse=True)
            return Call(forward, (table,), normal(s["bags"], s["width"]), step=optimizer([table], lr=1e-3).step)

        return one

    yield "EmbeddingBag", make(torch.optim.SGD) if case["pass"] == "forward" else None
    yield "EmbeddingBag + SGD", make(torch.optim.SGD) if case["pass"] == "step" else None
    yield "EmbeddingBag + SparseAdam", make(torch.optim.SparseAdam) if case["pass"] == "step" else None


main(implementations)
