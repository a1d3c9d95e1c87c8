"""How a route learns who is asking: `who: Annotated[Caller, Depends(caller)]`."""

from fastapi import Request

from backtalk.domain.caller import Caller


async def caller(request: Request) -> Caller:
    """The caller of this request, as the gate found it.

    A user's own routes pass the gate unasked; there the caller is found out here, and refused as on ours.
    """
    state = request.scope["state"]
    if "caller" not in state:
        state["caller"] = await state["find_caller"](request.scope)
    known: Caller = state["caller"]
    return known
