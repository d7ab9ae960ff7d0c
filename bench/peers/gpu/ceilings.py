"""What the device reaches at most: copy, read and write, matrix products, exp2, rows gathered at random, launches. One JSON line each.

Random data throughout: zeros run faster. Options as in timing.py; on cpu the sizes are small and only show that the program runs.
"""

import json

import torch
from timing import Stopwatch, device, device_name, normal, on_gpu, options, version, wait


def best(run, calls=10):
    for _ in range(3):
        run()
    samples = []
    for _ in range(min(20, options.rounds)):
        with Stopwatch() as watch:
            for _ in range(calls):
                run()
        samples.append(watch.us / calls)
    return sorted(samples)[len(samples) // 2]


def report(name, amount, unit, us):
    line = {"op": "ceiling", "case": name, "device": device_name, "impl": version, "us_median": round(us, 3), "per_second": round(amount / us * 1e6, 3), "unit": unit}
    print(json.dumps(line), flush=True)


def main():
    count = 2**30 if on_gpu else 2**18
    source, target = normal(count, dtype=torch.bfloat16), torch.empty(count, dtype=torch.bfloat16, device=device)
    report("copy, read and written", 4 * count, "bytes", best(lambda: target.copy_(source)))
    report("read (sum)", 2 * count, "bytes", best(lambda: source.sum()))
    report("write (fill)", 2 * count, "bytes", best(lambda: target.fill_(1.5)))
    del target
    for n in (4096, 8192) if on_gpu else (64,):
        for dtype in (torch.bfloat16, torch.float32):
            a, b = normal(n, n, dtype=dtype), normal(n, n, dtype=dtype)
            report(f"product {n}, {str(dtype)[6:]}", 2 * n**3, "flops", best(lambda: a @ b))
    x = normal(2**26 if on_gpu else 2**12)
    report("exp2 through memory, float32", x.numel(), "exps", best(lambda: torch.exp2(x)))
    for width in (32, 64, 128, 256, 512, 1024):
        table = source[: source.numel() // (width // 2) * (width // 2)].view(-1, width // 2)
        rows = min(table.shape[0], 2**20)
        index = torch.randint(table.shape[0], (rows,), device=device)
        report(f"rows of {width} bytes at random, read and written", 2 * rows * width, "bytes", best(lambda: table.index_select(0, index)))
    small = normal(32)
    report("launch, one after another", 1, "launches", best(lambda: small.add_(1), calls=1000))
    if on_gpu:
        graph = torch.cuda.CUDAGraph()
        wait()
        with torch.cuda.graph(graph):
            for _ in range(100):
                small.add_(1)
        report("launch in a replayed graph", 100, "launches", best(graph.replay))


main()
