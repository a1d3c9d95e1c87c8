"""`/v1/responses` as a WebSocket: turn after turn over one connection, with the events of a stream as its frames.

A client's frame is one JSON object: `response.create` with the body of `POST /v1/responses`. Without a `stream_id`, turns
wait for one another; turns with different ones run side by side, each in its lane, and their events name it.
"""

import asyncio
import contextlib
import logging
from typing import Any

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from backtalk.core.errors import BacktalkError, Conflict, InvalidRequest, NotFound, RateLimited, TooLarge
from backtalk.domain.caller import Caller
from backtalk.domain.events import Ended
from backtalk.domain.items import Item
from backtalk.domain.turn import TurnRequest
from backtalk.http.envelope import headers_for
from backtalk.http.errors import unexpected
from backtalk.http.route import decode
from backtalk.turn import responses_wire
from backtalk.turn.render import frames
from backtalk.turn.response import State
from backtalk.turn.run import Run
from backtalk.turn.service import Turns

log = logging.getLogger("backtalk")

MOST_LANES = 16
MOST_WAITING = 32
_NOT_HERE = ("type", "stream_id", "generate", "stream", "stream_options", "background")
"""Fields of a `response.create` that are no part of a turn's body."""


class SocketLimits(msgspec.Struct, frozen=True):
    """Bytes of a client's frame; seconds without a frame or a turn; seconds that a connection lasts."""

    frame: int = 8 * 2**20
    idle: float = 600.0
    life: float = 3600.0


class _Kept(msgspec.Struct, frozen=True):
    """A response that is stored nowhere else (`store: false`), and all the items up to its end."""

    id: str
    items: list[Item]


class _Lane:
    """Turns that wait for one another. `kept` is the last one's, while it can be gone on from."""

    def __init__(self, stream_id: str | None) -> None:
        self.stream_id = stream_id
        self.waiting: asyncio.Queue[dict[str, Any] | BacktalkError] = asyncio.Queue()
        self.busy = False
        self.kept: _Kept | None = None
        self.task: asyncio.Task[None]


