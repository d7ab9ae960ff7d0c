"""PyTorch on the cases of bench/cross_attention.bench.ts: batched matrix products over padded items. The protocol is in bench/measure.ts."""

import json
import os
import sys
import time

try:
    import torch
except ImportError:
    sys.exit("no torch")

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def make(r):
    lengths = torch.tensor(r["lengths"])
    B, N, H, D = len(lengths), int(lengths.max()), r["H"], r["D"]
    k, v = torch.randn(B, H, N, D), torch.randn(B, H, N, D)
    q = torch.randn(B, H, r["queries"] or N, D)
    dout = torch.randn_like(q)
    hidden = (torch.arange(N)[None] >= lengths[:, None])[:, None, None, :]
    padded = bool(hidden.any())

    def attend():
        s = (q * D**-0.5) @ k.transpose(-1, -2)
        return (s.masked_fill(hidden, -1e30) if padded else s).softmax(-1) @ v

    if r["pass"] == "forward":
        def forward():
            with torch.no_grad():
                attend()

        return forward
    for leaf in (q, k, v):
        leaf.requires_grad_()

    def step():
        attend().backward(dout)
        q.grad = k.grad = v.grad = None

    return step


name = f"torch {torch.__version__}, padded"
print(json.dumps({"impl": name}), flush=True)
made = {}
for line in sys.stdin:
    request = json.loads(line)
    key = (request["pass"], request["case"])
    if key not in made:
        made = {key: make(request)}
        made[key]()
    start = time.perf_counter()
    for _ in range(request["calls"]):
        made[key]()
    print(json.dumps({"impl": name, "us": (time.perf_counter() - start) * 1e6 / request["calls"]}), flush=True)
