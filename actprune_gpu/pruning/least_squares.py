"""Ridge regression from streamed moments, its strength chosen on images held out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import InputError

_CHUNK = 16384  # rows whose products are summed in float32 before float64 takes over
# Rounding fails the factors where predictors are alike and of very different sizes: then stronger.
_ATTEMPTS = 8
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of predictors and responses around common means.

    Attributes:
        predictor_mean: ``[D]`` float64.
        response_mean: ``[R]`` float64.
        covariance: ``[2, D, D]`` float64, sums of products of predictors: of the rows to fit, and
            of the rows held out.
        cross: ``[2, D, R]`` float64, sums of products of predictors and responses.
    """

    predictor_mean: Tensor
    response_mean: Tensor
    covariance: Tensor
    cross: Tensor

    @classmethod
    def of(
        cls, predictors: Tensor, responses: Tensor, held_out: Tensor, *, centred: bool = True
    ) -> Moments:
        """Compute the moments of ``[S, D]`` and ``[S, R]``, rows held out where ``[S]`` is true.

        Rows with NaN or infinity are left out. If not ``centred``, products are those of the values
        themselves, and the means 0.

        Raises:
            InputError: If there are no others.
        """
        means = predictors.mean(0, dtype=torch.float64), responses.mean(0, dtype=torch.float64)
        if not all(mean.isfinite().all() for mean in means):
            finite = predictors.isfinite().all(1) & responses.isfinite().all(1)
            if not finite.any():
                raise InputError("repair needs samples with finite activations, got none")
            if not finite.all():
                seen = predictors[finite], responses[finite], held_out[finite]
                return cls.of(*seen, centred=centred)
        if not centred:
            means = torch.zeros_like(means[0]), torch.zeros_like(means[1])
        n, m = predictors.shape[1], responses.shape[1]
        covariance, cross = (predictors.new_zeros(2, n, k, dtype=torch.float64) for k in (n, m))
        for part, chosen in enumerate((~held_out, held_out)):
            for rows in torch.split(chosen.nonzero().flatten(), _CHUNK):
                x = predictors[rows].float() - means[0].float()
                y = responses[rows].float() - means[1].float()
                covariance[part] += (x.T @ x).double()
                cross[part] += (x.T @ y).double()
        return cls(*means, covariance, cross)

    def with_products_of(self, other: Moments) -> Moments:
        """Return these with the products of other rows, around their own means, as well.

        Intercepts stay those of these rows.
        """
        return replace(
            self,
            covariance=self.covariance + other.covariance,
            cross=self.cross + other.cross,
        )


def ridge(moments: Moments, prior: Tensor) -> tuple[Tensor, Tensor]:
    """Solve min |Y - X W|^2 + s |W - prior|^2 for the strength s that predicts held-out rows best.

    Args:
        moments: Of X and Y.
        prior: ``[D, R]`` float64, the weights to stay near to.

    Returns:
        ``[D, R]`` weights, fitted to all rows, and ``[R]`` intercepts, float64.
    """
    scale = moments.covariance[0].diagonal().mean().clamp(min=1e-30)
    best, chosen = torch.inf, 0.0
    for strength in _STRENGTHS:
        weights = _solve(moments.covariance[0], moments.cross[0], prior, strength * scale)
        # The squared error on the rows held out, up to a constant.
        error = (weights * (moments.covariance[1] @ weights - 2 * moments.cross[1])).sum().item()
        if error < best:
            best, chosen = error, strength
    covariance, cross = moments.covariance.sum(0), moments.cross.sum(0)
    scale = covariance.diagonal().mean().clamp(min=1e-30)
    weights = _solve(covariance, cross, prior, chosen * scale)
    return weights, moments.response_mean - moments.predictor_mean @ weights


def _solve(covariance: Tensor, cross: Tensor, prior: Tensor, strength: Tensor) -> Tensor:
    eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    for more in range(_ATTEMPTS):
        factor, failed = torch.linalg.cholesky_ex(covariance + 10.0**more * strength * eye)
        if not failed:
            return prior + torch.cholesky_solve(cross - covariance @ prior, factor)
    raise InputError("repair needs activations whose products are finite, got larger ones")
