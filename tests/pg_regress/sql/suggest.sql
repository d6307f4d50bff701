-- Columns that look personal: suggestions by names, types, comments and values, and the coverage of reviews.
SET client_min_messages = warning;
CREATE EXTENSION pg_custodian;
CREATE ROLE regress_suggest_owner;
CREATE ROLE regress_suggest_stranger;
CREATE SCHEMA app AUTHORIZATION regress_suggest_owner;
GRANT USAGE ON SCHEMA app TO regress_suggest_stranger;
SET ROLE regress_suggest_owner;
CREATE DOMAIN app.short AS text CHECK (length(value) < 100);
CREATE TABLE app.person (
    id bigint PRIMARY KEY,
    name text,
    "Kontakt's" app.short,
    a1 text,
    a2 text,
    a3 text,
    a4 varchar(40),
    a5 bigint,
    a6 text,
    a7 text,
    addr inet NOT NULL,
    "身份证" text,
    "备注" text,
    email_verified boolean,
    note text,
    fax text
);
COMMENT ON COLUMN app.person.note IS '客户的联系电话';
INSERT INTO app.person
SELECT n, 'x', 'u' || n || '@example.com', 'DE89370400440532013000', '4111 1111 1111 1111', '10.0.0.' || n, '11010519491231002X',
       13800000000 + n, '00:11:22:33:44:' || lpad(to_hex(n), 2, '0'), '39.9' || lpad(n::text, 3, '0') || ',116.4074', '10.1.2.3', NULL,
       CASE n % 10 WHEN 0 THEN 'a' || n || '@example.org' ELSE 'nothing' END, true, NULL, ''
FROM generate_series(1, 50) n;
CREATE TABLE app.product (id int PRIMARY KEY, name text, price numeric);
SELECT column_name, category, sensitivity, state, evidence, matched, sampled, ratio FROM custodian.suggest_tags('app.person');
SELECT suggestion FROM custodian.suggest_tags('app.person');
SELECT * FROM custodian.suggest_tags('app.product');

-- Without values, by names, types and comments alone
SELECT column_name, category, evidence FROM custodian.suggest_tags('app.person', 0);
SELECT relation, columns, tagged, cleared, unreviewed, looks_personal, personal_columns FROM custodian.coverage;
SELECT relation, looks_personal FROM custodian.review_coverage('app.person', sample_rows => 100);
SELECT * FROM custodian.suggest_tags('app.person', -1);
SELECT * FROM custodian.suggest_tags('app.person', NULL);
SELECT * FROM custodian.suggest_tags(NULL);
SELECT * FROM custodian.suggest_tags('pg_class');
SELECT * FROM custodian.suggest_tags('pg_roles');
SET ROLE regress_suggest_stranger;
SELECT * FROM custodian.suggest_tags('app.person');
SELECT * FROM custodian.review_coverage('app.person');
SELECT count(*) FROM custodian.coverage;
RESET ROLE;

-- A suggestion can be run when its purposes are named; those of the table are taken over. What was cleared is told.
SELECT custodian.define_purpose('app.account', 'contract', '1 year');
SELECT custodian.tag_column('app.person', 'note', 'user.contact.phone_number', '{app.account}', on_expiry => 'set_null');
SELECT custodian.clear_column('app.person', 'fax');
SELECT suggestion AS suggestion FROM custodian.suggest_tags('app.person') WHERE column_name LIKE 'Kontakt%' \gset
:suggestion;
SELECT column_name, state, suggestion FROM custodian.suggest_tags('app.person') WHERE column_name ~ '^(Kontakt|note|addr|fax)';
SELECT tagged, cleared, unreviewed, looks_personal FROM custodian.coverage WHERE relation = 'app.person'::regclass;
SELECT code, object, problem FROM custodian.check() WHERE code IN ('personal-unreviewed', 'tables-unreviewed');

-- Values are read as the owner of each leaf, whose code gains nothing; what it breaks is said.
CREATE TABLE public.trap (id int, c text) PARTITION BY RANGE (id);
CREATE TABLE public.trap_1 PARTITION OF public.trap FOR VALUES FROM (0) TO (10);
CREATE TABLE public.trap_2 PARTITION OF public.trap FOR VALUES FROM (10) TO (20);
INSERT INTO public.trap VALUES (1, 'a@example.com'), (11, 'b@example.com');
GRANT CREATE ON SCHEMA public TO regress_suggest_owner;
ALTER TABLE public.trap_2 OWNER TO regress_suggest_owner;
SET ROLE regress_suggest_owner;
CREATE FUNCTION app.boom() RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN RAISE EXCEPTION '%', current_user; END $$;
ALTER TABLE public.trap_2 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.trap_2 FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON public.trap_2 USING (app.boom());
RESET ROLE;
SELECT column_name, matched, sampled FROM custodian.suggest_tags('public.trap');
REVOKE ALL ON public.trap_2 FROM regress_suggest_owner;
SET client_min_messages = notice;
SELECT column_name, matched, sampled FROM custodian.suggest_tags('public.trap');
