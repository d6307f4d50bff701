//! Erasure of a subject: what is optional goes at once and does not come back, what must stay says why, and nobody
//! learns from it who was erased.

use integration::{Cluster, Result, Sql, poll};

/// Three customers with orders and letters, all recent; the tables belong to an ordinary role.
const SCHEMA: &str = "
    CREATE EXTENSION pg_custodian;
    CREATE ROLE app LOGIN;
    CREATE ROLE counsel LOGIN;
    CREATE SCHEMA shop AUTHORIZATION app;
    CREATE TABLE shop.customer (id text PRIMARY KEY, email text, phone text, seen timestamptz NOT NULL DEFAULT now());
    CREATE TABLE shop.orders (id bigint PRIMARY KEY, customer_id text REFERENCES shop.customer, address text,
                              placed timestamptz NOT NULL DEFAULT now());
    CREATE TABLE shop.letter (id bigint PRIMARY KEY, customer_id text REFERENCES shop.customer, body text,
                              sent timestamptz NOT NULL DEFAULT now());
    ALTER TABLE shop.customer OWNER TO app;
    ALTER TABLE shop.orders OWNER TO app;
    ALTER TABLE shop.letter OWNER TO app;
    INSERT INTO shop.customer SELECT n, 'mail-' || n, 'phone-' || n, now() - interval '2 days' FROM generate_series(1, 3) n;
    INSERT INTO shop.orders SELECT n, n, 'street-' || n, now() - interval '2 days' FROM generate_series(1, 3) n;
    INSERT INTO shop.letter SELECT n, n, 'body-' || n, now() - interval '2 days' FROM generate_series(1, 3) n;
    SELECT custodian.define_purpose('shop.account', 'contract', '1 year');
    SELECT custodian.define_purpose('shop.news', 'contract', '3 years', required => false);
    SELECT custodian.define_purpose('shop.mail', 'consent', '3 years', required => false);
    SELECT custodian.tag_table('shop.customer', clock => 'seen', subject_kind => 'customer', subject_key => '{id}');
    SELECT custodian.tag_column('shop.customer', 'email', 'user.contact.email', '{shop.account,shop.news}', on_expiry => 'set_null');
    SELECT custodian.tag_column('shop.customer', 'phone', 'user.contact.phone_number', '{shop.news}', on_expiry => 'set_null');
    SELECT custodian.tag_table('shop.orders', clock => 'placed', subject_kind => 'customer', subject_via => '{customer_id}');
    SELECT custodian.tag_column('shop.orders', 'address', 'user.contact.address', '{shop.news}', on_expiry => 'set_null');
    SELECT custodian.tag_table('shop.letter', clock => 'sent', subject_kind => 'customer', subject_via => '{customer_id}',
                               on_expiry => 'delete');
    SELECT custodian.tag_column('shop.letter', 'body', 'user.content', '{shop.mail}');";

fn cluster(name: &str) -> Result<Cluster> {
    // Erasures are carried out whatever the setting says, and no round does what is to be seen.
    cluster_with(name, &["custodian.disposal = observe"])
}

fn cluster_with(name: &str, conf: &[&str]) -> Result<Cluster> {
    let mut builder = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("log_statement = none");
    for line in conf {
        builder = builder.conf(line);
    }
    let node = builder.start()?;
    node.exec(SCHEMA)?;
    Ok(node)
}

const LEFT: &str =
    "SELECT c.id, c.email IS NOT NULL, c.phone IS NOT NULL, o.address IS NOT NULL, l.id IS NOT NULL
                    FROM shop.customer c JOIN shop.orders o ON o.customer_id = c.id
                    LEFT JOIN shop.letter l ON l.customer_id = c.id ORDER BY 1";

const ANSWER: &str =
    "SELECT relation, column_names, action, reason, rows, until IS NOT NULL, citation FROM ";

