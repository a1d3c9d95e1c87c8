"""A way to a database on which some commits get through and their answers do not."""

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from itertools import count

from sqlalchemy import make_url


class LossyWay:
    """Once `armed`, each third COMMIT reaches the database; then the connection is gone, and nobody was told."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self._target = (parsed.host or "127.0.0.1", parsed.port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = parsed.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        self.armed = False
        self.lost = 0
        self._commits = count(1)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, socket.create_connection(self._target) as far, contextlib.suppress(OSError):
            while True:
                for ready in select.select([near, far], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    (near if ready is far else far).sendall(data)
                    commits = ready is near and data.rstrip(b"\0").endswith(b"COMMIT")
                    if self.armed and commits and next(self._commits) % 3 == 0:
                        far.recv(65536)
                        self.lost += 1
                        return


@contextlib.contextmanager
def lossy_way(url: str) -> Iterator[LossyWay]:
    way = LossyWay(url)
    try:
        yield way
    finally:
        way.close()
