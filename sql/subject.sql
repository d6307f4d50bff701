-- Consents of subjects.

-- The order of the first columns is known to src/subject/lend.rs, which reads the table by its index: so text compares
-- by bytes.
CREATE TABLE custodian.consent (
    subject_kind text COLLATE pg_catalog."C" NOT NULL,
    subject_key  text[] COLLATE pg_catalog."C" NOT NULL,
    purpose      text COLLATE pg_catalog."C" NOT NULL,
    granted_at   timestamptz NOT NULL CHECK (isfinite(granted_at)),
    withdrawn_at timestamptz CHECK (isfinite(withdrawn_at) AND withdrawn_at >= granted_at),
    evidence     text,
    recorded_at  timestamptz NOT NULL DEFAULT now(),
    recorded_by  text NOT NULL DEFAULT session_user,
    PRIMARY KEY (purpose, subject_kind, subject_key, granted_at)
);
COMMENT ON TABLE custodian.consent IS 'when subjects gave and withdrew consent to purposes';
-- For sweeps, which look for the rows of those who withdrew.
CREATE INDEX consent_withdrawn ON custodian.consent (purpose, subject_kind, subject_key) WHERE withdrawn_at IS NOT NULL;
ALTER TABLE custodian.consent ENABLE ROW LEVEL SECURITY;
SELECT pg_catalog.pg_extension_config_dump('custodian.consent', '');

CREATE VIEW custodian.consents WITH (security_barrier) AS
SELECT c.subject_kind, c.subject_key, c.purpose, c.granted_at, c.withdrawn_at, c.evidence, c.recorded_at, c.recorded_by
FROM custodian.consent c
WHERE custodian.require_steward('read consents');
COMMENT ON VIEW custodian.consents IS 'consents, the withdrawn ones too. It shows subject keys: for stewards';

-- Erasures of subjects, whom the digest names only for whoever has its key. The order of columns and the collation are
-- known to src/subject/lend_erasures.rs, which reads the table by its index.
CREATE TABLE custodian.erasure (
    subject_kind text COLLATE pg_catalog."C" NOT NULL,
    digest       text COLLATE pg_catalog."C" NOT NULL,
    erased_at    timestamptz NOT NULL CHECK (isfinite(erased_at)),
    epoch        bigint NOT NULL,
    reason       text NOT NULL,
    erased_by    text NOT NULL DEFAULT session_user,
    PRIMARY KEY (subject_kind, digest, erased_at)
);
COMMENT ON TABLE custodian.erasure IS 'which subjects were erased and when, each as a keyed digest of its kind and key';
ALTER TABLE custodian.erasure ENABLE ROW LEVEL SECURITY;
SELECT pg_catalog.pg_extension_config_dump('custodian.erasure', '');

CREATE VIEW custodian.erasures WITH (security_barrier) AS
SELECT e.subject_kind, e.digest, e.erased_at, e.epoch, e.reason, e.erased_by
FROM custodian.erasure e
WHERE custodian.require_steward('read erasures');
COMMENT ON VIEW custodian.erasures IS 'erasures of subjects, each named by a keyed digest: for stewards';

-- What the last look for data of erased subjects found. It is about this database: no dump carries it.
CREATE TABLE custodian.erasure_look (
    one       boolean PRIMARY KEY DEFAULT true CHECK (one),
    looked_at timestamptz NOT NULL,
    tables    jsonb NOT NULL
);
COMMENT ON TABLE custodian.erasure_look IS 'when data of erased subjects was last looked for, and how many rows there were by table';
ALTER TABLE custodian.erasure_look ENABLE ROW LEVEL SECURITY;