#[test]
fn optional_purposes_end_for_one_subject_and_what_a_required_one_needs_says_so() -> Result<()> {
    let node = cluster("erase")?;
    let expected = "shop.customer|{email}|keep|purpose: shop.account|1|t|\n\
                    shop.customer|{phone}|set null|erasure|1|f|\n\
                    shop.letter|{body}|delete row|erasure|1|f|\n\
                    shop.orders|{address}|set null|erasure|1|f|";
    let preview = node.text(&format!(
        "{ANSWER} custodian.preview_erasure('customer', '{{2}}') ORDER BY relation::text, 2"
    ))?;
    assert_eq!(preview, expected);
    assert_eq!(node.text(LEFT)?, "1|t|t|t|t\n2|t|t|t|t\n3|t|t|t|t");
    assert_eq!(
        node.text(&format!(
            "{ANSWER} custodian.erase_subject('customer', '{{2}}', 'request 17') ORDER BY relation::text, 2"
        ))?,
        preview
    );
    assert_eq!(node.text(LEFT)?, "1|t|t|t|t\n2|t|f|f|f\n3|t|t|t|t");
    // Nothing is left to do, and the sweep agrees.
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.repeat_erasures()")?,
        "0"
    );
    node.exec("SELECT custodian.sweep_now()")?;
    assert_eq!(node.text(LEFT)?, "1|t|t|t|t\n2|t|f|f|f\n3|t|t|t|t");
    Ok(())
}

#[test]
fn holds_and_minimums_keep_what_they_keep_until_they_are_gone() -> Result<()> {
    let node = cluster("erase_held")?;
    node.exec(
        "SELECT custodian.require_minimum('cn.orders', 'shop.orders', '{address}', '5 years', 'E-Commerce Law art. 31')",
    )?;
    let hold = node.text(
        "SELECT custodian.place_hold('2026-civ-1', approver => 'counsel', review_on => '2100-01-01',
             reason => 'order', subject_kind => 'customer', subject_key => '{1}')",
    )?;
    node.exec("SELECT custodian.erase_subject('customer', '{1}', 'request 18')")?;
    assert_eq!(node.text(LEFT)?, "1|t|t|t|t\n2|t|t|t|t\n3|t|t|t|t");
    assert_eq!(
        node.text(
            "SELECT DISTINCT action, reason FROM custodian.preview_erasure('customer', '{1}')"
        )?,
        "keep|hold: 2026-civ-1"
    );
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.find_returned()")?,
        "0"
    );
    node.exec(&format!(
        "SELECT custodian.release_hold({hold}, approver => 'counsel', reason => 'settled')"
    ))?;
    node.exec("SELECT custodian.repeat_erasures()")?;
    assert_eq!(node.text(LEFT)?, "1|t|f|t|f\n2|t|t|t|t\n3|t|t|t|t");
    assert_eq!(
        node.text(
            "SELECT relation, action, reason, citation, until > now() + interval '4 years'
             FROM custodian.preview_erasure('customer', '{1}') WHERE relation = 'shop.orders'::regclass"
        )?,
        "shop.orders|keep|minimum: cn.orders|E-Commerce Law art. 31|t"
    );
    Ok(())
}

#[test]
fn rows_of_an_erased_subject_that_a_restore_brings_back_go_again() -> Result<()> {
    let node = cluster("erase_restore")?;
    let file = node.dir().join("dump");
    node.program("pg_dump")?
        .database("postgres")
        .args(["-Fc", "--data-only", "-t", "shop.letter", "-f"])
        .arg(&file)
        .run()?
        .ok()?;
    node.exec("SELECT custodian.erase_subject('customer', '{1}', 'request 19')")?;
    node.exec("DELETE FROM shop.letter")?;
    node.program("pg_restore")?
        .database("postgres")
        .args(["--exit-on-error", "--data-only", "-d", "postgres"])
        .arg(&file)
        .run()?
        .ok()?;
    assert_eq!(
        node.text("SELECT relation, rows FROM custodian.find_returned()")?,
        "shop.letter|1"
    );
    let finding =
        "SELECT severity, code, object, problem LIKE '%: 1, as of %' FROM custodian.check()
                   WHERE code LIKE 'eras%'";
    assert_eq!(
        node.text(finding)?,
        "error|erased-data-returned|shop.letter|t"
    );
    node.exec("SELECT custodian.repeat_erasures()")?;
    assert_eq!(node.text(finding)?, "");
    // Those of others stay.
    assert_eq!(node.text(LEFT)?, "1|t|f|f|f\n2|t|t|t|t\n3|t|t|t|t");
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.find_returned()")?,
        "0"
    );
    Ok(())
}

