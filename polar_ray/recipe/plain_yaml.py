"""YAML of which nothing is lost and nothing swells: a key twice, an alias to itself and a bomb of aliases are refused.

YAML's specification wants keys to be unique; PyYAML takes the last one in silence.
"""

from typing import Any, TextIO

import yaml
from yaml.composer import ComposerError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

LARGEST = 1_000_000
"""Values and characters that aliases may stand for, all in all."""


class AmbiguousYaml(ComposerError):
    """Text that PyYAML would read, and that does not say what it means."""


def read_yaml(text: str | TextIO) -> Any:
    """Returns the plain data of a document; what stands under two names is there twice.

    Raises:
        AmbiguousYaml: A key is given twice, or an alias stands for what it is in, or for too much.
        yaml.YAMLError: It is no YAML.
        RecursionError: It is nested too deep.
        ValueError: A value is none of its type, such as a date in a thirteenth month.
    """
    loader = _Loader(text)
    try:
        return _unshared(loader.get_single_data())
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str | TextIO) -> None:
        super().__init__(text)
        self._open: list[str] = []
        self._sizes: dict[Node, int] = {}
        self._aliased = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if not self.check_event(yaml.AliasEvent):
            return super().compose_node(parent, index)
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if event.anchor in self._open:
            raise AmbiguousYaml(None, None, "found an alias to what it stands in", event.start_mark)
        node: Any = super().compose_node(parent, index)
        self._aliased += self._sizes.get(node, 1)
        if self._aliased > LARGEST:
            raise AmbiguousYaml(None, None, f"found aliases for more than {LARGEST:,} values", event.start_mark)
        return node

    def compose_scalar_node(self, anchor: Any) -> ScalarNode:
        node = super().compose_scalar_node(anchor)
        self._sizes[node] = 1 + len(node.value)
        return node

    def compose_sequence_node(self, anchor: Any) -> SequenceNode:
        self._open.append(anchor or "")
        node = super().compose_sequence_node(anchor)
        self._open.pop()
        self._sizes[node] = 1 + sum(self._sizes[item] for item in node.value)
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        self._open.append(anchor or "")
        node = super().compose_mapping_node(anchor)
        self._open.pop()
        self._sizes[node] = 1 + sum(self._sizes[key] + self._sizes[value] for key, value in node.value)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, ScalarNode):
                if (key.tag, key.value) in seen:
                    name = f" {key.value}" if key.value.isidentifier() else ""
                    raise AmbiguousYaml(None, None, f"found the key{name} twice", key.start_mark)
                seen.add((key.tag, key.value))
        return node


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unshared(item) for item in value]
    return value
