"""How alike rebuilt records are to the true ones: the scores that all attacks by reconstruction share.

Intervals are over records, 95 %, by the normal approximation (of a ratio by the delta method, of a share of records
Wilson's). Chance is what a guess scores: the mean of the records that the adversary knows, unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from sim.attacks.attack import Exhibit, Finding
from sim.results.columns import UNITS, unit_of

Floats = NDArray[np.float64]
_NORMAL, _WINDOW, _MOST_DECIBELS = 1.959964, 7, 100.0


def likeness(
    originals: Floats, rebuilt: Floats, known: Floats, guess: Floats | None = None, pictures: int = 0
) -> Iterator[Finding | Exhibit]:
    """Return the scores of rebuilt records, by what a record is, and show the first ones if asked for pictures.

    Parameters
    ----------
    originals, rebuilt : ndarray
        ``[record, *feature]`` of the same records: tables, signals ``[record, channel, length]`` or images ``[record,
        channel, height, width]``. At least two.
    known : ndarray
        ``[record, *feature]`` of other records.
    guess : ndarray, optional
        ``[record, *feature]`` in the place of their mean.
    """
    guess = np.broadcast_to(known.mean(0), originals.shape) if guess is None else guess
    yield explained(originals, rebuilt, guess)
    if originals.ndim == 2:
        columns = [column for column in range(known.shape[1]) if len(np.unique(known[:, column])) == 2]
        if columns:
            yield _mean(
                "recovered_share",
                *(recovered(originals[:, columns], each[:, columns], known[:, columns]) for each in (rebuilt, guess)),
            )
    elif originals.ndim == 3:
        yield _mean("correlation", *(correlation(originals, each) for each in (rebuilt, guess)))
    else:
        low, high = float(known.min()), float(known.max())
        shown = [np.clip(each, low, high) for each in (rebuilt, guess)]
        yield _mean("ssim", *(structural_similarity(originals, each, high - low) for each in shown))
        yield _mean("psnr", *(peak_signal_to_noise(originals, each, high - low) for each in shown))
    named = identification(originals, rebuilt)
    yield replace(named, chance=identification(originals, guess).value)
    if pictures:
        yield Exhibit(originals[:pictures].astype(np.float32), rebuilt[:pictures].astype(np.float32))


def explained(originals: Floats, rebuilt: Floats, guess: Floats) -> Finding:
    """Return the share of the originals' variance that is recovered; NaN where they do not vary."""
    varied = _squares(originals - originals.mean(0))
    if not varied.any():
        return Finding(measure="r2", value=np.nan)
    missed = _squares(originals - rebuilt)
    ratio = float(missed.mean() / varied.mean())
    error = float(_NORMAL * np.std(missed - ratio * varied, ddof=1) / varied.mean() / np.sqrt(len(missed)))
    chance = 1 - float(_squares(originals - guess).mean() / varied.mean())
    return Finding(
        measure="r2", value=1 - ratio, low=1 - ratio - error, high=min(1.0, 1 - ratio + error), chance=chance
    )


def recovered(originals: Floats, rebuilt: Floats, known: Floats) -> Floats:
    """Return ``[record]`` the share of columns of two values in which the nearer value is the true one."""
    low, high = known.min(0), known.max(0)
    nearer = np.where(rebuilt > (low + high) / 2, high, low)
    return np.asarray((nearer == originals).mean(1))


def correlation(originals: Floats, rebuilt: Floats) -> Floats:
    """Return ``[record]`` Pearson's correlation along the last axis, as a mean over channels; 0 of what is constant."""
    a, b = (each - each.mean(-1, keepdims=True) for each in (originals, rebuilt))
    scale = np.sqrt(np.square(a).sum(-1) * np.square(b).sum(-1))
    return np.asarray(np.divide((a * b).sum(-1), scale, out=np.zeros_like(scale), where=scale > 1e-12).mean(1))