#[test]
fn whoever_signs_up_again_is_not_caught() -> Result<()> {
    let node = cluster("erase_again")?;
    node.exec("SELECT custodian.erase_subject('customer', '{1}', 'request 20')")?;
    node.exec(
        "UPDATE shop.customer SET phone = 'new', seen = now() WHERE id = '1';
         INSERT INTO shop.letter VALUES (11, '1', 'welcome back', now()), (12, '1', 'old', now() - interval '2 days')",
    )?;
    assert_eq!(
        node.text("SELECT relation, rows FROM custodian.find_returned()")?,
        "shop.letter|1"
    );
    node.exec("SELECT custodian.repeat_erasures()")?;
    assert_eq!(
        node.text("SELECT phone FROM shop.customer WHERE id = '1'")?,
        "new"
    );
    assert_eq!(
        node.text("SELECT id FROM shop.letter WHERE customer_id = '1'")?,
        "11"
    );
    Ok(())
}

#[test]
fn rows_of_others_are_not_taken_along() -> Result<()> {
    let node = cluster("erase_others")?;
    // A letter of customer 2 quotes one of customer 1 and would go with it by the foreign key's action.
    node.exec(
        "ALTER TABLE shop.letter ADD answers bigint REFERENCES shop.letter ON DELETE CASCADE;
         UPDATE shop.letter SET answers = 1 WHERE id = 2;
         CREATE TABLE shop.note (id bigint PRIMARY KEY, letter_id bigint REFERENCES shop.letter ON DELETE CASCADE,
                                 customer_id text REFERENCES shop.customer, note text, made timestamptz DEFAULT now());
         ALTER TABLE shop.note OWNER TO app;
         INSERT INTO shop.note VALUES (1, 3, '2', 'of another');
         SELECT custodian.tag_table('shop.note', clock => 'made', subject_kind => 'customer', subject_via => '{customer_id}',
                                    on_expiry => 'delete');
         SELECT custodian.tag_column('shop.note', 'note', 'user.content', '{shop.mail}');
         SELECT custodian.erase_subject('customer', '{1}', 'request 21');
         SELECT custodian.erase_subject('customer', '{3}', 'request 22')",
    )?;
    assert_eq!(
        node.text("SELECT id FROM shop.letter ORDER BY 1")?,
        "1\n2\n3"
    );
    assert_eq!(node.text("SELECT id FROM shop.note")?, "1");
    assert_eq!(
        node.text(
            "SELECT action, rows FROM custodian.preview_erasure('customer', '{1}')
             WHERE relation = 'shop.letter'::regclass"
        )?,
        "keep|1"
    );
    node.exec("SELECT custodian.erase_subject('customer', '{2}', 'request 23'); SELECT custodian.repeat_erasures()")?;
    assert_eq!(node.text("SELECT count(*) FROM shop.letter")?, "0");
    Ok(())
}

