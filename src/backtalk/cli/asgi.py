"""`backtalk.cli.asgi:app`: the application that `backtalk serve` runs when it is given no other."""

from backtalk.app import Backtalk

app = Backtalk()
