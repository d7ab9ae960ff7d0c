"""PyTorch on the cases of bench/embedding.bench.ts: sparse gradients and SparseAdam. The protocol is in bench/measure.ts."""

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
    V, D, T, bags = r["V"], r["D"], r["T"], r["bags"]
    table = torch.full((V, D), 0.1, requires_grad=True)  # untouched zeros would all be one page of memory
    indices = [torch.randint(V, (T,)) for _ in range(16)]
    offsets = torch.arange(bags) * (T // bags)
    calls = 0

    def lookups():
        nonlocal calls
        calls += 1
        return indices[calls % 16]

    def forward():
        with torch.no_grad():
            F.embedding(lookups(), table)

    def forward_bag():
        with torch.no_grad():
            F.embedding_bag(lookups(), table, offsets, mode="sum")

    if r["op"] == "embedding":
        return forward
    if r["op"] == "embedding_bag":
        return forward_bag
    if r["op"] not in ("rowwise_adam", "lazy_adam"):
        return None
    dout = torch.randn(T, D)
    optimizer = torch.optim.SparseAdam([table], 1e-3)

    def step():
        optimizer.zero_grad(set_to_none=True)
        F.embedding(lookups(), table, sparse=True).backward(dout)
        optimizer.step()

    return step


name = f"torch {torch.__version__}"
print(json.dumps({"impl": name}), flush=True)
made = {}
for line in sys.stdin:
    request = json.loads(line)
    if request["op"] not in made:
        made = {request["op"]: make(request)}
        for _ in range(16 if made[request["op"]] else 0):  # every set of lookups once: fresh memory is slow
            made[request["op"]]()
    call = made[request["op"]]
    if call is None:
        print(json.dumps({"impl": name, "us": None}), flush=True)
        continue
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(request["calls"]):
        call()
    us = (time.perf_counter() - start) * 1e6 / request["calls"]
    print(json.dumps({"impl": name, "us": us, "cpu_us": (time.process_time() - cpu) * 1e6 / request["calls"]}), flush=True)