#[test]
fn a_hostile_key_erases_nobody_else_and_shows_up_nowhere() -> Result<()> {
    let node = cluster("erase_hostile")?;
    let hostile = "x' OR true; DROP TABLE shop.letter; --\\\"{},$1";
    node.exec(
        "GRANT USAGE ON SCHEMA custodian TO app;
         GRANT EXECUTE ON FUNCTION custodian.erase_subject, custodian.preview_erasure TO app",
    )?;
    let mut app = node.client_as("app", "postgres")?;
    app.execute(
        "INSERT INTO shop.customer VALUES ($1, 'mail', 'phone')",
        &[&hostile],
    )?;
    app.execute(
        "INSERT INTO shop.letter VALUES (9, $1, 'body')",
        &[&hostile],
    )?;
    app.execute(
        "SELECT custodian.erase_subject('customer', ARRAY[$1], 'request 24')",
        &[&hostile],
    )?;
    assert_eq!(node.text(LEFT)?, "1|t|t|t|t\n2|t|t|t|t\n3|t|t|t|t");
    assert_eq!(
        node.text("SELECT count(*) FROM shop.letter WHERE id = 9")?,
        "0"
    );
    let written = node.text(
        "SELECT string_agg(t, ' ') FROM (
             SELECT to_jsonb(l)::text t FROM custodian.ledger l
             UNION ALL SELECT to_jsonb(e)::text FROM custodian.erasure e
             UNION ALL SELECT to_jsonb(r)::text FROM custodian.run r
             UNION ALL SELECT coalesce(query, '') FROM pg_stat_activity) AS all_of_it",
    )?;
    assert!(written.contains("subject.erased"), "{written}");
    assert!(!written.contains("DROP TABLE"), "{written}");
    assert!(!node.log().contains("DROP TABLE"));
    // One that no customer has: nothing goes, and the answer is empty.
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.erase_subject('customer', ARRAY['''; --'], 'request 25')")?,
        "0"
    );
    Ok(())
}

#[test]
fn roles_without_the_right_are_refused_and_bad_input_changes_nothing() -> Result<()> {
    let node = cluster("erase_rights")?;
    node.exec("GRANT USAGE ON SCHEMA custodian TO app")?;
    let mut app = node.client_as("app", "postgres")?;
    for refused in [
        "SELECT custodian.erase_subject('customer', '{1}', 'request 26')",
        "SELECT custodian.preview_erasure('customer', '{1}')",
        "SELECT custodian.repeat_erasures()",
        "SELECT custodian.find_returned()",
        "SELECT * FROM custodian.erasures",
        "SELECT * FROM custodian.erasure",
    ] {
        assert_eq!(app.refused(refused).sqlstate(), "42501", "{refused}");
    }
    let mut steward = node.client()?;
    for (wrong, sqlstate) in [
        ("'customer', '{1}', NULL", "22023"),
        ("'customer', '{1,2}', 'r'", "22023"),
        ("'customer', '{NULL}', 'r'", "22023"),
        ("'nobody', '{1}', 'r'", "42704"),
        ("'customer', '{1}', repeat('x', 2001)", "54000"),
    ] {
        let error = steward.refused(&format!("SELECT custodian.erase_subject({wrong})"));
        assert_eq!(error.sqlstate(), sqlstate, "{wrong}");
    }
    steward.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")?;
    let error = steward.refused("SELECT custodian.erase_subject('customer', '{1}', 'r')");
    assert_eq!(error.sqlstate(), "55000");
    steward.batch_execute("ROLLBACK")?;
    assert_eq!(node.text("SELECT count(*) FROM custodian.erasure")?, "0");
    assert_eq!(node.text(LEFT)?, "1|t|t|t|t\n2|t|t|t|t\n3|t|t|t|t");
    Ok(())
}

#[test]
fn erasures_that_nobody_looks_after_are_a_finding() -> Result<()> {
    let node = cluster("erase_forgotten")?;
    let finding = "SELECT severity, code FROM custodian.check() WHERE code LIKE 'eras%'";
    node.exec("SELECT custodian.erase_subject('customer', '{1}', 'request 27')")?;
    assert_eq!(node.text(finding)?, "");
    node.exec("UPDATE custodian.erasure SET erased_at = erased_at - interval '8 days'")?;
    assert_eq!(node.text(finding)?, "warning|erasures-not-repeated");
    node.exec("SELECT custodian.find_returned()")?;
    assert_eq!(node.text(finding)?, "");
    Ok(())
}

#[test]
fn an_erasure_travels_in_a_dump_with_its_key_and_is_repeated_there() -> Result<()> {
    let node = cluster("erase_dump")?;
    node.exec(
        "SELECT custodian.erase_subject('customer', '{1}', 'request 28');
         -- What an import brings back, before the dump is taken.
         INSERT INTO shop.letter VALUES (1, '1', 'body', now() - interval '2 days')",
    )?;
    let file = node.dir().join("dump");
    node.program("pg_dump")?
        .database("postgres")
        .args(["-Fc", "-f"])
        .arg(&file)
        .run()?
        .ok()?;
    let mut restored = node.create_database("restored")?;
    node.program("pg_restore")?
        .database("restored")
        .args(["--exit-on-error", "-d", "restored"])
        .arg(&file)
        .run()?
        .ok()?;
    let error = restored.refused("SELECT custodian.repeat_erasures()");
    assert_eq!(error.sqlstate(), "55000");
    let keys = node.text("SELECT custodian.export_keys()")?;
    restored.execute("SELECT custodian.import_keys($1)", &[&keys])?;
    assert_eq!(
        restored.text("SELECT relation, action, rows FROM custodian.repeat_erasures()")?,
        "shop.letter|delete row|1"
    );
    assert_eq!(
        restored.text("SELECT string_agg(customer_id, ',' ORDER BY id) FROM shop.letter")?,
        "2,3"
    );
    Ok(())
}

#[test]
fn sweeps_previews_and_explanations_know_of_erasures() -> Result<()> {
    let node = cluster_with("erase_swept", &["custodian.disposal = off"])?;
    node.exec(
        "SELECT custodian.require_minimum('cn.orders', 'shop.orders', '{address}', '2 years', 'E-Commerce Law art. 31');
         SELECT custodian.erase_subject('customer', '{1}', 'request 29');
         INSERT INTO shop.letter VALUES (11, '1', 'restored', now() - interval '2 days'),
                                        (12, '1', 'anew', now())",
    )?;
    let explained = |table: &str, id: i32| {
        node.text(&format!(
            "SELECT state, decided_by, citation IS NOT NULL,
                    explanation ~ ' Erasure was requested on [0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}\\.' AND explanation NOT LIKE '%request 29%'
             FROM custodian.explain_row('shop.{table}', '{{\"id\": {id}}}')"
        ))
    };
    assert_eq!(explained("letter", 11)?, "due|erasure|f|t");
    assert_eq!(explained("letter", 12)?, "active|purpose: shop.mail|f|f");
    assert_eq!(explained("orders", 1)?, "blocked|minimum: cn.orders|t|t");
    assert_eq!(explained("orders", 2)?, "active|purpose: shop.news|f|f");
    let preview = "SELECT relation, action, reason, rows FROM custodian.preview() WHERE action <> 'keep' ORDER BY 1::text";
    assert_eq!(
        node.text(preview)?,
        "shop.letter|delete row|erasure requested|1"
    );
    node.exec("SELECT custodian.sweep_now()")?;
    assert_eq!(
        node.text("SELECT id FROM shop.letter WHERE customer_id = '1'")?,
        "12"
    );
    assert_eq!(node.text(LEFT)?, "1|t|f|t|t\n2|t|t|t|t\n3|t|t|t|t");
    // Nothing but the minimum kept the address of the one, and a required purpose the e-mail address; an optional one
    // still covers those of the others.
    let mut later = node.client()?;
    later.batch_execute("SET custodian.clock_offset = '735d'; SELECT custodian.sweep_now()")?;
    assert_eq!(later.text(LEFT)?, "1|f|f|f|t\n2|t|t|t|t\n3|t|t|t|t");
    Ok(())
}

#[test]
fn the_worker_takes_what_something_kept_at_the_erasure_once_nothing_does() -> Result<()> {
    // No pass looks at everything but the first ones.
    let node = cluster_with("erase_lapse", &["custodian.naptime = 1s"])?;
    node.exec(
        "INSERT INTO shop.letter SELECT n, '2', 'body', now() - interval '2 days' FROM generate_series(100, 110) n;
         SELECT custodian.require_minimum('cn.letters', 'shop.letter', '{body}', '2 days 20 seconds', 'a law');
         SELECT custodian.erase_subject('customer', '{2}', 'request 30')",
    )?;
    let letters = "SELECT count(*) FROM shop.letter";
    assert_eq!(node.text(letters)?, "14");
    let passed = poll(60, || {
        let passed = node
            .text("SELECT count(*) FROM custodian.watermark WHERE leaf = 'shop.letter'::regclass AND isfinite(cutoff)")
            .ok()?;
        (passed == "1").then_some(())
    });
    assert!(passed.is_some(), "no watermark was set");
    let gone = poll(90, || (node.text(letters).ok()? == "2").then_some(()));
    assert!(
        gone.is_some(),
        "{}",
        node.text("SELECT * FROM custodian.runs")?
    );
    assert_eq!(
        node.text("SELECT reason FROM custodian.run_item ORDER BY 1 LIMIT 1")?,
        "past: shop.mail; or erasure requested"
    );
    Ok(())
}

#[test]
fn the_worker_takes_erased_data_that_comes_back() -> Result<()> {
    let node = cluster_with(
        "erase_worker",
        &["custodian.naptime = 1s", "custodian.audit_interval = 1s"],
    )?;
    node.exec(
        "SELECT custodian.erase_subject('customer', '{3}', 'request 31');
         INSERT INTO shop.letter VALUES (21, '3', 'restored', now() - interval '2 days'), (22, '3', 'anew', now())",
    )?;
    let left = "SELECT string_agg(id::text, ',' ORDER BY id) FROM shop.letter";
    let gone = poll(90, || (node.text(left).ok()? == "1,2,22").then_some(()));
    assert!(
        gone.is_some(),
        "{}",
        node.text("SELECT * FROM custodian.runs")?
    );
    // It has looked at everything lately: nobody need call for that.
    node.exec("UPDATE custodian.erasure SET erased_at = erased_at - interval '8 days'")?;
    let finding = "SELECT count(*) FROM custodian.check() WHERE code = 'erasures-not-repeated'";
    let content = poll(60, || (node.text(finding).ok()? == "0").then_some(()));
    assert!(content.is_some(), "the worker's passes do not count");
    node.alter_system("custodian.disposal", "observe")?;
    assert_eq!(node.text(finding)?, "1");
    Ok(())
}

#[test]
fn the_record_of_erasures_answers_sweeps_only() -> Result<()> {
    let node = cluster("erase_record")?;
    node.exec("SELECT custodian.erase_subject('customer', '{1}', 'request 32')")?;
    let mut steward = node.client()?;
    for asked in [
        "custodian.sweep_erased('customer', '{1}', '{}', now())",
        "custodian.sweep_erasures('customer', '{1}')",
    ] {
        assert_eq!(
            steward.refused(&format!("SELECT {asked}")).sqlstate(),
            "42501"
        );
    }
    Ok(())
}

#[test]
fn rows_of_a_subject_go_before_cells_so_that_nobody_comes_to_keep_one_in_between() -> Result<()> {
    let node = cluster("erase_between")?;
    node.exec(
        "CREATE TABLE shop.profile (id int PRIMARY KEY, customer_id text, about text, seen timestamptz NOT NULL DEFAULT now());
         CREATE TABLE shop.mark (profile int REFERENCES shop.profile);
         ALTER TABLE shop.profile OWNER TO app;
         INSERT INTO shop.profile VALUES (1, '1', 'about'), (2, '1', 'about');
         INSERT INTO shop.mark VALUES (2);
         GRANT SELECT ON shop.mark TO app;
         SELECT custodian.tag_table('shop.profile', clock => 'seen', subject_kind => 'customer', subject_via => '{customer_id}', on_expiry => 'delete');
         SELECT custodian.tag_column('shop.profile', 'about', 'user.content', '{shop.news}', on_expiry => 'set_null')",
    )?;
    // A row goes, and of the other one, to which something refers, a cell: somebody has that one locked for a while.
    let mut other = node.client()?;
    other.batch_execute("BEGIN; SELECT FROM shop.profile WHERE id = 2 FOR UPDATE")?;
    let mut session = node.client()?;
    const ERASE: &str = "SELECT string_agg(concat_ws(' ', action, rows), ', ') FROM custodian.erase_subject('customer', '{1}', 'request')
                         WHERE relation = 'shop.profile'::regclass";
    let erasing = std::thread::spawn(move || session.text(ERASE));
    integration::wait_for_answer(
        &node,
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%custodian.erase_subject(%' AND wait_event_type = 'Lock'
           AND pid <> pg_backend_pid()",
        "1",
    );
    // Whoever would refer to the row that goes waits, and finds it gone.
    let refused = node
        .client()?
        .refused("SET lock_timeout = '1s'; INSERT INTO shop.mark VALUES (1)");
    assert_eq!(refused.sqlstate(), "55P03");
    other.batch_execute("COMMIT")?;
    assert_eq!(
        erasing.join().expect("the session ends")?,
        "set null 1, delete row 1"
    );
    assert_eq!(
        node.text("SELECT string_agg(concat_ws(' ', id, about), ',') FROM shop.profile")?,
        "2"
    );
    Ok(())
}
