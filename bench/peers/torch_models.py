"""The models of the step benchmark in Python, layer for layer those of bench/steps/models.

torch is imported by the caller, once its threads are decided on.
"""

CLASSES = 10
VOCABULARY, TOKENS, WIDTH, HEADS, BLOCKS = 256, 128, 256, 4, 4
BATCH = {"lenet": 64, "mlp": 64, "resnet18": 8, "gpt": 8}  # Samples of one rank in a step.
NAMES = tuple(BATCH)


def make_lenet(torch):
    nn = torch.nn
    return nn.Sequential(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
                         nn.Linear(84, CLASSES))


def make_mlp(torch):
    nn = torch.nn
    return nn.Sequential(nn.Linear(784, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, CLASSES))


def make_resnet18(torch):
    """As torchvision builds it, for ten classes."""
    nn = torch.nn

    def convolution(in_channels, channels, width, stride):
        conv = nn.Conv2d(in_channels, channels, width, stride, padding=width // 2, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        return conv

    class BasicBlock(nn.Module):
        def __init__(self, in_channels, channels, stride):
            super().__init__()
            self.conv1, self.bn1 = convolution(in_channels, channels, 3, stride), nn.BatchNorm2d(channels)
            self.conv2, self.bn2 = convolution(channels, channels, 3, 1), nn.BatchNorm2d(channels)
            self.relu, self.downsample = nn.ReLU(inplace=True), None
            if stride != 1 or in_channels != channels:
                self.downsample = nn.Sequential(convolution(in_channels, channels, 1, stride), nn.BatchNorm2d(channels))

        def forward(self, x):
            out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            out += x if self.downsample is None else self.downsample(x)
            return self.relu(out)

    layers = [convolution(3, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    in_channels = 64
    for channels in (64, 128, 256, 512):
        layers += [BasicBlock(in_channels, channels, 1 if channels == 64 else 2), BasicBlock(channels, channels, 1)]
        in_channels = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(512, CLASSES))


def make_gpt(torch):
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln1, self.qkv, self.proj = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.ln2, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def attend(self, x):
            samples, tokens, width = x.shape
            parts = self.qkv(self.ln1(x)).view(samples, tokens, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
            query, key, value = parts.unbind(0)
            scores = (query @ key.transpose(-1, -2)) / (width // HEADS) ** 0.5
            future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(future, float("-inf")).softmax(-1)
            return self.proj((scores @ value).transpose(1, 2).reshape(samples, tokens, width))

        def forward(self, x):
            x = x + self.attend(x)
            return x + self.down(nn.functional.gelu(self.up(self.ln2(x))))

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.tok, self.pos = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(TOKENS, WIDTH)
            self.blocks = nn.Sequential(*[Block() for _ in range(BLOCKS)])
            self.ln, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

        def forward(self, tokens):
            x = self.tok(tokens) + self.pos(torch.arange(tokens.shape[1]))
            return self.head(self.ln(self.blocks(x)))

    return Gpt()


def make(torch, name):
    return {"lenet": make_lenet, "mlp": make_mlp, "resnet18": make_resnet18, "gpt": make_gpt}[name](torch)


def batch(torch, name):
    """Inputs and their classes."""
    if name == "gpt":
        return tuple(torch.randint(VOCABULARY, (BATCH[name], TOKENS)) for _ in range(2))
    shape = {"lenet": (3, 32, 32), "mlp": (784,), "resnet18": (3, 64, 64)}[name]
    return torch.randn(BATCH[name], *shape), torch.randint(CLASSES, (BATCH[name],))
