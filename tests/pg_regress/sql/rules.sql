-- The rules of retention, one by one, as explain_row tells them: state, what decides, until when, which citation.
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SET client_min_messages = warning;
CREATE EXTENSION pg_custodian;
CREATE SCHEMA rules;
CREATE ROLE regress_rules_counsel;
SELECT count(*) FROM custodian.apply_policy('{"purposes": {
    "r.short":  {"basis": "contract", "history": [{"since": "2019-01-01T00:00:00Z", "period": "P1Y"}]},
    "r.long":   {"basis": "contract", "history": [{"since": "2019-01-01T00:00:00Z", "period": "P3Y"}]},
    "r.ended":  {"basis": "contract", "history": [{"since": "2019-01-01T00:00:00Z", "period": "P50Y"}], "ended_at": "2020-06-01T00:00:00Z"},
    "r.mail":   {"basis": "consent", "required": false, "history": [{"since": "2019-01-01T00:00:00Z", "period": "P50Y"}]},
    "r.less":   {"basis": "contract", "history": [{"since": "2019-01-01T00:00:00Z", "period": "P10Y"}, {"since": "2021-01-01T00:00:00Z", "period": "P1Y"}]},
    "r.more":   {"basis": "contract", "history": [{"since": "2019-01-01T00:00:00Z", "period": "P1Y"}, {"since": "2021-01-01T00:00:00Z", "period": "P10Y"}]}},
  "minimums": {"r.tax": {"period": "P5Y", "citation": "Tax Act, s. 5"}},
  "defences": {"r.claim": {"period": "P4Y", "citation": "Limitation Act, s. 4"}},
  "maximums": {"r.cap": {"period": "P2Y", "citation": "Data Act, s. 2"}}}', dry_run => false);
CREATE TABLE rules.person (id int PRIMARY KEY, at timestamptz, made timestamptz,
    one text, ends text, mail text, two text, tax text, claim text, capped text, clash text, less text, more text);
INSERT INTO rules.person
    SELECT id, at, made, 'v', 'v', 'v', 'v', 'v', 'v', 'v', 'v', 'v', 'v'
    FROM (VALUES (1, '2020-01-01'::timestamptz, '2020-01-01'::timestamptz), (2, NULL, '2020-01-01'),
                 (3, '2022-01-01', '2022-01-01'), (4, 'infinity', NULL)) v(id, at, made);
SELECT custodian.tag_table('rules.person', clock => 'at', collected => 'made', subject_kind => 'person', subject_key => '{id}');
SELECT custodian.tag_column('rules.person', c, 'user.name', p, on_expiry => 'set_null')
    FROM (VALUES ('one', '{r.short}'::text[]), ('ends', '{r.ended}'), ('mail', '{r.mail}'), ('two', '{r.short,r.long}'), ('tax', '{r.short}'),
                 ('claim', '{r.short}'), ('capped', '{r.long}'), ('clash', '{r.long}'), ('less', '{r.less}'), ('more', '{r.more}')) v(c, p);
SELECT custodian.require_minimum('r.tax', 'rules.person', '{tax,clash}', '5 years', 'Tax Act, s. 5');
SELECT custodian.declare_defence('r.claim', 'rules.person', '{claim}', '4 years', 'Limitation Act, s. 4');
SELECT custodian.require_maximum('r.cap', 'rules.person', '{capped,clash}', '2 years', 'Data Act, s. 2');
SELECT custodian.record_consent('person', '{1}', 'r.mail', '2020-01-01');
SELECT custodian.withdraw_consent('person', '{1}', 'r.mail', '2020-09-01');
CREATE FUNCTION rules.why(id int, as_of timestamptz, VARIADIC columns text[])
    RETURNS TABLE (cell text, state text, decided_by text, until timestamptz, citation text, explanation text) LANGUAGE sql AS
$$SELECT column_name, state, decided_by, until, citation, explanation
  FROM custodian.explain_row('rules.person', pg_catalog.jsonb_build_object('id', id), as_of) WHERE column_name = ANY (columns) ORDER BY 1$$;

