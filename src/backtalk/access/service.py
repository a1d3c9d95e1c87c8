"""API keys: made, listed, revoked, recognised."""

import hashlib
import hmac
import logging
import secrets
import zlib
from base64 import urlsafe_b64encode

import msgspec

from backtalk.access import store
from backtalk.access.store import ApiKey
from backtalk.core.clock import monotonic, now
from backtalk.core.errors import InvalidRequest, NotFound, Unauthorized
from backtalk.core.ids import new_id
from backtalk.domain.caller import DEFAULT_PROJECT, Caller
from backtalk.storage import Storage

log = logging.getLogger("backtalk.access")

CACHE_SECONDS = 4.0
"""How long a known key is not looked up again: a revocation is effective everywhere within 5 s."""

TOUCH_SECONDS = 60
_MOST_CACHED = 10_000
_PREFIX = 11  # "bt_" and 8 characters


class _Known(msgspec.Struct, frozen=True):
    caller: Caller
    until: float


class Access:
    """The keys of all projects."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: dict[bytes, _Known] = {}
        self._has_keys = False
        self._asked = -CACHE_SECONDS

    async def create(
        self, project: str = DEFAULT_PROJECT, name: str = "", *, expires_in: int | None = None
    ) -> tuple[ApiKey, str]:
        """A new key's record, and the key itself, which is shown this once. Raises InvalidRequest."""
        _check_text(project, "project", most=128, least=1)
        _check_text(name, "name", most=200)
        secret = new_secret()
        record = ApiKey(
            id=new_id("key"),
            project=project,
            name=name,
            prefix=secret[:_PREFIX],
            hash=_digest(secret).hex(),
            created_at=now(),
            expires_at=None if expires_in is None else now() + expires_in,
        )
        await self._storage.write(store.insert, record)
        self._has_keys = True
        return record, secret

    async def list(self, project: str = DEFAULT_PROJECT) -> list[ApiKey]:
        """A project's keys, oldest first, revoked ones too."""
        return await self._storage.read(store.find_all, project)

    async def revoke(self, project: str, key_id: str) -> None:
        """Ends a key: here at once, in other processes within 5 s. Raises NotFound."""
        if not await self._storage.write(store.revoke, project, key_id):
            raise NotFound(f"No such key: {key_id}", param="id")
        self._known.clear()

    async def has_keys(self) -> bool:
        """Whether a key was ever made, which ends local mode for good."""
        if not self._has_keys and monotonic() - self._asked >= CACHE_SECONDS:
            self._has_keys = await self._storage.read(store.any_key)
            self._asked = monotonic()
        return self._has_keys

    async def authenticate(self, secret: str) -> Caller:
        """Whose key this is. Raises Unauthorized."""
        digest = _digest(secret)
        known = self._known.get(digest)
        if known is not None and known.until > monotonic():
            return known.caller
        key = await self._find(secret, digest.hex())
        if key is None:
            self._known.pop(digest, None)
            raise Unauthorized(
                "Incorrect API key provided. `backtalk keys list` shows the beginnings of those that work."
            )
        self._remember(digest, key)
        await self._touch(key)
        return Caller(key.project, key.id)

    async def _find(self, secret: str, digest: str) -> ApiKey | None:
        """The key in the database, if it is in force. What cannot be a key is not worth a query."""
        if not is_well_formed(secret):
            return None
        for key in await self._storage.read(store.find_by_prefix, secret[:_PREFIX]):
            if hmac.compare_digest(key.hash.encode(), digest.encode()) and _is_in_force(key):
                return key
        return None

    def _remember(self, digest: bytes, key: ApiKey) -> None:
        if len(self._known) >= _MOST_CACHED:
            self._known.clear()
        self._known[digest] = _Known(Caller(key.project, key.id), monotonic() + CACHE_SECONDS)
        self._has_keys = True

    async def _touch(self, key: ApiKey) -> None:
        """Notes the use of a key, once a minute. That it cannot be noted must not lock anybody out."""
        if key.last_used_at is not None and now() - key.last_used_at < TOUCH_SECONDS:
            return
        try:
            await self._storage.write(store.touch, key.project, key.id)
        except Exception as error:
            log.warning("cannot note the use of a key: %s", error)


def new_secret() -> str:
    """`bt_`, 32 random bytes, and a checksum that tells a mistyped key from a revoked one without a query."""
    body = secrets.token_urlsafe(32)
    return f"bt_{body}{_checksum(body)}"


def is_well_formed(secret: str) -> bool:
    """Whether `secret` can be a key of ours at all."""
    return secret.startswith("bt_") and secret.isascii() and secret[-6:] == _checksum(secret[3:-6])


def _checksum(body: str) -> str:
    return urlsafe_b64encode(zlib.crc32(body.encode()).to_bytes(4, "big")).decode().rstrip("=")


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


def _is_in_force(key: ApiKey) -> bool:
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now())


def _check_text(value: str, param: str, *, most: int, least: int = 0) -> None:
    """MariaDB and MySQL compare without the spaces at the end: 'ada ' must not be another project than 'ada' here."""
    if not least <= len(value) <= most or not value.isprintable() or value != value.strip():
        raise InvalidRequest(
            f"Invalid {param}: {least} to {most} printable characters, without spaces at the ends.", param=param
        )
