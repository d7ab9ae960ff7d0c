import torch
import torch.nn.functional as F
from golden import leaf, save

mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def convolution(images, weight, bias, size, mean, std):
    x = (images.permute(0, 3, 1, 2).double() / 255 - torch.tensor(mean, dtype=torch.float64).view(3, 1, 1)) / torch.tensor(std, dtype=torch.float64).view(3, 1, 1)
    return F.conv2d(x, weight.view(-1, 3, size, size), bias, stride=size).flatten(2).transpose(1, 2)


pixels = torch.randint(0, 256, (2, 6, 9, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
save(__file__, [
    ("convolution", {"images": pixels, "weight": leaf(5, 27), "bias": leaf(5)}, {"patchSize": 3, "mean": mean, "std": std},
     lambda images, weight, bias: convolution(images, weight, bias, 3, mean, std)),
    ("default scale", {"images": pixels[:1], "weight": leaf(2, 27), "bias": leaf(2)}, {"patchSize": 3},
     lambda images, weight, bias: convolution(images, weight, bias, 3, [0.5] * 3, [0.5] * 3)),
])
