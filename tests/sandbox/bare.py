"""A runner with no sieve: what isolation alone does. A program's `result` is what it returns, as text."""


def prepare() -> None:
    pass


def execute(source: str, argument: bytes) -> bytes:
    names = {"__name__": "__main__", "argument": argument, "result": ""}
    exec(compile(source, "<program>", "exec"), names)
    found = names["result"]
    return found if isinstance(found, bytes) else str(found).encode()
