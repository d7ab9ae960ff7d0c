"""PyTorch on the cases of bench/layer_norm.bench.ts. The protocol is in bench/measure.ts."""

import json
import os
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit("no torch")

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def make(r):
    rows, D = r["rows"], r["D"]
    x, weight, bias, residual, dout = (torch.randn(*s) for s in [(rows, D), (D,), (D,), (rows, D), (rows, D)])

    def norm():
        return F.layer_norm(x + residual if r["residual"] else x, (D,), weight, bias)

    if r["pass"] == "forward":
        def forward():
            with torch.no_grad():
                norm()

        return forward
    leaves = (x, weight, bias, residual)
    for leaf in leaves:
        leaf.requires_grad_()

    def step():
        norm().backward(dout)
        for leaf in leaves:
            leaf.grad = None

    return step


name = f"torch {torch.__version__}"
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
