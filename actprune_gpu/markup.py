"""What notebooks show of results: small HTML, in the colours of the page around it."""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence
from typing import Any

_KEPT, _KNEE = "#2a8a86", "#c47a1d"


class LayerMarkup:
    """Makes a `ChannelSelection` show itself."""

    keep: Any
    n_channels: Any
    criterion: Any
    reason: Any
    k: Any
    k_star: Any
    mss: Any

    def _repr_html_(self) -> str:
        mss = None if self.mss is None else self.mss.tolist()
        keep = self.keep.tolist()
        return layer_markup(
            self.criterion, self.n_channels, keep, self.reason, knee=self.k_star, k=self.k, mss=mss
        )


def layer_markup(
    title: str,
    n_channels: int,
    keep: Collection[int],
    reason: str,
    *,
    knee: int | None = None,
    k: int | None = None,
    mss: Sequence[float] | None = None,
) -> str:
    """Return a layer: what was kept, each channel as a mark, and the silhouettes' curve."""
    text = f"{len(keep)} of {n_channels} channels kept: {reason}"
    if knee is not None:
        text += f", knee {knee}"
    plots = _channels(n_channels, keep)
    if mss and knee is not None and k is not None:
        plots += _curve(mss, knee, k)
    return f"<div><b>{html.escape(title)}</b> {html.escape(text)}<br>{plots}</div>"


def table_markup(rows: Sequence[tuple[str, int, int, int | None, str]], note: str) -> str:
    """Return a table of layers: name, channels, how many were kept, the knee, and why."""
    most = max((channels for _, channels, *_ in rows), default=1)
    head = "".join(f"<th>{name}</th>" for name in ("layer", "channels", "kept", "knee", "why"))
    body = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{_bar(channels, kept, knee, most)}</td>"
        f"<td>{kept} / {channels}</td><td>{'' if knee is None else knee}</td>"
        f"<td>{html.escape(why)}</td></tr>"
        for name, channels, kept, knee, why in rows
    )
    return (
        f"<p>{html.escape(note)}</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _channels(n_channels: int, keep: Collection[int]) -> str:
    kept = set(keep)
    marks = "".join(
        f'<rect x="{at}" width="0.8" height="14" fill="{_KEPT}"/>'
        if at in kept
        else f'<rect x="{at}" y="4" width="0.8" height="6" fill="currentColor" opacity="0.25"/>'
        for at in range(n_channels)
    )
    width = min(640, 8 * n_channels)
    return (
        f'<svg width="{width}" height="14" viewBox="0 0 {n_channels} 14" '
        f'preserveAspectRatio="none">{marks}</svg> '
    )


def _curve(mss: Sequence[float], knee: int, k: int) -> str:
    low, high = min(mss), max(mss)
    across, up = 116.0 / max(len(mss) - 1, 1), 20.0 / ((high - low) or 1.0)

    def place(clusters: int) -> tuple[float, float]:
        at = min(max(clusters - 2, 0), len(mss) - 1)
        return 2.0 + at * across, 22.0 - (mss[at] - low) * up

    points = " ".join("{:.1f},{:.1f}".format(*place(number + 2)) for number in range(len(mss)))
    dots = ""
    for number, colour in ((knee, _KNEE), (k, _KEPT)):
        x, y = place(number)
        dots += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>'
    return (
        '<svg width="120" height="24" viewBox="0 0 120 24"><polyline fill="none" '
        f'stroke="currentColor" points="{points}"/>{dots}</svg>'
    )


def _bar(channels: int, kept: int, knee: int | None, most: int) -> str:
    scale = 120.0 / most
    parts = (
        f'<rect width="{channels * scale:.1f}" height="10" fill="currentColor" '
        f'fill-opacity="0.2"/><rect width="{kept * scale:.1f}" height="10" fill="{_KEPT}"/>'
    )
    if knee is not None:
        parts += f'<rect x="{knee * scale - 1:.1f}" width="2" height="10" fill="{_KNEE}"/>'
    return f'<svg width="120" height="10">{parts}</svg>'