-- 1. A purpose covers until the first of: its period, its end, a withdrawal. Without a consent on record: covered.
SELECT * FROM rules.why(1, '2020-05-01', 'one', 'ends', 'mail');
SELECT * FROM rules.why(1, '2020-10-01', 'one', 'ends', 'mail');
SELECT * FROM rules.why(3, '2022-05-01', 'mail');
-- 2. The longest wins.
SELECT * FROM rules.why(1, '2021-06-01', 'one', 'two');
-- The shorter one is over for use all the same, at its own date.
SELECT * FROM custodian.explain_purposes('rules.person', '{"id": 1}', '2021-06-01') WHERE column_name IN ('one', 'two', 'mail', 'ends', 'capped') ORDER BY 1, 2;
-- Without a consent on record a sweep keeps what nobody may use.
SELECT * FROM custodian.explain_purposes('rules.person', '{"id": 3}', '2022-05-01') WHERE column_name IN ('mail', 'two') ORDER BY 1, 2;
-- 3. Blocked by a minimum or a claim defence, with the citation; the rest is due on time (4).
SELECT * FROM rules.why(1, '2022-06-01', 'one', 'tax', 'claim');
SELECT * FROM rules.why(1, '2024-06-01', 'tax', 'claim');
SELECT * FROM rules.why(1, '2025-01-01', 'tax', 'claim');
-- 6. A hold lies over any of them, and names its matter.
SELECT custodian.place_hold('case 7', 'regress_rules_counsel', current_date + 1, 'claim', subject_kind => 'person', subject_key => '{1}');
SELECT * FROM rules.why(1, '2030-01-01', 'one', 'tax');
SELECT custodian.release_hold(1, 'regress_rules_counsel', 'settled');
-- 7. A clock that is NULL or infinite: a violation, or not begun, as the tag says. Kept either way.
SELECT * FROM rules.why(2, '2030-01-01', 'one', 'tax');
SELECT * FROM rules.why(4, '2030-01-01', 'one');
SELECT * FROM custodian.explain_purposes('rules.person', '{"id": 2}', '2030-01-01') WHERE column_name IN ('one', 'ends') ORDER BY 1, 2;
SELECT severity, object, problem, remedy FROM custodian.check() WHERE code = 'clock-missing';
SELECT custodian.tag_table('rules.person', clock => 'at', collected => 'made', subject_kind => 'person', subject_key => '{id}', null_clock => 'not_started');
SELECT * FROM rules.why(2, '2030-01-01', 'one');
SELECT * FROM custodian.explain_purposes('rules.person', '{"id": 2}', '2030-01-01') WHERE column_name IN ('one', 'ends') ORDER BY 1, 2;
SELECT count(*) FROM custodian.check() WHERE code = 'clock-missing';
-- 8. A shorter period acts at once, a longer one on what was collected since. Without a time of collection the shortest ever counts.
SELECT * FROM rules.why(1, '2021-06-01', 'less', 'more');
SELECT * FROM rules.why(3, '2023-06-01', 'less', 'more');
SELECT * FROM rules.why(4, '2030-01-01', 'more');
SELECT object FROM custodian.check() WHERE code = 'period-lengthened';
SELECT custodian.tag_table('rules.person', clock => 'at', subject_kind => 'person', subject_key => '{id}', null_clock => 'not_started');
SELECT * FROM rules.why(3, '2023-06-01', 'less', 'more');
SELECT severity, object, problem, remedy FROM custodian.check() WHERE code = 'period-lengthened';
SELECT object, severity FROM custodian.check() WHERE code = 'period-lengthened' AND object LIKE '%.less';
-- It goes once rows say when they were collected.
SELECT custodian.tag_table('rules.person', clock => 'at', collected => 'made', subject_kind => 'person', subject_key => '{id}');
SELECT count(*) FROM custodian.check() WHERE code = 'period-lengthened';
-- 9. A maximum ends what purposes cover. Where a minimum is longer: blocked, and the conflict is reported with both citations.
SELECT * FROM rules.why(1, '2021-06-01', 'capped', 'clash');
SELECT * FROM rules.why(1, '2022-06-01', 'capped', 'clash');
SELECT severity, object, problem, remedy FROM custodian.check() WHERE code = 'maximum-below-minimum';
-- A cell that was disposed of says so, and what is no tag's is not there.
UPDATE rules.person SET one = NULL WHERE id = 3;
SELECT * FROM rules.why(3, '2030-01-01', 'one', 'made');

