//! The region guard: rows that a session from outside may read because of their own residency, and what it must not learn
//! of others.

use integration::{Certs, ClientCert, Cluster, Output, Result, Sql, wait_until};

/// What all values of rows begin with that may not be read in region `us`.
const CANARY: &str = "canary";

/// Objects of the session from outside, which could tell what they are called with.
const LEAKS: &str = r#"
CREATE FUNCTION app.leak(text) RETURNS boolean COST 0.0001 LANGUAGE plpgsql AS
  $$ BEGIN RAISE NOTICE 'leak: %', $1; RETURN true; END $$;
CREATE FUNCTION app.leak(text, text) RETURNS boolean COST 0.0001 LANGUAGE plpgsql AS
  $$ BEGIN RAISE NOTICE 'leak: %', $1; RETURN true; END $$;
CREATE FUNCTION app.yes(text, text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true OR $1 < $2';
CREATE OPERATOR app.### (LEFTARG = text, RIGHTARG = text, FUNCTION = app.leak, RESTRICT = eqsel);
CREATE OPERATOR app.= (LEFTARG = text, RIGHTARG = text, FUNCTION = app.yes);
CREATE OPERATOR app.<!> (LEFTARG = text, RIGHTARG = text, FUNCTION = app.yes);
CREATE SEQUENCE app.s;
CREATE TABLE app.mine AS SELECT n AS id, 'us'::text AS country, 'canary-' || n AS guess FROM generate_series(1, 40) n;
"#;

const POLICY: &str = r#"
CREATE TABLE customer (id int PRIMARY KEY, country text, email text, salary int, place varchar(20));
INSERT INTO customer SELECT n, w, p || n || '@example.com', CASE WHEN p = 'canary-' THEN 100 ELSE n END, w
  FROM generate_series(1, 40) n,
       LATERAL (SELECT (ARRAY['us', 'cn', 'americas', 'mars', NULL])[n % 5 + 1]) a(w),
       LATERAL (SELECT CASE WHEN w IN ('us', 'americas') THEN 'carried-' ELSE 'canary-' END) b(p);
CREATE INDEX customer_email ON customer (email);
CREATE INDEX customer_salary ON customer (salary);
CREATE INDEX customer_country ON customer (country, email);
CREATE INDEX customer_here ON customer (id) WHERE country = 'us';
CREATE TABLE part (LIKE customer) PARTITION BY LIST (country);
CREATE TABLE part_us PARTITION OF part FOR VALUES IN ('us', 'americas');
CREATE TABLE part_other PARTITION OF part DEFAULT;
INSERT INTO part SELECT * FROM customer;
CREATE TABLE by_place AS TABLE customer;
CREATE TABLE unreviewed AS SELECT *, email AS note FROM customer;
CREATE TABLE parent (LIKE customer);
CREATE TABLE child () INHERITS (parent);
INSERT INTO child SELECT * FROM customer;
CREATE TABLE fixed AS TABLE customer;
CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE loose AS SELECT id, country COLLATE loose AS country, email, salary, place FROM customer;
CREATE VIEW here AS SELECT * FROM customer WHERE country = 'us';
CREATE VIEW here_first WITH (security_barrier) AS SELECT * FROM customer WHERE country IN ('us', 'americas');
CREATE VIEW everywhere AS SELECT * FROM customer;
CREATE TABLE own (LIKE customer);
INSERT INTO own TABLE customer;
ALTER TABLE own ENABLE ROW LEVEL SECURITY;
CREATE POLICY us ON own USING (country = 'us');
CREATE TABLE priced AS SELECT id, country, email, salary::numeric AS amount FROM customer;
CREATE INDEX ON priced (amount);
CREATE INDEX priced_range ON priced USING brin (country, email);
CREATE INDEX priced_high ON priced (id) WHERE email > 'canary';
CREATE TABLE bare (LIKE customer);
CREATE TABLE bare_child () INHERITS (bare);
INSERT INTO bare_child TABLE customer;
CREATE TABLE shared AS TABLE customer;
CREATE TABLE taken (LIKE customer);
INSERT INTO taken SELECT id, 'us', 'canary-' || id, salary, 'us' FROM customer;
CREATE TABLE broken AS TABLE customer;
SELECT custodian.define_purpose('shop.account', 'contract', '1 year');
SELECT custodian.tag_column(t, 'email', 'user.contact.email', '{shop.account}', residency => '{cn}')
  FROM unnest('{customer,part,by_place,unreviewed,parent,fixed,loose,own}'::regclass[]) t;
SELECT custodian.tag_column(t, 'salary', 'user.financial', '{shop.account}')
  FROM unnest('{customer,part,by_place,unreviewed,parent,fixed,loose,own}'::regclass[]) t;
SELECT custodian.clear_column(t, c)
  FROM unnest('{customer,part,by_place,unreviewed,parent,fixed,loose,own}'::regclass[]) t, unnest('{id,country,place}'::text[]) c;
SELECT custodian.tag_table(t, residency_column => 'country')
  FROM unnest('{customer,part,unreviewed,parent,loose,own}'::regclass[]) t;
SELECT custodian.tag_table('by_place', residency_column => 'place');
SELECT custodian.tag_column(t, 'email', 'user.contact.email', '{shop.account}', residency => '{us}')
  FROM unnest('{priced,bare,shared,broken}'::regclass[]) t;
SELECT custodian.tag_column('taken', 'email', 'user.contact.email', '{shop.account}', residency => '{cn}');
SELECT custodian.clear_column(t, c)
  FROM unnest('{bare,shared,taken,broken}'::regclass[]) t, unnest('{id,country,salary,place}'::text[]) c;
SELECT custodian.clear_column('priced', c) FROM unnest('{id,country,amount}'::text[]) c;
SELECT custodian.tag_table(t, residency_column => 'country') FROM unnest('{priced,bare_child,shared,broken}'::regclass[]) t;
UPDATE pg_seclabel SET label = '{"residency_column":1}' WHERE objoid = 'broken'::regclass AND objsubid = 0;
ANALYZE;
CREATE SCHEMA app AUTHORIZATION app;
ALTER TABLE shared OWNER TO app;
ALTER TABLE taken OWNER TO app;
GRANT ALL ON ALL TABLES IN SCHEMA public TO app;
"#;

/// Statements that pass, with the first line of what they give.
const PASS: [(&str, &str); 62] = [
    ("SELECT count(email) FROM customer WHERE country = 'us'", "8"),
    ("SELECT count(*) FROM customer WHERE country = 'us'", "8"),
    ("SELECT count(c) FROM customer c WHERE 'us' = c.country", "8"),
    ("SELECT count(email) FROM customer WHERE country IN ('us', 'americas')", "16"),
    ("SELECT count(email) FROM customer WHERE country = 'us' OR country = 'americas'", "16"),
    ("SELECT count(email) FROM customer WHERE NOT country <> 'us'", "8"),
    ("SELECT count(email) FROM customer WHERE country = 'us' AND id < 20", "3"),
    ("SELECT count(email) FROM customer WHERE (country = 'us' AND id < 20) OR (country = 'americas' AND id < 10)", "5"),
    ("SELECT count(email) FROM by_place WHERE place = 'us'", "8"),
    ("SELECT count(email) FROM by_place WHERE place IN ('us', 'americas')", "16"),
    // What could tell values is evaluated on these rows alone, in whichever order it is written.
    ("SELECT count(*) FROM customer WHERE app.leak(email) AND country = 'us'", "8"),
    ("SELECT count(*) FROM customer WHERE country = 'us' AND app.leak(email)", "8"),
    ("SELECT count(*) FROM customer WHERE app.leak(email) AND country IN ('us', 'americas')", "16"),
    ("SELECT count(*) FROM customer WHERE email OPERATOR(app.###) 'x' AND country = 'us'", "8"),
    ("SELECT count(*) FROM customer WHERE 1 / (salary - 100) = 0 AND country = 'us'", "8"),
    ("SELECT count(*) FROM customer WHERE email::int > 0 AND country = 'us' AND id < 0", "0"),
    ("SELECT count(*) FROM customer WHERE email LIKE 'carried%' AND country = 'us'", "8"),
    ("SELECT app.leak(email) FROM customer WHERE country = 'us' LIMIT 1", "t"),
    ("SELECT count(*) FROM (SELECT * FROM customer WHERE country = 'us' OFFSET 0) c WHERE app.leak(email)", "8"),
    // Indexes.
    ("SET enable_seqscan = off; SELECT count(email) FROM customer WHERE country = 'us'", "8"),
    ("SET enable_seqscan = off; SELECT count(*) FROM customer WHERE country = 'us' AND email = 'canary-1@example.com'", "0"),
    ("SET enable_seqscan = off; SELECT count(*) FROM customer WHERE country = 'us' AND email BETWEEN 'a' AND 'z'", "8"),
    ("SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(email) FROM customer WHERE country IN ('us', 'americas') AND id = 2", "1"),
    ("SET enable_seqscan = off; SET enable_indexscan = off; SELECT count(email) FROM customer WHERE country = 'us' AND id IN (5, 10)", "2"),
    ("SET enable_seqscan = off; SET enable_indexscan = off; SELECT count(email) FROM customer WHERE country = 'us' OR country = 'americas'", "16"),
    ("SET enable_seqscan = off; SELECT count(salary) FROM customer WHERE country = 'us' AND id = 5", "1"),
    ("SELECT max(email) FROM customer WHERE country = 'us'", "carried-5@example.com"),
    ("SELECT count(email) FROM customer WHERE country = 'us' AND salary > 99 AND email > 'canary'", "0"),
    // What an operator that is not leakproof tells of a column that anybody may read is no secret.
    ("SET enable_seqscan = off; SELECT count(email) FROM priced WHERE country = 'us' AND amount = 5", "1"),
    // Indexes that are left out: one that is no B-tree, and one with a predicate on what may not be read of every row.
    ("SET enable_seqscan = off; SELECT count(email) FROM priced WHERE country = 'us' AND email > 'c'", "8"),
    ("SET enable_seqscan = off; SELECT count(*) FROM priced WHERE country = 'us' AND email > 'canary' AND id = 1", "0"),
    // Views, subqueries, joins.
    ("SELECT count(email) FROM here WHERE app.leak(email)", "8"),
    ("SELECT count(email) FROM here_first WHERE app.leak(email)", "16"),
    ("SELECT count(email) FROM everywhere WHERE country = 'us'", "8"),
    ("SELECT count(email) FROM own WHERE country = 'us'", "8"),
    ("SELECT count(email) FROM own", "8"),
    ("WITH c AS (SELECT * FROM customer) SELECT count(email) FROM c WHERE country = 'us'", "8"),
    ("WITH c AS MATERIALIZED (SELECT * FROM customer WHERE country = 'us') SELECT count(email) FROM c", "8"),
    ("SELECT count(c.email) FROM customer c JOIN app.mine m USING (id) WHERE c.country = 'us'", "8"),
    ("SELECT count(c.email) FROM customer c JOIN app.mine m USING (country) WHERE m.country = 'us'", "320"),
    ("SELECT count(c.email) FROM app.mine m LEFT JOIN customer c ON c.id = m.id AND c.country = 'us'", "8"),
    ("SELECT count(*) FROM app.mine m WHERE EXISTS (SELECT FROM customer c WHERE c.country = 'us' AND c.id = m.id)", "8"),
    ("SELECT count(email) FROM (SELECT email FROM customer WHERE country = 'us' UNION ALL SELECT email FROM part WHERE country = 'us') u", "16"),
    ("SELECT count(email) FROM part WHERE country IN ('us', 'americas')", "16"),
    ("SELECT count(email) FROM parent WHERE country = 'us'", "8"),
    // Ways to run it.
    ("COPY (SELECT count(email) FROM customer WHERE country = 'us') TO STDOUT", "8"),
    ("BEGIN; DECLARE c CURSOR FOR SELECT email FROM customer WHERE country = 'us' ORDER BY id; FETCH c", "carried-5@example.com"),
    ("SET plan_cache_mode = force_custom_plan; PREPARE p(text) AS SELECT count(email) FROM customer WHERE country = $1; EXECUTE p('us')", "8"),
    // Plans for all values of their parameters are judged by those of the execution.
    ("SET plan_cache_mode = force_generic_plan; PREPARE p(text) AS SELECT count(email) FROM customer WHERE country = $1; EXECUTE p('us')", "8"),
    ("SET plan_cache_mode = force_generic_plan; PREPARE p(varchar) AS SELECT count(email) FROM customer WHERE country = $1; EXECUTE p('us')", "8"),
    ("SET plan_cache_mode = force_generic_plan; PREPARE p(text, text) AS SELECT count(email) FROM customer WHERE country IN ($1, $2);
      EXECUTE p('us', 'americas')", "16"),
    ("SET plan_cache_mode = force_generic_plan; PREPARE p(text[]) AS SELECT count(email) FROM customer WHERE country = ANY ($1);
      EXECUTE p('{us,americas}')", "16"),
    ("SET plan_cache_mode = force_generic_plan; PREPARE p(text) AS SELECT count(email) FROM customer WHERE country = $1; EXECUTE p(NULL)", "0"),
    ("SET plan_cache_mode = force_generic_plan; PREPARE p(text, text) AS SELECT count(*) FROM customer WHERE app.leak(email || $2) AND country = $1;
      EXECUTE p('us', 'x')", "8"),
    ("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; PREPARE p(text, text) AS
      SELECT count(*) FROM customer WHERE country = $1 AND email > $2; EXECUTE p('us', 'a')", "8"),
    ("SET plan_cache_mode = force_generic_plan; PREPARE p(text) AS SELECT count(email) FROM part WHERE country = $1; EXECUTE p('us')", "8"),
    ("SET plan_cache_mode = force_generic_plan; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
      SET force_parallel_mode = on; PREPARE p(text) AS SELECT count(email) FROM customer WHERE country = $1; EXECUTE p('us')", "8"),
    ("SET plan_cache_mode = force_generic_plan; CREATE FUNCTION pg_temp.f(c text) RETURNS bigint LANGUAGE plpgsql AS
      'BEGIN RETURN (SELECT count(email) FROM customer WHERE country = c); END'; SELECT pg_temp.f('us')", "8"),
    ("SET plan_cache_mode = force_generic_plan; CREATE FUNCTION pg_temp.f(c text) RETURNS SETOF bigint LANGUAGE sql VOLATILE AS
      'SELECT count(email) FROM customer WHERE country = c'; SELECT pg_temp.f('us')", "8"),
    // A plan of a cursor has copies of the variables that it was opened with.
    ("SET plan_cache_mode = force_generic_plan; CREATE FUNCTION pg_temp.f(c text) RETURNS bigint LANGUAGE plpgsql AS
      'DECLARE n bigint = 0; r record; BEGIN FOR r IN SELECT email FROM customer WHERE country = c LOOP c = ''cn''; n = n + 1; END LOOP;
       RETURN n; END'; SELECT pg_temp.f('us')", "8"),
    ("CREATE TEMP TABLE t AS SELECT email FROM customer WHERE country = 'us'; SELECT 8", "8"),
    ("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET force_parallel_mode = on;
      SELECT count(email) FROM customer WHERE country = 'us'", "8"),
];

/// Statements that are refused.
const REFUSED: [&str; 65] = [
    "SELECT email FROM customer",
    "SELECT count(*) FROM customer",
    "SELECT id FROM customer WHERE email = 'canary-1@example.com'",
    "TABLE customer",
    "SELECT email FROM customer WHERE country = 'cn'",
    "SELECT email FROM customer WHERE country IN ('us', 'cn')",
    "SELECT email FROM customer WHERE country = 'us' OR id = 1",
    "SELECT email FROM customer WHERE country <> 'cn'",
    "SELECT email FROM customer WHERE country IS NULL",
    "SELECT email FROM customer WHERE (country = 'us') IS NOT FALSE",
    "SELECT email FROM customer WHERE country LIKE 'us'",
    "SELECT email FROM customer WHERE lower(country) = 'us'",
    "SELECT email FROM customer WHERE country COLLATE \"C\" = 'us'",
    "SELECT email FROM customer WHERE country >= 'us'",
    "SELECT email FROM customer WHERE place = 'us'",
    "SELECT email FROM by_place WHERE country = 'us'",
    "SELECT email FROM customer WHERE CASE WHEN country = 'us' THEN true ELSE app.leak(email) END",
    // Parts of a condition are evaluated by what others say: that something is called at all tells.
    "SELECT id FROM (SELECT *, country COLLATE \"C\" AS a, country COLLATE \"POSIX\" AS b FROM customer) s WHERE (country = 'us' AND id < 0) OR (email >= 'canary-1@example.com' AND a = b AND country = 'americas')",
    "SELECT id FROM customer WHERE (country = 'us' AND id < 0) OR (email >= 'canary-1@example.com' AND nextval('app.s') > 0 AND country = 'americas')",
    "SELECT id FROM customer WHERE (country = 'us' AND id < 0) OR (email >= 'canary-1@example.com' AND 1 / length(current_setting('c.z', true)) = 0 AND country = 'americas')",
    "SELECT id FROM customer WHERE (country = 'us' AND id < 0) OR (email >= 'canary-1@example.com' AND (SELECT app.leak('hit')) AND country = 'americas')",
    // A child has a residency of its own that its parent does not know.
    "SELECT email FROM bare",
    "SELECT email FROM bare WHERE country = 'us'",
    // Whoever owns both puts a table with tags of its own below one whose rows say where they may be.
    "BEGIN; ALTER TABLE taken INHERIT shared; SELECT email FROM taken WHERE country = 'us'",
    "BEGIN; ALTER TABLE taken INHERIT shared; SELECT email FROM shared WHERE country = 'us'",
    // Nobody can read what the tag of the table says.
    "SELECT email FROM broken",
    "SELECT email FROM customer WHERE country = (SELECT 'us')",
    "SELECT email FROM customer WHERE country = current_setting('custom.country', true)",
    "SELECT email FROM customer WHERE country OPERATOR(app.=) 'us'",
    "SET search_path = app, pg_catalog, public; SELECT email FROM customer WHERE country = 'us'",
    "SELECT email FROM customer WHERE country OPERATOR(app.<!>) 'us'",
    "SET plan_cache_mode = force_generic_plan; PREPARE p(text) AS SELECT email FROM customer WHERE country = $1; EXECUTE p('cn')",
    "SET plan_cache_mode = force_generic_plan; PREPARE p(text) AS SELECT count(email) FROM customer WHERE country = $1; EXECUTE p('us'); EXECUTE p('cn')",
    "SET plan_cache_mode = force_generic_plan; PREPARE p(text, text) AS SELECT email FROM customer WHERE country IN ($1, $2); EXECUTE p('us', 'cn')",
    "SET plan_cache_mode = force_generic_plan; PREPARE p(text[]) AS SELECT email FROM customer WHERE country = ANY ($1); EXECUTE p('{us,cn}')",
    "SET plan_cache_mode = force_generic_plan; PREPARE p(text, text) AS SELECT email FROM customer WHERE country = $1 OR email = $2; EXECUTE p('us', 'x')",
    "SET plan_cache_mode = force_generic_plan; PREPARE p(name) AS SELECT email FROM customer WHERE country = $1; EXECUTE p('us')",
    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; PREPARE p(text) AS SELECT count(email) FROM customer WHERE country = $1; EXECUTE p('cn')",
    "SET plan_cache_mode = force_generic_plan; CREATE FUNCTION pg_temp.f(c text) RETURNS text LANGUAGE plpgsql AS
      'BEGIN RETURN (SELECT max(email) FROM customer WHERE country = c); END'; SELECT pg_temp.f('cn')",
    // An array of values that is made for each row could fail, or be too large, only for some.
    "SET plan_cache_mode = force_generic_plan; PREPARE p(int) AS
      SELECT id FROM customer WHERE (country = 'us' AND id = 1) OR (email = 'canary-1@example.com' AND id = ANY (ARRAY[1 / $1]) AND country = 'americas');
      EXECUTE p(0)",
    "SELECT (SELECT max(email) FROM customer c WHERE c.country = m.country) FROM app.mine m",
    "SELECT c.email FROM customer c LEFT JOIN app.mine m ON c.country = 'us' AND c.id = m.id",
    "SELECT c.email, d.email FROM customer c, customer d WHERE c.country = 'us'",
    "WITH c AS MATERIALIZED (SELECT * FROM customer) SELECT * FROM c WHERE country = 'us'",
    "SELECT * FROM (SELECT * FROM customer OFFSET 0) c WHERE country = 'us'",
    "SELECT email FROM customer WHERE country = 'us' UNION ALL SELECT email FROM customer",
    "SELECT email FROM unreviewed WHERE country = 'us' AND note <> ''",
    "SELECT * FROM unreviewed WHERE country = 'us'",
    "SELECT email FROM fixed WHERE country = 'us'",
    "SELECT email FROM loose WHERE country = 'us'",
    "SELECT email FROM parent",
    "SELECT email FROM child",
    "SELECT email FROM part_other WHERE country = 'cn'",
    "EXPLAIN SELECT email FROM customer WHERE country = 'us'",
    "EXPLAIN ANALYZE SELECT email FROM customer WHERE country = 'us' AND email = 'canary-1@example.com'",
    "SELECT email FROM customer WHERE country = 'us' FOR UPDATE",
    "SELECT email FROM customer WHERE country = 'us' FOR KEY SHARE",
    "UPDATE customer SET place = 'x' WHERE country = 'us' RETURNING email",
    "DELETE FROM customer WHERE country = 'us' RETURNING email",
    "INSERT INTO app.mine SELECT id, country, email FROM customer WHERE country = 'us'",
    "WITH w AS (INSERT INTO app.mine SELECT id, country, email FROM customer WHERE country = 'us' RETURNING *) TABLE w",
    "SELECT email FROM customer TABLESAMPLE system (100) WHERE country = 'us'",
    "SET enable_seqscan = off; SET enable_indexscan = off; SET enable_bitmapscan = off; SELECT email FROM customer WHERE ctid = '(0,1)' AND country = 'us'",
    "COPY customer (email) TO STDOUT",
    "COPY (SELECT email FROM customer) TO STDOUT",
];

struct Stage {
    node: Cluster,
    /// Its files are there as long as it is.
    _certs: Certs,
    us: ClientCert,
    cn: ClientCert,
}

impl Stage {
    fn new() -> Result<Stage> {
        let certs = Certs::new(&["cn", "us"])?;
        let rules = format!(
            "region cn\nregion americas\nregion us in americas\nlocal postgres\nissuer \"{}\" cn\nissuer \"{}\" us\n",
            Certs::issuer_dn("cn"),
            Certs::issuer_dn("us")
        );
        let node = Cluster::builder("rows")
            .preload("pg_custodian")
            .loopback()
            .tls(&certs, "cn")?
            .conf("custodian.region = 'cn'")
            .conf("custodian.disposal = off")
            .file("custodian_regions.conf", &rules)
            .start()?;
        node.exec("CREATE EXTENSION pg_custodian; CREATE ROLE app LOGIN")?;
        node.exec(POLICY)?;
        let stage = Stage {
            us: certs.client("us", "app")?,
            cn: certs.client("cn", "app")?,
            _certs: certs,
            node,
        };
        stage.from(&stage.us, LEAKS)?.ok()?;
        stage.node.exec(
            "SELECT custodian.clear_column('app.mine', c) FROM unnest('{id,country,guess}'::text[]) c",
        )?;
        stage.node.alter_system("custodian.enforce", "on")?;
        Ok(stage)
    }

    fn from(&self, cert: &ClientCert, sql: &str) -> Result<Output> {
        self.node
            .program("psql")?
            .over_tcp()
            .role("app")
            .cert(cert)
            .args([
                "-X",
                "-A",
                "-t",
                "-q",
                "-v",
                "ON_ERROR_STOP=1",
                "-v",
                "VERBOSITY=verbose",
            ])
            .stdin(sql)
            .run()
    }

    fn events(&self, outcome: &str) -> Result<String> {
        self.node.text(&format!(
            "SELECT coalesce(sum(count), 0) FROM custodian.guard_events WHERE gate = 'access' AND outcome = '{outcome}' AND role = 'app'"
        ))
    }
}

#[test]
fn rows_pass_by_their_own_residency_and_nothing_of_others_is_told() -> Result<()> {
    let stage = Stage::new()?;
    let mut wrong = Vec::new();
    for (sql, first) in PASS {
        let output = stage.from(&stage.us, sql)?;
        let lines = output.stdout.lines().next().unwrap_or_default();
        if !output.success() || lines != first || output.all().contains(CANARY) {
            wrong.push(format!("should give {first}: {sql}: {output}"));
        }
    }
    for sql in REFUSED {
        let output = stage.from(&stage.us, sql)?;
        // The guess is the statement's own.
        let text = output.all().replace("canary-1@example.com", "");
        if output.success() || !text.contains("42501") || text.contains(CANARY) {
            wrong.push(format!("should be refused: {sql}: {output}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // No index was searched by what may not be read of every row: the server's counts would tell.
    let searched = "SELECT sum(idx_scan) FROM pg_stat_user_indexes WHERE indexrelname IN ('customer_email', 'customer_salary', 'priced_high', 'priced_range')";
    assert_eq!(stage.node.text(searched)?, "0");
    assert_eq!(stage.node.text("SELECT is_called FROM app.s")?, "f");
    // A session inside passes with all of them that are not errors of their own.
    let inside = stage.from(&stage.cn, "SELECT email FROM customer")?;
    assert!(inside.ok()?.contains(CANARY));

    // A refusal names the condition that would be lawful.
    let refused = stage.from(&stage.us, "SELECT email FROM customer")?.all();
    for part in [
        "Refused columns: public.customer.email (user.contact.email, residency cn).",
        "The query's conditions do not imply, in constants or parameters, that it reads only rows that may be there.",
        "Add to each use of the table the condition country IN ('us', 'americas'), in constants or parameters of the column's type.",
    ] {
        assert!(refused.contains(part), "{part:?} is not in {refused}");
    }
    let explained = stage
        .from(
            &stage.us,
            "EXPLAIN SELECT email FROM customer WHERE country = 'us'",
        )?
        .all();
    assert!(
        explained.contains("EXPLAIN, also by auto_explain.log_analyze, row locks"),
        "{explained}"
    );

    // In warn, what passes by its rows is not recorded, and the rest is, also after that in one session.
    stage.node.alter_system("custodian.enforce", "warn")?;
    let lawful = "SELECT max(email) FROM customer WHERE country = 'us'";
    stage.from(&stage.us, lawful)?.ok()?;
    assert_eq!(stage.events("warned")?, "0");
    stage
        .from(
            &stage.us,
            &format!("{lawful}; SELECT max(email) FROM customer; {lawful}"),
        )?
        .ok()?;
    assert_eq!(stage.events("warned")?, "1");
    Ok(())
}

#[test]
fn the_planner_shows_no_statistics_to_operators_of_a_session_outside() -> Result<()> {
    let stage = Stage::new()?;
    let node = &stage.node;
    node.exec(
        "CREATE STATISTICS pairs (mcv) ON email, country FROM customer; ANALYZE customer;
         CREATE TABLE plain AS SELECT id, country, 'canary'::text AS email FROM customer;
         SELECT custodian.tag_column('plain', 'email', 'user.contact.email', '{shop.account}', residency => '{cn}');
         SELECT custodian.clear_column('plain', c) FROM unnest('{id,country}'::text[]) c;
         GRANT SELECT ON plain TO app; ANALYZE plain",
    )?;
    let statements = [
        "EXPLAIN SELECT id FROM plain WHERE email OPERATOR(app.###) 'x'",
        "SELECT id FROM plain WHERE email OPERATOR(app.###) 'x'",
        "PREPARE p AS SELECT id FROM plain WHERE email OPERATOR(app.###) 'x'; EXECUTE p",
        "SELECT id FROM customer WHERE email OPERATOR(app.###) 'x' AND country = 'cn'",
    ];
    for sql in statements {
        let output = stage.from(&stage.us, sql)?;
        assert!(!output.success(), "{sql}: {output}");
        assert!(!output.all().contains(CANARY), "{sql}: {output}");
    }
    // Nor is the width of what ANALYZE saw in the plan, which is shown before anybody asks whether it may be executed.
    let width = "SET debug_print_plan = on; SET client_min_messages = log; SELECT email FROM plain";
    let shown = stage.from(&stage.us, width)?;
    assert!(!shown.success(), "{shown}");
    assert!(shown.all().contains(":plan_width 32"), "{shown}");
    // Without the gate the planner would have called it: that is what this is about.
    node.alter_system("custodian.enforce_access", "off")?;
    let told = stage.from(&stage.us, statements[0])?.all();
    assert!(told.contains(CANARY), "{told}");
    let told = stage.from(&stage.us, width)?.all();
    assert!(told.contains(":plan_width 7"), "{told}");
    Ok(())
}

#[test]
fn copies_of_rows_with_a_residency_of_their_own_may_be_nowhere_else() -> Result<()> {
    let stage = Stage::new()?;
    stage
        .from(
            &stage.cn,
            "CREATE TABLE app.copied AS SELECT id, email FROM shared;
             CREATE MATERIALIZED VIEW app.seen AS SELECT id, email FROM shared;
             CREATE TABLE app.alike (LIKE shared);",
        )?
        .ok()?;
    assert_eq!(
        stage.node.text(
            "SELECT count(*) FROM custodian.tags WHERE kind = 'derived' AND column_name = 'email' AND residency IS NULL
             AND relation IN ('app.copied'::regclass, 'app.seen'::regclass, 'app.alike'::regclass)"
        )?,
        "3"
    );
    for copy in ["copied", "seen", "alike"] {
        let output = stage.from(&stage.us, &format!("SELECT email FROM app.{copy}"))?;
        assert!(
            !output.success() && output.all().contains("42501"),
            "{copy}: {output}"
        );
        assert!(!output.all().contains(CANARY), "{copy}: {output}");
    }
    Ok(())
}

#[test]
fn an_owner_puts_no_other_column_in_the_place_of_the_residency() -> Result<()> {
    let stage = Stage::new()?;
    let named = "SELECT string_agg(relation || '.' || residency_column, ',' ORDER BY relation::text) FROM custodian.tags
                 WHERE residency_column IS NOT NULL AND relation IN ('shared'::regclass, 'bare_child'::regclass)";
    for sql in [
        "ALTER TABLE shared DROP COLUMN country",
        "ALTER TABLE shared DROP COLUMN country CASCADE, ADD COLUMN country text DEFAULT 'us'",
    ] {
        let output = stage.from(&stage.us, sql)?;
        assert!(
            !output.success() && output.all().contains("55000"),
            "{sql}: {output}"
        );
        assert!(output.all().contains("HINT"), "{sql}: {output}");
    }
    // From the parent, too.
    let error = stage
        .node
        .client()?
        .refused("ALTER TABLE bare DROP COLUMN country");
    assert_eq!(error.sqlstate(), "55000", "{error}");
    // The first tag of a table would let rows through that its columns' tags do not, those that they get later included.
    stage
        .from(
            &stage.us,
            "CREATE TABLE app.young (id int, email text, land text DEFAULT 'us')",
        )?
        .ok()?;
    for sql in [
        "SELECT custodian.tag_table('taken', residency_column => 'country')",
        "SELECT custodian.tag_table('app.young', residency_column => 'land')",
        r#"SECURITY LABEL FOR custodian ON TABLE app.young IS '{"residency_column":"land"}'"#,
    ] {
        let output = stage.from(&stage.us, sql)?;
        assert!(
            !output.success() && output.all().contains("42501"),
            "{sql}: {output}"
        );
    }
    stage.node.exec(
        "INSERT INTO app.young VALUES (1, 'canary-1');
         SELECT custodian.tag_column('app.young', 'email', 'user.contact.email', '{shop.account}', residency => '{cn}');
         SELECT custodian.clear_column('app.young', c) FROM unnest('{id,land}'::text[]) c",
    )?;
    let output = stage.from(&stage.us, "SELECT email FROM app.young WHERE land = 'us'")?;
    assert!(
        !output.success() && !output.all().contains(CANARY),
        "{output}"
    );
    assert_eq!(stage.node.text(named)?, "bare_child.country,shared.country");
    // Nor does the first tag of a column open it, by a residency or by that of each row, or through a parent's tag.
    stage
        .node
        .exec("ALTER TABLE taken ADD note text DEFAULT 'canary'; ALTER TABLE shared ADD note text DEFAULT 'canary'")?;
    for sql in [
        "SELECT custodian.tag_column('taken', 'note', 'user.content', '{shop.account}', residency => '{us}')",
        r#"SECURITY LABEL FOR custodian ON COLUMN taken.note IS
             '{"category":"user.content","sensitivity":"personal","purposes":["shop.account"],"residency":["us"]}'"#,
        r#"SECURITY LABEL FOR custodian ON COLUMN taken.note IS
             '{"derived":{"categories":["user.content"],"sensitivity":"personal","residency":["us"]}}'"#,
        "SELECT custodian.tag_column('shared', 'note', 'user.content', '{shop.account}')",
        r#"CREATE TABLE app.above (note text);
           SECURITY LABEL FOR custodian ON COLUMN app.above.note IS
             '{"category":"user.content","sensitivity":"personal","purposes":["shop.account"],"residency":["us"]}'"#,
    ] {
        let output = stage.from(&stage.us, sql)?;
        assert!(
            !output.success() && output.all().contains("Nobody has reviewed it"),
            "{sql}: {output}"
        );
        let read = stage.from(&stage.us, "SELECT note FROM taken")?;
        assert!(!read.success() && !read.all().contains(CANARY), "{read}");
    }
    let closed = "SELECT custodian.tag_column('taken', 'note', 'user.content', '{shop.account}')";
    stage.from(&stage.us, closed)?.ok()?;
    let inside = "SELECT custodian.tag_column('shared', 'note', 'user.content', '{shop.account}', residency => '{cn}')";
    stage.from(&stage.cn, inside)?.ok()?;
    // The tag follows a rename.
    stage
        .from(
            &stage.us,
            "ALTER TABLE shared RENAME COLUMN country TO land; ALTER TABLE shared RENAME COLUMN place TO country",
        )?
        .ok()?;
    assert_eq!(stage.node.text(named)?, "bare_child.country,shared.land");
    // A steward takes it off first; and the table goes with all its columns.
    stage.node.exec(
        "SELECT custodian.untag_table('shared'); ALTER TABLE shared DROP COLUMN land; DROP TABLE bare CASCADE",
    )?;
    Ok(())
}

#[test]
fn plans_made_in_warn_are_made_anew_in_on() -> Result<()> {
    let stage = Stage::new()?;
    let node = &stage.node;
    node.alter_system("custodian.enforce", "warn")?;
    let mut holder = node.client()?;
    holder.text("SELECT pg_advisory_lock(1)")?;
    let session = node
        .program("psql")?
        .over_tcp()
        .role("app")
        .cert(&stage.us)
        .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"])
        .stdin(
            "SET enable_seqscan = off;
             PREPARE p AS SELECT count(*) FROM priced WHERE country = 'us' AND email > 'canary' AND id = 1;
             EXECUTE p; SELECT pg_advisory_lock(1); EXECUTE p;",
        )
        .start()?;
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    wait_until("the session waits", 60, || {
        node.text(waits).is_ok_and(|n| n == "1")
    });
    let scans = "SELECT idx_scan > 0 FROM pg_stat_user_indexes WHERE indexrelname = 'priced_high'";
    node.alter_system("custodian.enforce", "on")?;
    holder.text("SELECT pg_advisory_unlock(1)")?;
    let output = session.wait(60)?;
    assert_eq!(output.ok()?.matches('0').count(), 2);
    // That the plan was another one in warn.
    assert_eq!(node.text(scans)?, "t");
    Ok(())
}
