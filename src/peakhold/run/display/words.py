"""Numbers and times as people read them."""

from __future__ import annotations

from collections.abc import Mapping

from peakhold.run.display.progress import Row, RunProgress

__all__ = [
    "bar_texts",
    "checks",
    "duration",
    "metrics_text",
    "number",
    "row_text",
    "speed",
    "standing",
]


def number(value: float) -> str:
    """Five digits of a number.

    Example:
        >>> [number(value) for value in (0.25, 640.0, 0.0912342, 1e-7, float("nan"))]
        ['0.25', '640', '0.091234', '1e-07', 'nan']
    """
    return f"{value:.5g}"


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Metrics in a line.

    Example:
        >>> metrics_text({"loss": 0.5, "val_loss": 0.25})
        'loss 0.5, val_loss 0.25'
    """
    return ", ".join(f"{name} {number(value)}" for name, value in metrics.items())


def duration(seconds: float) -> str:
    """A time as a clock shows it.

    Example:
        >>> [duration(seconds) for seconds in (6.4, 754, 3600, 200_000)]
        ['0:06', '12:34', '1:00:00', '2 d 7:33:20']
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if not hours:
        return f"{minute}:{second:02}"
    return f"{f'{days} d ' if days else ''}{hour}:{minute:02}:{second:02}"


def speed(batches_a_second: float) -> str:
    """How fast batches go by.

    Example:
        >>> [speed(rate) for rate in (12345.6, 85.25, 2.0, 0.25)]
        ['12,346 batches/s', '85.2 batches/s', '2.0 batches/s', '4.0 s a batch']
    """
    if batches_a_second >= 1000:
        return f"{batches_a_second:,.0f} batches/s"
    if batches_a_second >= 1:
        return f"{batches_a_second:.1f} batches/s"
    return f"{1 / batches_a_second:.1f} s a batch"


def checks(left: int) -> str:
    """How often the metric may still fail to improve.

    Example:
        >>> checks(5), checks(1)
        ('5 checks left', '1 check left')
    """
    return f"{left} check{'' if left == 1 else 's'} left"


def standing(best: str | None, patience_left: int | None) -> str:
    """The best so far, and how long it is waited for a better one.

    Example:
        >>> standing("loss 0.25 (epoch 2)", 5)
        'best loss 0.25 (epoch 2); 5 checks left'
    """
    left = None if patience_left is None else checks(patience_left)
    return "; ".join(filter(None, [f"best {best}" if best else None, left]))


def row_text(row: Row) -> str:
    """An epoch in a line.

    Example:
        >>> row_text(Row("Epoch 3/9", {"loss": 0.5}, "loss 0.25 (epoch 2)", 5, 12.0, 85.0))
        'Epoch 3/9: loss 0.5; best loss 0.25 (epoch 2); 5 checks left; 0:12, 85.0 batches/s'
    """
    told = [metrics_text(row.metrics) or "nothing logged", standing(row.best, row.patience_left)]
    if row.seconds is not None:
        told.append(duration(row.seconds))
    text = f"{row.label}: {'; '.join(filter(None, told))}"
    return text if row.speed is None else f"{text}, {speed(row.speed)}"


def bar_texts(progress: RunProgress, now: float) -> list[str]:
    """What stands before a bar, and what behind it.

    Example:
        >>> progress = RunProgress(n_epochs=9, first_epoch=2, epoch=2, patience_left=5)
        >>> progress.part.n_batches = 100
        >>> progress.part.seen(1, 0.0)
        >>> progress.part.seen(51, 10.0)
        >>> bar_texts(progress, 10.0)
        ['Epoch 3/9', '51/100', '5.0 batches/s', '0:10 left', '5 checks left']
    """
    part = progress.part
    speed_now, left = part.speed(now), part.seconds_left(now)
    in_all = progress.seconds_left(now)
    texts = [progress.label() if part.name is None else f"{progress.label()} {part.name}"]
    texts.append(f"{part.done}/{part.n_batches}" if part.n_batches else f"{part.done} batches")
    if speed_now is not None:
        texts.append(speed(speed_now))
    if left is not None:
        in_all_text = "" if in_all is None else f", {duration(in_all)} for all epochs"
        texts.append(f"{duration(left)} left{in_all_text}")
    texts.append(standing(progress.best, progress.patience_left))
    return [text for text in texts if text]
