from typing import Any
def page(data: dict[str, Any]) -> str:
    import msgspec
    return msgspec.json.encode(data).decode()
