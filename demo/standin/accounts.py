"""Users of the stand-in: password login with cookies and CSRF, and personal access tokens."""

import hashlib
import hmac
import secrets

from fastapi import APIRouter, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from demo.standin.replies import RefusalError, json_body, page, reply, select
from demo.standin.store import Record, Store, now

_ROUNDS = 20_000
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OPEN_PATHS = frozenset({"/api/server/about", "/api/auth/login"})


def _hash_password(password: str, salt: str) -> str:
    digest = hashlib.pbkdf2_hmac("sha256", password.encode(), salt.encode(), _ROUNDS)
    return f"{salt}${digest.hex()}"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def ensure_user(store: Store, username: str, password: str, *, superuser: bool) -> int:
    """Create a user, or set the password of the one that exists; the user's id."""
    hashed = _hash_password(password, secrets.token_hex(8))
    found = store.row("SELECT id FROM users WHERE username = ?", username)
    if found is not None:
        store.run("UPDATE users SET password = ? WHERE id = ?", hashed, found["id"])
        return int(found["id"])
    return store.run(
        "INSERT INTO users (username, password, is_superuser, joined) VALUES (?, ?, ?, ?)",
        username,
        hashed,
        int(superuser),
        now(),
    )


def ensure_token(store: Store, user_id: int, token: str) -> None:
    """Let a personal access token speak for a user."""
    store.run(
        "INSERT OR IGNORE INTO tokens (digest, name, user_id, created) VALUES (?, ?, ?, ?)",
        _digest(token),
        "given at start",
        user_id,
        now(),
    )


def basic_user(store: Store, user_id: int | None) -> Record | None:
    """A user as other records embed it."""
    if user_id is None:
        return None
    user = store.row("SELECT id, username FROM users WHERE id = ?", user_id)
    if user is None:
        return None
    return {
        "url": f"/api/users/{user_id}",
        "id": user["id"],
        "username": user["username"],
        "first_name": "",
        "last_name": "",
    }


def _full_user(user: Record) -> Record:
    return {
        "url": f"/api/users/{user['id']}",
        "id": user["id"],
        "username": user["username"],
        "first_name": "",
        "last_name": "",
        "email": user["email"],
        "groups": ["admin"] if user["is_superuser"] else ["user"],
        "is_staff": bool(user["is_superuser"]),
        "is_superuser": bool(user["is_superuser"]),
        "is_active": True,
        "last_login": None,
        "date_joined": user["joined"],
        "has_analytics_access": True,
    }


def authenticate(store: Store, request: Request) -> Record:
    """The user a request speaks for.

    Raises:
        RefusalError: 401 without valid credentials, 403 when a session sends no CSRF token.
    """
    kind, _, credential = request.headers.get("authorization", "").partition(" ")
    if kind.lower() in {"bearer", "token"}:
        user = store.row(
            "SELECT users.* FROM tokens JOIN users ON users.id = user_id WHERE digest = ?",
            _digest(credential),
        )
        if user is None:
            raise RefusalError(401, "Invalid token.")
        return user
    session = store.row(
        "SELECT users.*, csrf FROM sessions JOIN users ON users.id = user_id WHERE sessions.id = ?",
        request.cookies.get("sessionid", ""),
    )
    if session is None:
        raise RefusalError(401, "Authentication credentials were not provided.")
    sent = request.headers.get("x-csrftoken", "")
    if request.method not in _SAFE_METHODS and not hmac.compare_digest(sent, session["csrf"]):
        raise RefusalError(403, "CSRF Failed: CSRF token missing or incorrect.")
    return session


class Gate:
    """ASGI middleware that lets only known users reach the API."""

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self._app, self._store = app, store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request for whom it is from, or refuse it."""
        if scope["type"] == "http" and scope["path"] not in _OPEN_PATHS:
            try:
                user = authenticate(self._store, Request(scope))
            except RefusalError as refusal:
                await reply(refusal.body, refusal.status)(scope, receive, send)
                return
            scope.setdefault("state", {})["user"] = user
        await self._app(scope, receive, send)


def routes(store: Store) -> APIRouter:
    """Login, tokens and users."""
    router = APIRouter()

    @router.post("/api/auth/login")
    async def login(request: Request) -> Response:
        body = await json_body(request)
        user = store.row("SELECT * FROM users WHERE username = ?", str(body.get("username", "")))
        given = str(body.get("password", ""))
        if user is None or not hmac.compare_digest(
            _hash_password(given, user["password"].split("$")[0]), user["password"]
        ):
            raise RefusalError(
                400, {"non_field_errors": ["Unable to log in with provided credentials."]}
            )
        session, csrf = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        store.run("INSERT INTO sessions VALUES (?, ?, ?)", session, user["id"], csrf)
        answer = reply({"key": secrets.token_hex(20)})
        answer.set_cookie("sessionid", session, httponly=True, samesite="lax")
        answer.set_cookie("csrftoken", csrf, samesite="lax")
        return answer

    @router.post("/api/auth/logout")
    def logout(request: Request) -> Response:
        store.run("DELETE FROM sessions WHERE id = ?", request.cookies.get("sessionid", ""))
        return reply({"detail": "Successfully logged out."})

    @router.post("/api/auth/access_tokens")
    async def create_token(request: Request) -> Response:
        body = await json_body(request)
        value, created = secrets.token_urlsafe(30), now()
        user_id = request.state.user["id"]
        token_id = store.run(
            "INSERT INTO tokens (digest, name, user_id, created) VALUES (?, ?, ?, ?)",
            _digest(value),
            str(body.get("name", "")),
            user_id,
            created,
        )
        document = {
            "id": token_id,
            "name": str(body.get("name", "")),
            "created_date": created,
            "updated_date": created,
            "expiry_date": None,
            "last_used_date": None,
            "read_only": False,
            "owner": basic_user(store, user_id),
            "value": value,
        }
        return reply(document, 201)

    @router.get("/api/users")
    def list_users(request: Request) -> Response:
        users = store.rows("SELECT *, username AS name FROM users")
        return page(request, select(request, users, {"username": "username"}), _full_user)

    @router.get("/api/users/self")
    def self_user(request: Request) -> Response:
        return reply(_full_user(request.state.user))

    @router.get("/api/users/{user_id}")
    def one_user(user_id: int) -> Response:
        user = store.row("SELECT * FROM users WHERE id = ?", user_id)
        if user is None:
            raise RefusalError(404, "Not found.")
        return reply(_full_user(user))

    return router