def structural_similarity(originals: Floats, rebuilt: Floats, span: float) -> Floats:
    """Return ``[record]`` the structural similarity of images ``[record, channel, height, width]`` (Wang et al. 2004).

    In windows of 7 by 7 that lie within the image (smaller ones in smaller images), as a mean over windows and
    channels, with sample covariances: what ``skimage.metrics.structural_similarity`` returns by default. `span` is the
    range of a pixel.
    """
    side = min(_WINDOW, *originals.shape[2:])
    side -= 1 - side % 2

    def averaged(x: Floats) -> Floats:
        return np.asarray(sliding_window_view(x, (side, side), axis=(2, 3)).mean((-2, -1)))

    pixels = side * side
    sample = pixels / max(pixels - 1, 1)
    a, b = averaged(originals), averaged(rebuilt)
    var_a = sample * (averaged(originals * originals) - a * a)
    var_b = sample * (averaged(rebuilt * rebuilt) - b * b)
    cov = sample * (averaged(originals * rebuilt) - a * b)
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    similar = (2 * a * b + c1) * (2 * cov + c2) / ((a * a + b * b + c1) * (var_a + var_b + c2))
    return np.asarray(similar.mean((1, 2, 3)))


def peak_signal_to_noise(originals: Floats, rebuilt: Floats, span: float) -> Floats:
    """Return ``[record]`` the peak signal-to-noise ratio in decibels, 100 at most."""
    error = np.square(originals - rebuilt).reshape(len(originals), -1).mean(1) / span**2
    return np.asarray(-10 * np.log10(np.maximum(error, 10 ** (-_MOST_DECIBELS / 10))))


def identification(originals: Floats, rebuilt: Floats) -> Finding:
    """Return how often the original that is nearest to a rebuilt record is its own; among equals one is guessed."""
    n = len(originals)
    a, b = originals.reshape(n, -1), rebuilt.reshape(n, -1)
    _, first, same, count = np.unique(a, axis=0, return_index=True, return_inverse=True, return_counts=True)
    a = a[first]
    distance = np.square(a).sum(1) - 2 * b @ a.T
    share = float(np.mean((distance.argmin(1) == same) / count[same]))
    return share_of("identified_share", share, n)


def share_of(measure: str, share: float, n: int, chance: float = math.nan) -> Finding:
    """Return a share of n with Wilson's interval."""
    middle, slack = share + _NORMAL**2 / (2 * n), _NORMAL * np.sqrt((share * (1 - share) + _NORMAL**2 / (4 * n)) / n)
    low, high = (float(middle + sign * slack) / (1 + _NORMAL**2 / n) for sign in (-1, 1))
    return Finding(measure=measure, value=share, low=max(low, 0.0), high=min(high, 1.0), chance=chance)


def _squares(difference: Floats) -> Floats:
    """Return ``[record]`` the sum of squares."""
    return np.asarray(np.square(difference).reshape(len(difference), -1).sum(1))


def _mean(measure: str, found: Floats, guessed: Floats) -> Finding:
    """Return the mean over records."""
    mean, error = float(found.mean()), float(_NORMAL * found.std(ddof=1) / np.sqrt(len(found)))
    least, most = UNITS[unit_of(measure) or ""]
    low, high = max(mean - error, least), min(mean + error, most)
    return Finding(measure=measure, value=mean, low=low, high=high, chance=float(guessed.mean()))


def plausible(known: Floats) -> tuple[Floats, Floats]:
    """Return least and largest values: of all pixels or samples; of a column its range widened by half at both ends."""
    if known.ndim > 2:
        return np.full(known.shape[1:], known.min()), np.full(known.shape[1:], known.max())
    low, high = known.min(0), known.max(0)
    return low - (high - low) / 2, high + (high - low) / 2


def total_variation(x: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbours along the axes of ``[lane, record, channel, *axis]``."""
    steps = [x.diff(dim=axis).abs().mean() for axis in range(3, x.dim()) if x.shape[axis] > 1]
    return torch.stack(steps).sum() if steps else torch.zeros(())
