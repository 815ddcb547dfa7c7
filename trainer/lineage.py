"""Which teacher is in use and which one came before it. Knows no weights."""

from casebook.documents import read_lines
from casebook.errors import StateError
from casebook.home import AuditEntry, Home
from casebook.registry import Registry


def previous_teacher(home: Home) -> str:
    """The teacher that was in use before the present one, by the audit log.

    Raises:
        StateError: there was none.
    """
    current = Registry(home).promoted()
    used: list[str] = []
    for entry in read_lines(home.root / "audit.jsonl", AuditEntry):
        if entry.action != "promote":
            continue
        if entry.subject in used:  # promoted again, as by a rollback: what came after is undone
            del used[used.index(entry.subject) + 1 :]
        else:
            used.append(entry.subject)
    if current not in used or used.index(current) == 0:
        raise StateError(
            f"no teacher was in use before {current or 'the bare base'}; `trainer models` lists "
            "what there is, `trainer promote ID --reason TEXT` takes one"
        )
    return used[used.index(current) - 1]
