"""PyTorch's cross entropy over the masked matrix of scores, on the cases of bench/info_nce.bench.ts. The protocol is in bench/measure.ts."""

import json
import os
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit(0)

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
torch.randn(8, 8) @ torch.randn(8, 8)
with open("/proc/self/maps") as maps:
    files = {os.path.basename(line.split()[-1]) for line in maps}
# a PyTorch with the reference BLAS is no peer for a time: the name shows it
blas = ",".join(sorted(name for name in files if any(word in name.lower() for word in ("openblas", "mkl", "blis", "libblas")))) or "built in"
name = f"PyTorch {torch.__version__} ({blas})"


def make(r):
    n, d = r["n"], r["d"]
    q, k = (F.normalize(torch.randn(n, d), dim=1).requires_grad_() for _ in range(2))
    groups = torch.arange(n) // 4
    hidden = (groups[:, None] == groups) & ~torch.eye(n, dtype=torch.bool)
    labels = torch.arange(n)

    def loss():
        return F.cross_entropy((50 * q @ k.T).masked_fill(hidden, -torch.inf), labels)

    def forward():
        with torch.no_grad():
            loss()

    def step():
        loss().backward()
        q.grad = k.grad = None

    return forward if r["pass"] == "forward" else step


print(json.dumps({"impl": name}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    call = make(request)
    call()
    start = time.perf_counter()
    for _ in range(request["calls"]):
        call()
    print(json.dumps({"us": (time.perf_counter() - start) / request["calls"] * 1e6, "impl": name}), flush=True)