-- 5. A row goes with all of its cells past and nothing that refers to it; otherwise it stays, and the reason is told.
CREATE TABLE rules.head (id int PRIMARY KEY, at timestamptz, name text, note text);
CREATE TABLE rules.tail (id int PRIMARY KEY, head int REFERENCES rules.head);
INSERT INTO rules.head VALUES (1, '2020-01-01', 'v', 'v'), (2, '2020-01-01', 'v', 'v');
INSERT INTO rules.tail VALUES (1, 2);
SELECT custodian.tag_table('rules.head', clock => 'at', on_expiry => 'delete');
SELECT custodian.tag_column('rules.head', 'name', 'user.name', '{r.short}');
SELECT custodian.tag_column('rules.head', 'note', 'user.name', '{r.long}', on_expiry => 'set_null');
SELECT column_name, state, decided_by, until, citation, explanation FROM custodian.explain_row('rules.head', '{"id": 1}', '2022-01-01') ORDER BY 1;
SELECT column_name, state, decided_by, until, citation, explanation FROM custodian.explain_row('rules.head', '{"id": 1}', '2023-01-01') ORDER BY 1;
SELECT column_name, state, decided_by, until, citation, explanation FROM custodian.explain_row('rules.head', '{"id": 2}', '2023-01-01') ORDER BY 1;
SELECT column_names, action, reason, rows FROM custodian.preview('rules.head', '2023-01-01') ORDER BY 2, 3;
-- A law that keeps one of its cells keeps the row, and is named where it does; a cell that can go by itself does.
SELECT custodian.require_minimum('r.archive', 'rules.head', '{name}', '5 years', 'Archive Act, s. 1');
SELECT column_name, state, decided_by, until, citation, explanation FROM custodian.explain_row('rules.head', '{"id": 1}', '2024-01-01') ORDER BY 1;
SELECT column_name, state, decided_by, until, citation, explanation FROM custodian.explain_row('rules.head', '{"id": 1}', '2025-01-01') ORDER BY 1;

-- 10. An erasure ends what is optional or by consent; what stays says why, by which law where it is one.
CREATE TABLE rules.member (id int, at timestamptz, nick text, email text, bill text);
INSERT INTO rules.member VALUES (1, now() - interval '1 day', 'v', 'v', 'v');
SELECT custodian.define_purpose('r.club', 'contract', '10 years', required => false);
SELECT custodian.define_purpose('r.bill', 'contract', '10 years');
SELECT custodian.tag_table('rules.member', clock => 'at', subject_kind => 'member', subject_key => '{id}');
SELECT custodian.tag_column('rules.member', 'nick', 'user.name', '{r.club}', on_expiry => 'set_null');
SELECT custodian.tag_column('rules.member', 'email', 'user.contact.email', '{r.club,r.bill}', on_expiry => 'set_null');
SELECT custodian.tag_column('rules.member', 'bill', 'user.financial', '{r.club}', on_expiry => 'set_null');
SELECT custodian.require_minimum('r.books', 'rules.member', '{bill}', '7 years', 'Bookkeeping Act, s. 9');
SELECT column_names, action, reason, rows, until > now() + interval '6 years' AS until, citation
    FROM custodian.erase_subject('member', '{1}', 'asked for it') ORDER BY 1;
SELECT id, nick, email, bill FROM rules.member;
SELECT column_name, state, decided_by, until > now() + interval '6 years' AS until, citation, regexp_replace(explanation, '\d{4}-\d\d-\d\d', 'DATE', 'g') AS explanation
    FROM custodian.explain_row('rules.member', '{"id": 1}') ORDER BY 1;
-- 11. Data that come back are due, or kept by the same law; those of a new sign-up begin anew.
UPDATE rules.member SET nick = 'back';
INSERT INTO rules.member VALUES (2, now() + interval '1 day', 'new', 'new', 'new');
UPDATE rules.member SET id = 1 WHERE id = 2;
SELECT nick, column_name, state, decided_by, citation
    FROM rules.member m, custodian.explain_row('rules.member', jsonb_build_object('id', 1, 'nick', m.nick)) ORDER BY 1, 2;

DROP EXTENSION pg_custodian;
DROP SCHEMA rules CASCADE;
DROP ROLE regress_rules_counsel;
