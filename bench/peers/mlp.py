"""PyTorch on the case of bench/mlp.bench.ts. The protocol is in bench/measure.ts."""

import json
import os
import sys
import time

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError:
    sys.exit("no torch")

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


class Step:
    def __init__(self, request, foreach):
        values = np.fromfile(os.path.join(request["folder"], "mlp.bin"), dtype=np.float32)
        at = 0

        def take(*shape):
            nonlocal at
            count = int(np.prod(shape))
            at += count
            return torch.from_numpy(values[at - count : at].reshape(shape).copy())

        widths, batch = request["widths"], request["batch"]
        self.x, self.labels = take(batch, widths[0]), take(batch, widths[-1])
        layers = []
        for inputs, outputs in zip(widths, widths[1:]):
            layer = nn.Linear(inputs, outputs)
            with torch.no_grad():
                layer.weight.copy_(take(outputs, inputs))
                layer.bias.copy_(take(outputs))
            layers += [layer, nn.GELU()]
        self.model = nn.Sequential(*layers[:-1])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3, weight_decay=0.01, foreach=foreach)
        with torch.no_grad():
            self.check = self.loss().item()

    def loss(self):
        return F.binary_cross_entropy_with_logits(self.model(self.x), self.labels)

    def __call__(self):
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        self.optimizer.step()


def timed(step, calls):
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        step()
    return (time.perf_counter() - start) * 1e6 / calls, (time.process_time() - cpu) * 1e6 / calls


name = f"torch {torch.__version__}"
torch.randn(8, 8) @ torch.randn(8, 8)
print(json.dumps({"impl": name}), flush=True)
steps = None
for line in sys.stdin:
    request = json.loads(line)
    if steps is None:
        steps = [Step(request, foreach) for foreach in (False, True)]
        for step in steps:
            timed(step, 3)
    # both ways of its AdamW, the faster one counts
    us, cpu_us = min(timed(step, request["calls"]) for step in steps)
    print(json.dumps({"impl": name, "us": us, "cpu_us": cpu_us, "check": steps[0].check}), flush=True)
