"""`ragsvc evaluate`: a small labelled set measured end to end, paid once, and what it says of itself."""

import json

import pytest

from indexes.collection import Collection
from ragsvc import cli
from tests.openai_fake import OpenAIFake
from tests.ragsvc.labelled_set import QUERIES, TEXTS, write


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "labelled")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs a command in this process, with the local provider; returns its exit code, stdout and stderr."""
    import os

    for name in list(os.environ):
        if name.startswith(("RAGSVC_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RAGSVC_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def measured(run, folder):
    """Runs evaluate --json and returns its object."""

    def measured(*options: object) -> dict:
        code, out, err = run("evaluate", folder, "--json", *options)
        assert code == 0, err
        return json.loads(out)

    return measured


@pytest.fixture
def openai(run, monkeypatch):
    """A stand-in for OpenAI, in use: quicker than the local model, where its vectors need no meaning."""
    with OpenAIFake() as fake:
        monkeypatch.setenv("OPENAI_API_KEY", fake.key)
        monkeypatch.setenv("OPENAI_BASE_URL", fake.base_url)
        yield fake


def test_the_legs_are_measured(measured):
    """Each leg finds what it can: every query but the blank one is answered first by a document in its place."""
    found = measured()
    assert (found["documents"], found["chunks"]) == (len(TEXTS), len(TEXTS))
    assert (found["queries"], found["queries_with_spans"], found["k"]) == (len(QUERIES), len(QUERIES), 5)
    assert found["embedding_model"] == "all-MiniLM-L6-v2"
    for leg in ("lexical", "hybrid"):
        values = found["legs"][leg]
        assert values["R@10"] == pytest.approx(4 / 5)
        assert values["nDCG@10"] > 0.7
        assert values["span recall@5"] == pytest.approx(4 / 5)
        assert 0 < values["span IoU@5"] <= values["span precision@5"] < values["span recall@5"]
    assert set(found["legs"]) == set(found["search_ms"]) == {"lexical", "dense", "hybrid"}
    assert all(value > 0 for value in found["search_ms"].values())


def test_fewer_passages_bring_less_beside_the_evidence(measured):
    """With -k 1 the first passage alone is measured: as much evidence here, and a larger share of what is shown."""
    one, five = (measured("-k", k, "--legs", "lexical")["legs"]["lexical"] for k in (1, 5))
    assert one["span recall@1"] == five["span recall@5"]
    assert one["span precision@1"] > five["span precision@5"]
    assert one["nDCG@10"] == five["nDCG@10"]


def test_hybrid_is_compared_with_the_better_leg(measured):
    """The difference is that of the means, inside its interval, to the leg with the higher mean."""
    found = measured()
    for name, compared in found["hybrid_less_better_leg"].items():
        legs = {leg: values[name] for leg, values in found["legs"].items()}
        assert legs[compared["better"]] == max(legs["lexical"], legs["dense"])
        assert compared["mean"] == pytest.approx(legs["hybrid"] - legs[compared["better"]])
        assert compared["low"] <= compared["mean"] <= compared["high"]


def test_queries_that_the_model_can_not_read_are_counted(measured, run, folder):
    """The Chinese query is ordered by words alone, which the figures and the table say."""
    assert measured()["queries_without_dense_vote"] == 1
    assert "1 query is in a script that all-MiniLM-L6-v2 does not know" in run("evaluate", folder)[1]


def test_a_second_run_embeds_nothing_and_measures_the_same(measured):
    """Texts and queries are paid once; another way of cutting takes the vectors of slices that stay as they were."""
    first = measured()
    assert (first["plan"]["inputs"], first["plan"]["queries"]) == (len(TEXTS), len(QUERIES) - 1)
    second = measured()
    assert (second["plan"]["inputs"], second["plan"]["queries"]) == (0, 0)
    assert second["legs"] == first["legs"]
    other = measured("--chunk-tokens", "64", "--overlap", "0")
    assert (other["chunk_tokens"], other["overlap_tokens"]) == (64, 0)
    assert (other["plan"]["inputs"], other["plan"]["queries"]) == (0, 0)
    assert measured("--chunk-tokens", "16", "--overlap", "0")["plan"]["inputs"] > len(TEXTS)


def test_an_edited_set_pays_for_the_edit_and_forgets_what_is_gone(measured, folder, openai):
    """A changed text is embedded again; a removed one is no longer found."""
    measured()
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["id"] != "copy"]
    kept[-1]["text"] += " It is read twice in summer."
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    edited = measured()
    assert (edited["documents"], edited["plan"]["inputs"]) == (len(TEXTS) - 1, 1)


def test_a_text_that_was_emptied_is_found_no_more(measured, folder):
    """Its last text is gone with it, and not measured as if it still stood there."""
    assert measured("--legs", "lexical")["documents"] == len(TEXTS)
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    emptied = [row | {"text": " "} if row["id"] == "otters" else row for row in rows]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in emptied))
    (folder / "spans.jsonl").unlink()
    assert measured("--legs", "lexical")["documents"] == len(TEXTS) - 1


def test_a_dry_run_leaves_the_last_set_as_it_was(measured, folder, tmp_path):
    """What is gone from the corpus is forgotten by a run, not by its plan."""
    measured("--legs", "lexical")
    rows = (folder / "corpus.jsonl").read_text().splitlines(keepends=True)
    (folder / "corpus.jsonl").write_text("".join(row for row in rows if '"copy"' not in row))
    measured("--legs", "lexical", "--dry-run")
    (store,) = (tmp_path / "data" / "evaluations").rglob("store.db")
    with Collection.open(store.parent) as collection:
        assert collection.status().documents == len(TEXTS)


def test_words_alone_need_no_embedding(measured, openai):
    """--legs lexical sends nothing anywhere, and what it measures is what the lexical leg has beside the others."""
    alone = measured("--legs", "lexical")
    assert (set(alone["legs"]), alone["hybrid_less_better_leg"]) == ({"lexical"}, {})
    assert not openai.requests("embeddings")
    assert measured()["legs"]["lexical"] == alone["legs"]["lexical"]


def test_the_plan_comes_before_the_first_cent(measured, run, folder, openai):
    """A dry run and a plan over --max-cost send nothing; the plan's tokens are those that the server then counts."""
    plan = measured("--dry-run")["plan"]
    assert plan["cost_usd"] > 0
    code, _, err = run("evaluate", folder, "--max-cost", "0.0000001")
    assert (code, err.count("\n")) == (5, 1)
    assert not openai.requests("embeddings")
    measured("--max-cost", "1")
    sent = [text for request in openai.requests("embeddings") for text in request.inputs]
    assert len(sent) == plan["inputs"] + plan["queries"] == len(set(sent))
    measured()
    assert len([text for request in openai.requests("embeddings") for text in request.inputs]) == len(sent)


