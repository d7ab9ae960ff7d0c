"""Writes values computed by PyTorch in float64 to <stem>.json beside the calling script. Needs PyTorch; run by hand, results are committed.

    from golden import save
    save(__file__, [("name", {"x": tensor, "index": int_tensor, ...}, {"option": 1}, lambda x, index: ...)])

Floating inputs that require a gradient are differentiated; integer inputs become int32, uint8 stays uint8.
"""

import json
from pathlib import Path

import torch


def save(script, cases):
    torch.manual_seed(1)
    saved = []
    for name, inputs, options, run in cases:
        out = run(**inputs)
        dout = torch.randn_like(out)
        wanted = {k: x for k, x in inputs.items() if x.requires_grad}
        grads = torch.autograd.grad(out, list(wanted.values()), dout, allow_unused=True) if wanted else []
        record = {}
        for key, x in inputs.items():
            kind = "bytes" if x.dtype == torch.uint8 else "ints" if not x.is_floating_point() else "values"
            record[key] = {"shape": list(x.shape), kind: x.detach().reshape(-1).tolist()}
            if kind == "values" and not x.requires_grad:
                record[key]["fixed"] = True
        saved.append({
            "name": name,
            "inputs": record,
            "options": options,
            "dout": dout.reshape(-1).tolist(),
            "out": out.detach().reshape(-1).tolist(),
            "grads": {k: (torch.zeros_like(x) if g is None else g).reshape(-1).tolist() for (k, x), g in zip(wanted.items(), grads)},
        })
    Path(script).with_suffix(".json").write_text(json.dumps({"cases": saved}) + "\n")


def leaf(*shape, seed=1):
    """Random normal float64 values of this shape that require a gradient."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()
