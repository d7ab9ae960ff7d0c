import torch
import torch.nn.functional as F
from golden import leaf, save

x = leaf(9)
y = (torch.arange(9) % 2).double()
w = torch.arange(9).double() / 3
far = torch.tensor([-100.0, -30, 0, 30, 100], dtype=torch.float64, requires_grad=True)
save(__file__, [
    ("mean", {"logits": x, "labels": y}, {}, lambda logits, labels: F.binary_cross_entropy_with_logits(logits, labels)),
    ("weighted", {"logits": x, "labels": y, "weights": w}, {},
     lambda logits, labels, weights: F.binary_cross_entropy_with_logits(logits, labels, weight=weights, reduction="sum") / weights.sum()),
    ("far logits", {"logits": far, "labels": y[:5]}, {}, lambda logits, labels: F.binary_cross_entropy_with_logits(logits, labels)),
])
