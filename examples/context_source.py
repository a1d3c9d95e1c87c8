"""A context source of your own: each turn asks it for what may help. The receipt of a response names what was used."""

from collections.abc import Sequence

from backtalk import Backtalk
from backtalk.domain.turn import Piece, TurnRequest

ORDERS = {"ada": "Order 17: two chairs, to be delivered on Friday."}


class Orders:
    """What the shop knows of the user who asks."""

    name = "orders"

    async def pieces(self, turn: TurnRequest) -> Sequence[Piece]:
        order = ORDERS.get(turn.user or "")
        return [Piece(source=self.name, id="17", text=order, score=1.0)] if order else []


app = Backtalk()
app.add_source(Orders())
