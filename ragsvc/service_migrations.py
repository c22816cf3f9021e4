"""The schema of `service.db` as ordered steps, never edited once released; each is one transaction."""

from collections.abc import Sequence

PAGE_SIZE = 16_384
APPLICATION_ID = 0x72616764
"""`ragd` in ASCII (`PRAGMA application_id`)."""

STEPS: tuple[Sequence[str], ...] = (
    (
        f"PRAGMA application_id = {APPLICATION_ID}",
        """CREATE TABLE collection (
            id TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 6 AND id NOT GLOB '*[^a-z0-9]*'),
            name TEXT NOT NULL UNIQUE,
            state TEXT NOT NULL CHECK (state IN ('creating', 'ready', 'removing')),
            created_at TEXT NOT NULL) WITHOUT ROWID""",
        # A row outlives its collection: what was spent stays spent.
        """CREATE TABLE ledger (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            at TEXT NOT NULL,
            purpose TEXT NOT NULL,
            role TEXT NOT NULL,
            model TEXT NOT NULL,
            provider TEXT NOT NULL,
            input_tokens INTEGER NOT NULL,
            output_tokens INTEGER NOT NULL,
            cost_usd REAL,
            collection TEXT,
            outcome TEXT NOT NULL)""",
        "CREATE INDEX ledger_by_time ON ledger (at)",
    ),
    (
        # A collection's unfinished jobs run in the order of `seq`. A job outlives its collection, cancelled.
        """CREATE TABLE job (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL,
            collection_id TEXT NOT NULL,
            collection TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'waiting', 'done', 'failed', 'cancelled')),
            details TEXT NOT NULL,
            error_code TEXT,
            error TEXT,
            inputs_done INTEGER NOT NULL DEFAULT 0,
            inputs_total INTEGER NOT NULL DEFAULT 0,
            tokens INTEGER NOT NULL DEFAULT 0,
            cost_usd REAL DEFAULT 0.0,
            attempts INTEGER NOT NULL DEFAULT 0,
            not_before TEXT,
            cancel_requested INTEGER NOT NULL DEFAULT 0,
            created_at TEXT NOT NULL,
            started_at TEXT,
            finished_at TEXT)""",
        """CREATE INDEX job_unfinished ON job (collection_id, seq)
            WHERE state IN ('queued', 'running', 'waiting')""",
        # A document of an upload; its bytes stand in the job's file, `size` of them from `start` on.
        """CREATE TABLE job_file (
            job_seq INTEGER NOT NULL,
            number INTEGER NOT NULL,
            path TEXT NOT NULL,
            content_hash BLOB NOT NULL,
            start INTEGER NOT NULL,
            size INTEGER NOT NULL,
            received_ns INTEGER NOT NULL,
            state TEXT NOT NULL CHECK (state IN
                ('pending', 'applied', 'unchanged', 'rejected', 'withdrawn', 'cancelled')),
            reason TEXT,
            detail TEXT,
            document_id TEXT,
            deaths INTEGER NOT NULL DEFAULT 0,
            PRIMARY KEY (job_seq, number),
            UNIQUE (job_seq, path)) WITHOUT ROWID""",
        """CREATE TABLE job_event (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            job_seq INTEGER NOT NULL,
            at TEXT NOT NULL,
            kind TEXT NOT NULL,
            path TEXT,
            detail TEXT NOT NULL)""",
        "CREATE INDEX job_event_by_job ON job_event (job_seq, id)",
    ),
    (
        # A restored collection has another folder than its id's; empty means that an earlier release made the row.
        "ALTER TABLE collection ADD COLUMN folder TEXT NOT NULL DEFAULT ''",
        "UPDATE collection SET folder = id",
    ),
)
"""`PRAGMA user_version` is the number of the last that ran."""
SCHEMA_VERSION = len(STEPS)
