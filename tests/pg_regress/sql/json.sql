-- Paths inside JSON documents: cells of their own.
CREATE EXTENSION pg_custodian;
ALTER SYSTEM SET custodian.max_disposal_fraction = 1;
SELECT pg_reload_conf();
\c -
SHOW custodian.max_disposal_fraction;
SELECT custodian.define_purpose('shop.account', 'contract', '1 year');
SELECT custodian.define_purpose('shop.support', 'contract', '3 years');
CREATE TABLE profile (id int PRIMARY KEY, doc jsonb NOT NULL, old json, seen timestamptz NOT NULL);
SELECT custodian.tag_table('profile', clock => 'seen');

--
-- Tags
--
SELECT custodian.tag_column('profile', 'doc', 'user.contact.email', '{shop.account}', on_expiry => 'set_null',
                            residency => '{cn,de}', path => '{contact,email}');
SELECT custodian.tag_column('profile', 'doc', 'user.contact.phone', '{shop.account}', on_expiry => '{"mask":2}',
                            residency => '{cn}', path => '{contact,phone}');
SELECT custodian.tag_column('profile', 'doc', 'user.name', '{shop.account}', on_expiry => 'hmac', path => '{name}');
SELECT custodian.tag_column('profile', 'doc', 'user.note', '{shop.support}', on_expiry => '{"constant":"\"gone\""}',
                            sensitivity => 'sensitive', path => '{"a.b\"c"}');
SELECT custodian.tag_column('profile', 'doc', 'user.age', '{shop.account}', on_expiry => '{"generalize":10}', path => '{0}');
SELECT custodian.tag_column('profile', 'doc', 'user.age', '{shop.account}', on_expiry => '{"generalize":10}', path => '{0}'); -- the same
SELECT column_name, kind, category, sensitivity, purposes, residency, on_expiry FROM custodian.tags ORDER BY 1;
SELECT label FROM pg_seclabels WHERE objname LIKE '%doc';

-- refused
SELECT custodian.tag_column('profile', 'doc', 'user', '{shop.account}', path => '{contact}');
SELECT custodian.tag_column('profile', 'doc', 'user', '{shop.account}', path => '{}');
SELECT custodian.tag_column('profile', 'doc', 'user', '{shop.account}', path => '{contact,NULL}');
SELECT custodian.tag_column('profile', 'doc', 'user', '{shop.nothing}', path => '{x}');
SELECT custodian.tag_column('profile', 'doc', 'user', '{shop.account}', on_expiry => 'network', path => '{x}');
SELECT custodian.tag_column('profile', 'doc', 'user', '{shop.account}', on_expiry => '{"truncate":"month"}', path => '{x}');
SELECT custodian.tag_column('profile', 'doc', 'user', '{shop.account}', on_expiry => '{"constant":"gone"}', path => '{x}');
SELECT custodian.tag_column('profile', 'doc', 'user', '{shop.account}', clock => 'id', path => '{x}');
SELECT custodian.tag_column('profile', 'old', 'user', '{shop.account}', on_expiry => 'set_null', path => '{x}');
SELECT custodian.tag_column('profile', 'id', 'user', '{shop.account}', on_expiry => 'set_null', path => '{x}');
SELECT custodian.tag_column('profile', 'doc', 'user', '{shop.account}', on_expiry => '{"constant":"{}"}');

--
-- What becomes of them
--
INSERT INTO profile VALUES
    (1, '{"contact":{"email":"a@x","phone":"12345","kept":1},"name":"Wang","a.b\"c":"n","0":47,"z":[1]}', NULL, now() - interval '2 years'),
    (2, '{"contact":{"email":"a@x","phone":"12345"},"name":"Wang","a.b\"c":"n","0":47}', NULL, now()),
    (3, '{"contact":[{"email":"a@x"}],"name":null,"0":"old"}', NULL, now() - interval '2 years'),
    (4, '[{"name":"Wang","0":1}]', NULL, now() - interval '2 years'),
    (5, '"text"', NULL, now() - interval '2 years'),
    (6, '{"name":{"first":"Wang"},"a.b\"c":{"deep":1},"contact":{"phone":7}}', NULL, now() - interval '4 years'),
    (7, 'null', NULL, now() - interval '2 years');