def test_a_query_that_can_not_be_embedded_ends_the_run(measured, run, folder, openai):
    """The provider's error is exit 4 and one line; the same command afterwards pays for what is missing alone."""
    measured()
    for name, line in (("queries.jsonl", '{"id": "new", "text": "rain at nine?"}\n'), ("qrels.tsv", "new\train\t1\n")):
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(line)
    openai.embeddings.fail(401)
    code, _, err = run("evaluate", folder)
    assert (code, err.count("\n")) == (4, 1)
    assert measured()["plan"]["queries"] == 1


def test_an_evaluation_stays_out_of_the_collections(measured, run, openai):
    """It is listed nowhere and found by no search."""
    measured()
    assert [row["name"] for row in json.loads(run("collections", "list", "--json")[1])["collections"]] == ["default"]
    assert json.loads(run("search", "otters", "--json")[1])["hits"] == []


def test_texts_are_stored_as_they_stand(measured, tmp_path, openai):
    """Each text of the corpus is the text of a document, to the character: so that spans fit."""
    measured()
    (store,) = (tmp_path / "data" / "evaluations").rglob("store.db")
    with Collection.open(store.parent) as collection:
        documents, _ = collection.documents(None, 100, None)
        assert {d.path: (d.title, collection.text(d.id).text) for d in documents} == TEXTS
        assert collection.status().vectors == len(TEXTS)  # no query among the passages


def test_a_text_that_is_blank_is_named_and_can_not_be_found(measured, run, folder, openai):
    """It costs its queries, and nothing else."""
    with (folder / "corpus.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "void", "title": "Void", "text": " "}\n')
    assert "text void can't be found" in run("evaluate", folder)[1]
    assert measured()["plan"]["rejected"] == ["void"]


def test_the_table_has_a_line_for_each_measure(run, folder, openai):
    """People see measures by legs, the interval, and how long a search took."""
    code, out, _ = run("evaluate", folder, "-k", "3")
    assert code == 0
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    for name in ("nDCG@10", "R@10", "RR@10", "span recall@3", "span precision@3", "span IoU@3"):
        assert lines[name].count("0.") >= 3
        assert " to " in lines[name]
    assert "search, median ms" in lines


def test_what_is_wrong_is_one_line(run, folder, tmp_path):
    """A malformed set is exit 2 with file and line; so are options that make no sense; nothing is indexed."""
    (folder / "qrels.tsv").write_text("query_id\tdoc_id\tscore\nsleep\tnone\t1\n")
    code, out, err = run("evaluate", folder)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "qrels.tsv line 2" in err
    assert run("evaluate", tmp_path / "nowhere")[0] == 2
    assert run("evaluate", write(tmp_path / "other"), "--chunk-tokens", "64", "--overlap", "60")[0] == 3
    assert run("evaluate", folder, "--legs", "sparse")[0] == 2
    assert not (tmp_path / "data" / "evaluations").exists()
