"""A small labelled set that this project wrote: six texts, five queries, spans found by their words."""

import json
from pathlib import Path

TEXTS = {
    "otters": ("Otters", "Otters sleep on the river. They hold hands while they sleep, so that none drifts away."),
    "pumps": ("Water pumps", "Fill the casing with water before the first start. Drain it before the frost comes."),
    "tea": ("Green tea", "Green tea is steeped at eighty degrees. Boiling water makes it bitter."),
    "copy": ("", "Fill the casing with water before the first start. Drain it before the frost comes."),
    "beijing": ("北京", "北京是中国的首都。天安门广场在市中心。"),
    "rain": ("Rain gauges", "A gauge stands away from trees. It is emptied each morning at nine."),
}
QUERIES = {
    "sleep": ("Why do otters hold hands?", "otters", "so that none drifts away"),
    "frost": ("What must be done with the casing before the frost?", "pumps", "Drain it before the frost comes"),
    "steep": ("How hot should the water for green tea be?", "tea", "steeped at eighty degrees"),
    "capital": ("中国的首都是哪里？", "beijing", "北京是中国的首都"),
    "blank": (" ", "rain", "each morning at nine"),
}


def write(folder: Path) -> Path:
    """Write the set into `folder` and return it."""
    folder.mkdir(exist_ok=True)
    rows = [{"id": key, "title": title, "text": text} for key, (title, text) in TEXTS.items()]
    spans = []
    for query, (_, document, evidence) in QUERIES.items():
        start = TEXTS[document][1].index(evidence)
        span = {"query_id": query, "doc_id": document, "start": start, "end": start + len(evidence), "text": evidence}
        spans.append(span)
    qrels = ["query_id\tdoc_id\tscore", *(f"{query}\t{document}\t1" for query, (_, document, _) in QUERIES.items())]
    _lines(folder / "corpus.jsonl", rows)
    _lines(folder / "queries.jsonl", [{"id": key, "text": text, "label": 1} for key, (text, _, _) in QUERIES.items()])
    _lines(folder / "spans.jsonl", spans)
    (folder / "qrels.tsv").write_text("\n".join(qrels) + "\n", encoding="utf-8")
    return folder


def _lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