SELECT relation, column_names, action, reason, rows FROM custodian.preview('profile');
SELECT column_name, state, decided_by FROM custodian.explain_row('profile', '{"id":1}');
SELECT * FROM custodian.sweep_now('profile') ORDER BY rows DESC;
SELECT id, regexp_replace(doc::text, 'ps1[.][0-9a-f.]{58}', 'PSEUDONYM') AS doc FROM profile ORDER BY id;
SELECT relation, column_names, action, reason, rows FROM custodian.preview('profile');
SELECT * FROM custodian.sweep_now('profile');
SELECT column_name, state, decided_by FROM custodian.explain_row('profile', '{"id":1}');

--
-- A minimum on a path keeps that path alone, from users too
--
SELECT custodian.require_minimum('cn.tax', 'profile', '{doc}', '5 years', 'Law A, article 1');
SELECT custodian.require_minimum('cn.tax', 'profile', '{doc.nothing}', '5 years', 'Law A, article 1');
SELECT custodian.require_minimum('cn.tax', 'profile', '{doc.contact.email}', '5 years', 'Law A, article 1');
INSERT INTO profile VALUES (8, '{"contact":{"email":"a@x","phone":"12345"},"name":"Li"}', NULL, now() - interval '2 years');
SELECT column_name, state, decided_by, citation FROM custodian.explain_row('profile', '{"id":8}');
SELECT * FROM custodian.sweep_now('profile');
SELECT doc -> 'contact' AS contact FROM profile WHERE id = 8;
DELETE FROM profile WHERE id = 8;

--
-- A document that is tagged as a whole, too, stays as long as anything in it
--
SELECT custodian.untag_column('profile', 'doc', path => '{name}');
SELECT custodian.untag_column('profile', 'doc', path => '{nothing}');
CREATE TABLE ticket (id int PRIMARY KEY, "a.doc" jsonb, seen date);
SELECT custodian.tag_table('ticket', clock => 'seen');
SELECT custodian.tag_column('ticket', 'a.doc', 'user', '{shop.account}', on_expiry => 'set_null');
SELECT custodian.tag_column('ticket', 'a.doc', 'user.note', '{shop.support}', on_expiry => 'set_null', path => '{note}');
SELECT custodian.tag_column('ticket', 'a.doc', 'user.phone', '{shop.account}', on_expiry => 'set_null', path => '{phone}');
INSERT INTO ticket VALUES (1, '{"note":"n","phone":"1","x":1}', current_date - 800), (2, '{"note":"n","phone":"1"}', current_date - 2000);
SELECT column_name, state, decided_by FROM custodian.explain_row('ticket', '{"id":1}');
SELECT * FROM custodian.sweep_now('ticket');
SELECT id, "a.doc" FROM ticket ORDER BY id;
SELECT * FROM custodian.sweep_now('ticket');
-- A path that is not resolved keeps the document.
SECURITY LABEL FOR custodian ON COLUMN ticket."a.doc" IS
    '{"category":"user","sensitivity":"personal","purposes":["shop.account"],"on_expiry":"set_null",
      "paths":[{"path":["note"],"category":"user","sensitivity":"personal","purposes":["shop.none"],"on_expiry":"set_null"}]}';
SELECT column_name, state, explanation FROM custodian.explain_row('ticket', '{"id":1}');

--
-- Renames are followed
--
CREATE TABLE visit (id int PRIMARY KEY, doc jsonb, at timestamptz);
SELECT custodian.tag_column('visit', 'doc', 'user.device.ip_address', '{shop.account}', on_expiry => 'set_null', clock => 'at', path => '{ip}');
ALTER TABLE visit RENAME at TO happened;
SELECT column_name, kind, clock FROM custodian.tags WHERE relation = 'visit'::regclass;

-- A constraint that arrives later, or a type that is none any more
ALTER TABLE visit ALTER doc TYPE json;
SELECT object, problem FROM custodian.check() WHERE object LIKE '%visit%' AND code = 'tag-unresolved';
ALTER SYSTEM RESET custodian.max_disposal_fraction;
SELECT pg_reload_conf();

--
-- Tags of typed tables follow the attributes of their type
--
SET client_min_messages = warning;
CREATE TYPE contact AS (id int, email text, seen date);
CREATE TABLE contacts OF contact (PRIMARY KEY (id));
SELECT custodian.tag_table('contacts', clock => 'seen', collected => 'seen');
SELECT custodian.tag_column('contacts', 'email', 'user.contact.email', '{shop.account}', on_expiry => 'set_null');
ALTER TYPE contact RENAME ATTRIBUTE seen TO "last; seen" CASCADE;
SELECT column_name, clock, collected FROM custodian.tags WHERE relation = 'contacts'::regclass ORDER BY 1;
SELECT object, problem FROM custodian.check() WHERE object LIKE 'public.contacts%' AND severity = 'error';
