"""Documents come back from the spool as they went in."""

from hypothesis import given
from hypothesis import strategies as st

from indexes.types import Chunk, DocumentUpsert, FileStat
from ingest import spool as spooling
from ingest.spool import Spool

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
_stats = st.builds(FileStat, *[st.integers(0, 2**62)] * 4)
_chunks = st.builds(
    Chunk,
    st.integers(0, 9),
    st.integers(0, 99),
    st.integers(0, 99),
    st.integers(0, 99),
    st.lists(_texts, max_size=3).map(tuple),
    st.none() | st.integers(1, 9),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
)
_documents = st.builds(
    DocumentUpsert,
    path=_texts,
    replaces=st.none() | st.tuples(_texts, st.integers(1, 9)),
    content_hash=st.binary(min_size=32, max_size=32),
    stat=_stats,
    content_type=_texts,
    title=_texts,
    text=_texts,
    metadata=st.dictionaries(_texts, st.integers(0, 9) | _texts | st.booleans(), max_size=3),
    reader=_texts,
    chunks=st.lists(_chunks, max_size=3).map(tuple),
)


@given(st.lists(_documents, max_size=5))
def test_documents_come_back_equal_and_in_order(documents):
    """What is appended is iterated, equal and in order, as often as asked."""
    with Spool() as spool:
        for document in documents:
            spool.append(document)
        assert spool.count == len(documents)
        assert list(spool) == documents
        assert list(spool) == documents


def test_a_large_spool_goes_to_a_file_without_a_name(tmp_path, monkeypatch):
    """Past its share of memory the spool lies on disk, and no file is left to be seen or cleaned up."""
    monkeypatch.setattr(spooling, "_IN_MEMORY", 1000)
    document = DocumentUpsert("a", None, b"h" * 32, FileStat(1, 2, 3, 4), "text/plain", "", "x" * 900, {}, "r", ())
    with Spool(tmp_path) as spool:
        for _ in range(5):
            spool.append(document)
        assert list(tmp_path.iterdir()) == []
        assert list(spool) == [document] * 5