class ResponsesSocket:
    """One connection."""

    def __init__(self, socket: WebSocket, turns: Turns, caller: Caller, limits: SocketLimits) -> None:
        self._socket = socket
        self._turns = turns
        self._caller = caller
        self._limits = limits
        self._lanes: dict[str | None, _Lane] = {}

    async def serve(self) -> None:
        """Returns when the connection is closed. Turns that were under way have lost their client then."""
        await self._socket.accept(headers=headers_for(self._socket.scope))
        try:
            async with asyncio.timeout(self._limits.life):
                await self._listen()
        except TimeoutError:
            await self._end_of_life()
        except WebSocketDisconnect:
            pass
        finally:
            tasks = [lane.task for lane in self._lanes.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _end_of_life(self) -> None:
        minutes = f"{self._limits.life / 60:g}"
        words = f"This connection has lasted its {minutes} minutes: open a new one."
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await self._refuse(InvalidRequest(words, code="websocket_connection_limit_reached"), None)
            await self._socket.close(1000)

    # ── what the client says ─────────────────────────────────────────────────────────────────────────────────────────

    async def _listen(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._limits.idle):
                    message = await self._socket.receive()
            except TimeoutError:
                if any(lane.busy for lane in self._lanes.values()):
                    continue
                await self._socket.close(1000, "idle")
                return
            if message["type"] == "websocket.disconnect":
                return
            event: dict[str, Any] = {}
            try:
                event = self._event(message)
                await self._take(event)
            except BacktalkError as error:
                await self._refuse_in_turn(error, event.get("stream_id"))

    async def _refuse_in_turn(self, error: BacktalkError, stream_id: str | None) -> None:
        """Behind what is under way in its lane, lest it be taken for the end of that."""
        lane = self._lanes.get(stream_id)
        if lane and lane.busy:
            lane.waiting.put_nowait(error)
        else:
            await self._refuse(error, stream_id)

    def _event(self, message: Any) -> dict[str, Any]:
        text = message.get("text")
        if text is None:
            raise InvalidRequest("Send text frames, each with one JSON object.")
        data = text.encode("utf-8", "surrogatepass")
        if len(data) > self._limits.frame:
            raise TooLarge(f"The frame is larger than the {self._limits.frame:,} bytes that are allowed here.")
        event = decode(data)
        if not isinstance(event, dict):
            raise InvalidRequest("A frame must be a JSON object with a 'type'.")
        stream_id = event.get("stream_id")
        if stream_id is not None and not (isinstance(stream_id, str) and 0 < len(stream_id) <= 64):
            event["stream_id"] = None
            raise InvalidRequest(
                "'stream_id' must be a string of 1 to 64 characters.", param="stream_id", code="invalid_value"
            )
        return event

    async def _take(self, event: dict[str, Any]) -> None:
        match event.get("type"):
            case "response.create":
                self._enqueue(event)
            case "response.steer":
                await self._refuse_steering(event)
            case kind:
                raise InvalidRequest(
                    f"Unknown event type {str(kind)[:80]!r}: send 'response.create'.",
                    param="type",
                    code="invalid_value",
                )

    def _enqueue(self, event: dict[str, Any]) -> None:
        lane = self._lanes.get(event.get("stream_id"))
        if lane is None:
            if len(self._lanes) >= MOST_LANES:
                raise RateLimited(f"A connection has at most {MOST_LANES} lanes.")
            lane = self._lanes[event.get("stream_id")] = _Lane(event.get("stream_id"))
            lane.task = asyncio.create_task(self._work(lane))
        if lane.waiting.qsize() >= MOST_WAITING:
            raise RateLimited(f"{MOST_WAITING} turns wait already: send the next when one has ended.")
        lane.busy = True
        lane.waiting.put_nowait(event)

    async def _refuse_steering(self, event: dict[str, Any]) -> None:
        words = "Steering is not supported here: cancel the response, or go on from it when it has ended."
        steer = {"previous_response_id": event.get("previous_response_id") or "", "input": event.get("input") or ""}
        error = {"type": "invalid_request_error", "code": "steering_not_supported", "message": words}
        failed = {"type": "response.steer.failed", "sequence_number": 0, "steer": steer, "error": error}
        await self._send(failed, None)

    # ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _work(self, lane: _Lane) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                event = await lane.waiting.get()
                try:
                    if isinstance(event, BacktalkError):
                        raise event
                    await self._turn(lane, event)
                except WebSocketDisconnect:
                    raise
                except Exception as error:
                    if isinstance(event, dict):
                        self._evict(event.get("previous_response_id"))
                    await self._refuse(_told(error), lane.stream_id)
                lane.busy = not lane.waiting.empty()

    async def _turn(self, lane: _Lane, event: dict[str, Any]) -> None:
        request = self._request(event)
        run = await self._turns.open(request)
        try:
            await self._send_events(run, lane, event.get("include") or ())
        finally:
            self._turns.runner.client_left(run)
        if run.state.status == "failed":
            self._evict(event.get("previous_response_id"))
        elif run.state.status == "cancelled":  # for which there is no event
            cancelled = Conflict("The response was cancelled.", code="response_cancelled")
            await self._refuse(cancelled, lane.stream_id, run.output.seq)
        elif not request.store:
            self._keep(lane, run)

    def _request(self, event: dict[str, Any]) -> TurnRequest:
        if event.get("background"):
            raise InvalidRequest(
                "A response in the background has no use for a socket: POST it.",
                param="background",
                code="invalid_value",
            )
        body = {key: value for key, value in event.items() if key not in _NOT_HERE}
        generate = event.get("generate") is not False
        request = responses_wire.to_turn(responses_wire.read(body), self._caller, None, generate=generate)
        if kept := self._kept(request.previous_response_id):
            request.previous_response_id = None
            own = map(request.place, range(len(request.input)))
            request.places = [*(None for _ in kept.items), *own]
            request.input = [*kept.items, *request.input]
        return request

    async def _send_events(self, run: Run, lane: _Lane, include: Any) -> None:
        with contextlib.suppress(NotFound):  # it was deleted meanwhile
            async for events in self._turns.runner.read(run):
                state = await run.final() if type(events[-1]) is Ended else State()
                data = frames(events, run.head, state, -1, include)
                for frame in data.split(b"\n\n")[:-1]:
                    await self._send_json(frame.partition(b"\ndata: ")[2], lane.stream_id)

    # ── what `store: false` leaves to the connection ─────────────────────────────────────────────────────────────────

    def _kept(self, response_id: str | None) -> _Kept | None:
        kept = (lane.kept for lane in self._lanes.values())
        return next((one for one in kept if one and one.id == response_id), None)

    def _keep(self, lane: _Lane, run: Run) -> None:
        items = [*run.request.input, *run.state.output]
        fits = len(msgspec.json.encode(items)) <= self._limits.frame
        lane.kept = _Kept(run.id, items) if fits else None

    def _evict(self, response_id: Any) -> None:
        """A turn that failed takes what it went on from with it."""
        for lane in self._lanes.values():
            if lane.kept and lane.kept.id == response_id:
                lane.kept = None

    # ── what the client hears ────────────────────────────────────────────────────────────────────────────────────────

    async def _refuse(self, error: BacktalkError, stream_id: str | None, seq: int = 0) -> None:
        """The nested form is the socket's, the flat one that of an event in a stream: readers of either find theirs."""
        nested = error.envelope()
        flat = {key: nested["error"][key] for key in ("code", "message", "param")}
        await self._send({"type": "error", "status": error.status, **nested, **flat, "sequence_number": seq}, stream_id)

    async def _send(self, event: dict[str, Any], stream_id: str | None) -> None:
        await self._send_json(msgspec.json.encode(event), stream_id)

    async def _send_json(self, data: bytes, stream_id: str | None) -> None:
        if stream_id is not None:
            data = data[:-1] + b',"stream_id":' + msgspec.json.encode(stream_id) + b"}"
        await self._socket.send({"type": "websocket.send", "text": data.decode()})


def _told(error: Exception) -> BacktalkError:
    """What the client hears of an error."""
    if isinstance(error, BacktalkError):
        return error
    log.error("unexpected error on a WebSocket", exc_info=error)
    return unexpected(error)
