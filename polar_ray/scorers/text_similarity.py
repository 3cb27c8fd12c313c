"""How close a text is to a reference, from the byte sequences that they share."""

import unicodedata

import numpy as np

NGRAM_BYTES = 6
"""Bytes in one n-gram: six letters of English, three of Russian or Arabic, two Chinese characters.

At most 8, so that an n-gram fits a 64-bit integer and is compared exactly.
"""
RECALL_WEIGHT = 2.0
"""How many times recall counts against precision: beta squared of the F-measure."""
NORMALISE_AT_ONCE = 4096
"""Characters in one piece of normalisation. NFKC takes quadratic time on a long run of combining marks."""


def normalised(text: str) -> str:
    """Returns the text in Unicode NFKC, case-folded, with each run of white space as one space.

    NFKC makes full-width and half-width forms the same, so ``ＡＢＣ１２３`` equals ``abc123``.
    """
    if not text.isascii():
        pieces = range(0, len(text), NORMALISE_AT_ONCE)
        text = "".join(unicodedata.normalize("NFKC", text[at : at + NORMALISE_AT_ONCE]) for at in pieces)
    return " ".join(text.casefold().split())


class ReferenceText:
    """A reference, prepared for comparison with many texts.

    The similarity is the F-measure of shared n-grams, as in chrF (Popović, 2015, "chrF: character n-gram F-score for
    automatic MT evaluation"), with these differences: the n-grams are of bytes of UTF-8 and of one length only, white
    space counts, and the ends are padded so that short texts have n-grams too. It needs no words, so it works for
    Chinese as it does for English, and takes time proportional to the text's length.

    With ``overlap`` the number of n-grams that both have (each counted as often as both have it)::

        precision  = overlap / n-grams of the text
        recall     = overlap / n-grams of the reference
        similarity = (1 + w) * precision * recall / (w * precision + recall),  w = RECALL_WEIGHT
    """

    def __init__(self, text: str) -> None:
        ngrams = _ngrams(normalised(text))
        self._size = len(ngrams)
        self._ngrams, self._counts = np.unique(ngrams, return_counts=True)

    def similarity(self, text: str) -> float:
        """Returns the similarity of a text: 1 where both are the same once normalised, 0 where nothing is shared."""
        ngrams = _ngrams(normalised(text))
        if not self._size or not len(ngrams):
            return 0.0
        place = np.searchsorted(self._ngrams, ngrams)
        # A place past the end means "larger than all"; any place will do there, since it does not hold the n-gram.
        place[place == len(self._ngrams)] = 0
        shared = np.bincount(place[self._ngrams[place] == ngrams], minlength=len(self._ngrams))
        overlap = int(np.minimum(shared, self._counts).sum())
        # The formula above with overlap divided out.
        return (1 + RECALL_WEIGHT) * overlap / (RECALL_WEIGHT * self._size + len(ngrams))


def _ngrams(text: str) -> np.ndarray:
    """Returns the n-grams of a normalised text as uint64, in order, repeats included; none for an empty text."""
    if not text:
        return np.zeros(0, np.uint64)
    padding = b" " * (NGRAM_BYTES - 1)
    # "surrogatepass" because a Python string may hold a lone surrogate, which is text like any other here.
    data = np.frombuffer(padding + text.encode("utf-8", "surrogatepass") + padding, np.uint8).astype(np.uint64)
    size = len(data) - NGRAM_BYTES + 1
    ngrams = np.zeros(size, np.uint64)
    for at in range(NGRAM_BYTES):
        ngrams = (ngrams << np.uint64(8)) | data[at : at + size]
    return ngrams
