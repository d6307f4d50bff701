-- Lawful bases: data by jurisdiction, which stewards extend; and purposes that rest on none.
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
CREATE EXTENSION pg_custodian;
CREATE ROLE regress_basis_stranger;
SELECT jurisdiction, basis, citation, consent_based, valid_from FROM custodian.lawful_bases;

-- "Legitimate interests" is one in the EU, and none under the PIPL.
SELECT custodian.define_purpose('shop.risk', 'legitimate_interests', '1 year');
SELECT custodian.define_purpose('shop.risk', 'legitimate_interests', '1 year', 'eu');

-- What a steward adds
SELECT custodian.define_purpose('shop.brazil', 'consent', '1 year', 'br', required => false);
SET ROLE regress_basis_stranger;
SELECT custodian.define_lawful_basis('br', 'consent', 'LGPD art. 7, I', true);
SELECT count(*) FROM custodian.lawful_basis;
RESET ROLE;
SELECT custodian.define_lawful_basis('br', 'consent', 'LGPD art. 7, I', true, valid_from => '2020-09-18');
SELECT custodian.define_lawful_basis('br', 'consent', 'LGPD art. 7, I', true, valid_from => '2020-09-18'); -- the same
SELECT custodian.define_lawful_basis('br', 'consent', 'LGPD art. 8', true, valid_from => '2020-09-18');
SELECT custodian.define_purpose('shop.brazil', 'consent', '1 year', 'br', required => false);
SELECT custodian.define_lawful_basis('BR', 'consent', 'x', true);
SELECT custodian.define_lawful_basis('br', 'a basis', 'x', true);
SELECT custodian.define_lawful_basis('br', 'other', 'x', NULL);
SELECT custodian.define_lawful_basis('br', 'other', '', true);
SELECT custodian.define_lawful_basis('br', 'other', 'x', true, valid_from => '-infinity');
SELECT custodian.define_lawful_basis('br', 'other', 'x', true, valid_from => '2020-01-02', valid_to => '2020-01-02');

-- Versions of a basis agree on whether it rests on consent.
SELECT custodian.define_lawful_basis('eu', 'contract', 'x', true);

-- A basis that is still to come, and one that has ended
SELECT custodian.define_lawful_basis('br', 'later', 'a law', false, valid_from => '2999-01-01');
SELECT custodian.define_purpose('shop.later', 'later', '1 year', 'br');
SELECT custodian.define_purpose('shop.care', 'vital_interests', '1 year', 'eu');
SELECT custodian.define_purpose('shop.newsletter', 'consent', '1 year', 'eu');
SELECT custodian.define_lawful_basis('eu', 'vital_interests', 'repealed', false, valid_from => '2020-01-01', valid_to => '2021-01-01');
SELECT custodian.define_purpose('shop.care2', 'vital_interests', '1 year', 'eu');
SELECT severity, code, object, problem FROM custodian.check() WHERE code IN ('basis-invalid', 'consent-required') ORDER BY object;
SELECT change, object, detail FROM custodian.epoch WHERE change = 'policy.lawful_basis' AND object = 'br.consent';

-- What rests on a basis that has ended may not be used, though a sweep keeps it. Of the time before the law the law says nothing.
CREATE TABLE patient (id int PRIMARY KEY, at timestamptz, note text);
INSERT INTO patient VALUES (1, '2020-06-01', 'secret'), (2, '2017-01-01', 'secret');
SELECT custodian.tag_table('patient', clock => 'at');
SELECT custodian.tag_column('patient', 'note', 'user.health', '{shop.care}', on_expiry => 'set_null');
SELECT * FROM custodian.explain_purposes('patient', '{"id": 1}', '2020-12-01');
SELECT * FROM custodian.explain_purposes('patient', '{"id": 1}', '2021-03-01');
SELECT state, decided_by FROM custodian.explain_row('patient', '{"id": 1}', '2021-03-01');
SELECT * FROM custodian.explain_purposes('patient', '{"id": 2}', '2017-06-01');
