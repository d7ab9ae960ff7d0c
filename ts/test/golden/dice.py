import torch
import torch.nn.functional as F
from golden import leaf, save

running = {"runningMean": torch.tensor([0.1, -0.2, 0.3, 0], dtype=torch.float64), "runningVar": torch.tensor([1, 0.5, 2, 0.1], dtype=torch.float64)}


def case(training):
    def run(x, alpha, runningMean, runningVar):
        p = F.batch_norm(x, runningMean.clone(), runningVar.clone(), None, None, training, 0.01, 1e-9).sigmoid()
        return p * x + alpha * (1 - p) * x

    return f"training {training}", {"x": leaf(6, 4), "alpha": leaf(4), **running}, {"training": training}, run


save(__file__, [case(True), case(False)])
