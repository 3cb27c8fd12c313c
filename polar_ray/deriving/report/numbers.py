"""How numbers are written on the page."""

import math


def count(number: float | None) -> str:
    """Returns a whole number with its thousands apart."""
    return "–" if number is None else f"{number:,.0f}"


def compact(number: float | None, digits: int = 4) -> str:
    """Returns a number with a few significant digits."""
    if number is None:
        return "–"
    if number == 0:
        return "0"
    if abs(number) >= 10**digits or abs(number) < 1e-4:
        return f"{number:,.0f}" if 10**digits <= abs(number) < 1e9 else f"{number:.{digits - 1}g}".replace("-", "−")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(number))))
    text = f"{number:,.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def percent(share: float | None, digits: int = 1) -> str:
    """Returns a share in percent; what is not all or nothing is never shown as such."""
    if share is None:
        return "–"
    least = 10.0**-digits
    value = share * 100
    if 0 < value < least:
        return f"< {least:.{digits}f}%"
    if 100 - least < value < 100:
        return f"> {100 - least:.{digits}f}%"
    return f"{value:.{digits}f}%".replace(f".{'0' * digits}%", "%")


def duration(seconds: float | None) -> str:
    """Returns a time span."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(number: float | None) -> str:
    """Returns a number of bytes."""
    if number is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"
