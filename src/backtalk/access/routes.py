"""The dependency that tells a route its caller. Its code is in `http`, where access's neighbours reach it too."""

from backtalk.http.caller import caller

__all__ = ["caller"]
