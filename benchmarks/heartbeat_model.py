"""The network of Abuadbba et al. (2020) for heartbeats of 128 samples, as named blocks."""

from torch import nn


def two_convolutions(input_shape: tuple[int, ...], outputs: int) -> list[tuple[str, nn.Module]]:
    """Return their two convolutions and two linear layers; they cut behind the convolutions, at 512 numbers a beat."""
    channels, length = input_shape
    return [
        ("conv1", nn.Sequential(nn.Conv1d(channels, 16, 7, padding=3), nn.LeakyReLU(), nn.MaxPool1d(2))),
        ("conv2", nn.Sequential(nn.Conv1d(16, 16, 5, padding=2), nn.LeakyReLU(), nn.MaxPool1d(2), nn.Flatten())),
        ("hidden", nn.Sequential(nn.Linear(16 * (length // 4), 128), nn.LeakyReLU())),
        ("output", nn.Linear(128, outputs)),
    ]
