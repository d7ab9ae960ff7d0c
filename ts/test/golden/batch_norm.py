import torch
import torch.nn.functional as F
from golden import leaf, save

running = {"runningMean": torch.tensor([0.1, -0.2, 0.3, 0], dtype=torch.float64), "runningVar": torch.tensor([1, 0.5, 2, 0.1], dtype=torch.float64)}
affine = {"weight": leaf(4), "bias": leaf(4, seed=2)}


def case(name, inputs, training):
    def run(x, runningMean, runningVar, weight=None, bias=None):
        return F.batch_norm(x, runningMean.clone(), runningVar.clone(), weight, bias, training, 0.01, 1e-5)

    return name, {"x": leaf(6, 4), **running, **inputs}, {"training": training}, run


save(__file__, [case("training", affine, True), case("evaluation", affine, False), case("plain", {}, True)])
