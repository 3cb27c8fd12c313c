"""Where a text can be cut without a change of its ids: before which added tokens nothing reaches across."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def clear_cuts(added: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the added tokens before which a text can be cut, as ``chat_tokenizer`` says, in their order.

    Args:
        added: ``added_tokens`` of a ``tokenizer.json``. A tokenizer may have thousands (Gemma 3 has 6,400), so the
            time goes with their characters and not with the pairs of them.
    """
    if any(token["single_word"] for token in added):
        return []
    overlaps = _Overlaps([token["content"] for token in added])
    return [
        text
        for token in added
        if (text := token["content"])
        and not token["lstrip"]
        and not token["normalized"]
        # A token before it that takes spaces to its right (rstrip) finds none.
        and not text[0].isspace()
        and overlaps.none_with(text)
    ]


class _Overlaps:
    """Which of some texts another one overlaps from the left, holds, or begins with.

    The automaton of Aho and Corasick (Efficient string matching, 1975): a tree of the texts' beginnings, in which each
    beginning links to its longest proper ending that is a beginning too. All of its endings lie along these links.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._ends = {text: self._insert(text) for text in texts if text}
        links, order = self._linked()
        # An ending of a beginning lies inside of a text; an ending of a whole text may go on in what follows it.
        inside, crossing = [False] * len(links), [False] * len(links)
        for node in order:
            inside[links[node]] = True
        for node in self._ends.values():
            crossing[links[node]] = True
        for node in reversed(order):
            inside[links[node]] |= inside[node]
            crossing[links[node]] |= crossing[node]
        self._inside, self._crossing = inside, crossing

    def none_with(self, text: str) -> bool:
        """Whether no text ends with what this one begins with, holds it behind its start, or goes on where it ends."""
        end = self._ends[text]
        return not (self._next[end] or self._inside[end] or any(self._crossing[node] for node in self._path(text)))

    def _insert(self, text: str) -> int:
        node = 0
        for character in text:
            if character not in self._next[node]:
                self._next[node][character] = len(self._next)
                self._next.append({})
            node = self._next[node][character]
        return node

    def _path(self, text: str) -> Iterator[int]:
        node = 0
        for character in text:
            node = self._next[node][character]
            yield node

    def _linked(self) -> tuple[list[int], list[int]]:
        """Returns the link of each node, and the nodes but the root, shorter beginnings first."""
        links, order = [0] * len(self._next), list(self._next[0].values())
        for node in order:
            for character, child in self._next[node].items():
                link = links[node]
                while link and character not in self._next[link]:
                    link = links[link]
                links[child] = self._next[link].get(character, 0)
                order.append(child)
        return links, order
