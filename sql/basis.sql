-- Lawful bases, by jurisdiction: data, since laws change and renumber. What a steward adds is dumped; what comes
-- with the extension is not, since CREATE EXTENSION writes it again.
--
-- Sources: Personal Information Protection Law of the People's Republic of China (PIPL), articles 13, 29 and 31, in
-- force since 2021-11-01; Regulation (EU) 2016/679 (GDPR), articles 6(1) and 9(2)(a), applicable since 2018-05-25; the
-- UK GDPR, the same articles, since the end of the transition period.

CREATE TABLE custodian.lawful_basis (
    jurisdiction  text NOT NULL CHECK (jurisdiction ~ '^[a-z0-9_]+$'),
    basis         text NOT NULL CHECK (basis ~ '^[a-z0-9_]+$'),
    valid_from    date NOT NULL CHECK (isfinite(valid_from)),
    valid_to      date CHECK (isfinite(valid_to) AND valid_to > valid_from),
    consent_based boolean NOT NULL,
    citation      text NOT NULL,
    meaning       text NOT NULL,
    seeded        boolean NOT NULL DEFAULT false,
    recorded_at   timestamptz, -- NULL: it came with the extension
    PRIMARY KEY (jurisdiction, basis, valid_from, seeded)
);
COMMENT ON TABLE custodian.lawful_basis IS 'versions of lawful bases: the one with the latest valid_from counts; seeded ones come with the extension';
ALTER TABLE custodian.lawful_basis ENABLE ROW LEVEL SECURITY;
SELECT pg_catalog.pg_extension_config_dump('custodian.lawful_basis', 'WHERE NOT seeded');

INSERT INTO custodian.lawful_basis (jurisdiction, basis, valid_from, consent_based, citation, meaning, seeded) VALUES
    ('cn', 'consent', '2021-11-01', true, 'PIPL art. 13(1)(1)', 'the individual consented', true),
    ('cn', 'separate_consent', '2021-11-01', true, 'PIPL art. 13(1)(1) with art. 29', 'the individual consented separately, as for sensitive personal data', true),
    ('cn', 'guardian_consent', '2021-11-01', true, 'PIPL art. 13(1)(1) with art. 31', 'a parent or other guardian of a minor under 14 consented', true),
    ('cn', 'contract', '2021-11-01', false, 'PIPL art. 13(1)(2)', 'necessary to conclude or perform a contract with the individual, or for human resources management under lawful rules', true),
    ('cn', 'legal_obligation', '2021-11-01', false, 'PIPL art. 13(1)(3)', 'necessary for statutory duties or obligations', true),
    ('cn', 'emergency', '2021-11-01', false, 'PIPL art. 13(1)(4)', 'necessary in a public health emergency, or to protect life, health or property in an emergency', true),
    ('cn', 'public_interest', '2021-11-01', false, 'PIPL art. 13(1)(5)', 'news reporting and supervision by public opinion, within reason', true),
    ('cn', 'disclosed', '2021-11-01', false, 'PIPL art. 13(1)(6)', 'disclosed by the individual, or otherwise lawfully, within reason', true),
    ('cn', 'other_law', '2021-11-01', false, 'PIPL art. 13(1)(7)', 'another case provided by law or administrative regulation', true),
    ('eu', 'consent', '2018-05-25', true, 'GDPR art. 6(1)(a)', 'the data subject consented', true),
    ('eu', 'explicit_consent', '2018-05-25', true, 'GDPR art. 6(1)(a) with art. 9(2)(a)', 'the data subject consented explicitly, as for special categories of personal data', true),
    ('eu', 'contract', '2018-05-25', false, 'GDPR art. 6(1)(b)', 'necessary for a contract with the data subject, or for steps before one at the subject''s request', true),
    ('eu', 'legal_obligation', '2018-05-25', false, 'GDPR art. 6(1)(c)', 'necessary for a legal obligation of the controller', true),
    ('eu', 'vital_interests', '2018-05-25', false, 'GDPR art. 6(1)(d)', 'necessary to protect the vital interests of a person', true),
    ('eu', 'public_task', '2018-05-25', false, 'GDPR art. 6(1)(e)', 'necessary for a task in the public interest or official authority', true),
    ('eu', 'legitimate_interests', '2018-05-25', false, 'GDPR art. 6(1)(f)', 'necessary for legitimate interests that the subject''s do not override', true),
    ('gb', 'consent', '2021-01-01', true, 'UK GDPR art. 6(1)(a)', 'the data subject consented', true),
    ('gb', 'explicit_consent', '2021-01-01', true, 'UK GDPR art. 6(1)(a) with art. 9(2)(a)', 'the data subject consented explicitly, as for special categories of personal data', true),
    ('gb', 'contract', '2021-01-01', false, 'UK GDPR art. 6(1)(b)', 'necessary for a contract with the data subject, or for steps before one at the subject''s request', true),
    ('gb', 'legal_obligation', '2021-01-01', false, 'UK GDPR art. 6(1)(c)', 'necessary for a legal obligation of the controller', true),
    ('gb', 'vital_interests', '2021-01-01', false, 'UK GDPR art. 6(1)(d)', 'necessary to protect the vital interests of a person', true),
    ('gb', 'public_task', '2021-01-01', false, 'UK GDPR art. 6(1)(e)', 'necessary for a task in the public interest or official authority', true),
    ('gb', 'legitimate_interests', '2021-01-01', false, 'UK GDPR art. 6(1)(f)', 'necessary for legitimate interests that the subject''s do not override', true);

CREATE VIEW custodian.lawful_bases AS
SELECT DISTINCT ON (b.jurisdiction, b.basis, b.valid_from)
       b.jurisdiction, b.basis, b.citation, b.meaning, b.consent_based, b.valid_from, b.valid_to, b.seeded,
       b.recorded_at
FROM custodian.lawful_basis b
ORDER BY b.jurisdiction, b.basis, b.valid_from, b.seeded;
COMMENT ON VIEW custodian.lawful_bases IS 'lawful bases by jurisdiction; of several versions the one with the latest valid_from that has come counts';

CREATE VIEW custodian.lawful_basis_versions AS
SELECT b.jurisdiction, b.basis, b.citation, b.meaning, b.consent_based, b.valid_from, b.valid_to, b.seeded, b.recorded_at
FROM custodian.lawful_basis b;
COMMENT ON VIEW custodian.lawful_basis_versions IS 'all versions of lawful bases on record, also one that came with the extension and that a steward''s of the same valid_from has replaced';
