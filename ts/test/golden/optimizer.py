"""Ten steps of PyTorch's optimizers in float64 on given gradients, saved to optimizer.json beside this file. Run by hand."""

import json
from pathlib import Path

import torch

generator = torch.Generator().manual_seed(3)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def flat(tensors):
    return [x.detach().reshape(-1).tolist() for x in tensors]


def adamw(clip):
    start = [randn(3, 5), randn(7)]
    params = [x.clone().requires_grad_() for x in start]
    optimizer = torch.optim.AdamW(params, lr=0.02, weight_decay=0.1, betas=(0.8, 0.99), eps=1e-6)
    grads, norms, after = [], [], []
    for _ in range(10):
        step = [randn(3, 5), randn(7)]
        for p, g in zip(params, step):
            p.grad = g.clone()
        if clip is not None:
            norms.append(torch.nn.utils.clip_grad_norm_(params, clip).item())
        optimizer.step()
        grads.append(flat(step))
        after.append(flat(params))
    return {"clip": clip, "shapes": [[3, 5], [7]], "start": flat(start), "grads": grads, "norms": norms, "after": after}


def sparse_adam():
    start = randn(6, 4)
    table = start.clone().requires_grad_()
    optimizer = torch.optim.SparseAdam([table], lr=0.02, betas=(0.8, 0.99), eps=1e-6)
    indices, values, after = [], [], []
    for step in range(10):
        index = torch.randint(0, 6, (step + 1,), generator=generator)  # with repeats
        value = randn(step + 1, 4)
        table.grad = torch.sparse_coo_tensor(index[None], value, (6, 4))
        optimizer.step()
        indices.append(index.tolist())
        values.append(value.reshape(-1).tolist())
        after.append(table.detach().reshape(-1).tolist())
    return {"shape": [6, 4], "start": start.reshape(-1).tolist(), "indices": indices, "values": values, "after": after}


saved = {"adamw": [adamw(None), adamw(1.5), adamw(100.0)], "sparseAdam": sparse_adam()}
Path(__file__).with_suffix(".json").write_text(json.dumps(saved) + "\n")
