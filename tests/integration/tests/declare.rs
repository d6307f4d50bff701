//! The policy as one document: exported, compared, applied.

use integration::{Cluster, Result, Sql, quote_literal};
use postgres::Client;

const TABLES: &str = r#"
    CREATE SCHEMA "Sh.op"; GRANT ALL ON SCHEMA "Sh.op" TO alice;
    SET ROLE alice;
    CREATE TABLE "Sh.op"."cust""omer; --" (id bigint PRIMARY KEY, "E-mail.1" text, "select" text, seen timestamptz);
    CREATE TABLE "Sh.op".event (id bigint, at timestamptz, ip inet, note text) PARTITION BY RANGE (at);
    CREATE TABLE "Sh.op".profile (id bigint PRIMARY KEY, doc jsonb, seen timestamptz);
    CREATE TABLE "Sh.op"."pro,file" (profile bigint REFERENCES "Sh.op".profile ON DELETE CASCADE);
    CREATE TABLE "Sh.op".event_1 PARTITION OF "Sh.op".event FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
    RESET ROLE;"#;

const POLICY: &str = r#"
    SELECT custodian.define_purpose('shop.account', 'contract', '2 years', description => $$a "quoted" one's$$);
    SELECT custodian.define_purpose('shop.account', 'contract', '1 year');
    SELECT custodian.define_purpose('shop.news', 'consent', '1 mon 2 days 03:04:05.6', required => false);
    SELECT custodian.end_purpose('shop.news', '2099-01-01');
    SELECT custodian.tag_table('"Sh.op"."cust""omer; --"', clock => 'seen', subject_kind => 'customer', subject_key => '{id}',
                               on_expiry => 'delete');
    SELECT custodian.tag_column('"Sh.op"."cust""omer; --"', 'E-mail.1', 'user.contact.email', '{shop.account,shop.news}',
                                residency => '{cn,de}', on_expiry => '{"constant":"it''s \"gone\""}');
    SELECT custodian.clear_column('"Sh.op"."cust""omer; --"', 'select');
    SELECT custodian.require_minimum('cn.tax', '"Sh.op"."cust""omer; --"', '{E-mail.1}', '5 years', 'Law A, article 1');
    SELECT custodian.declare_defence('cn.claims', '"Sh.op"."cust""omer; --"', '{E-mail.1}', '3 years', 'Law C', clock => 'seen');
    SELECT custodian.suspend_defence('cn.claims', '2024-01-01'); SELECT custodian.resume_defence('cn.claims', '2024-02-01');
    SELECT custodian.suspend_defence('cn.claims', '2025-01-01');
    SELECT custodian.require_maximum('cn.limit', '"Sh.op"."cust""omer; --"', '{E-mail.1}', '9 years', 'Law D');
    SELECT custodian.tag_table('"Sh.op".event', clock => 'at');
    SELECT custodian.tag_column('"Sh.op".event', 'ip', 'user.device.ip_address', '{shop.account,shop.news}', on_expiry => 'network');
    SELECT custodian.tag_column('"Sh.op".event_1', 'ip', 'user.device.ip_address', '{shop.news}', on_expiry => 'network');
    SELECT custodian.tag_table('"Sh.op".profile', clock => 'seen', on_expiry => 'delete');
    SELECT custodian.declare_dependents('"Sh.op".profile', ARRAY['"Sh.op"."pro,file"']);
    SELECT custodian.tag_column('"Sh.op".profile', 'doc', 'user.contact.email', '{shop.account}', residency => '{cn}',
                                on_expiry => 'set_null', path => '{contact,"e.mail"}');
    SELECT custodian.tag_column('"Sh.op".profile', 'doc', 'user.name', '{shop.account,shop.news}', on_expiry => '{"mask":2}', path => '{name}');
    SELECT custodian.require_minimum('cn.tax', '"Sh.op".profile', '{doc.name}', '5 years', 'Law A, article 1');
    SELECT custodian.permit_publication('Abroad "1"', '{de,cn}', 'the replica');"#;

fn node(name: &str) -> Result<Cluster> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.naptime = 3600")
        .conf("custodian.steward_role = 'steward'")
        .start()?;
    node.exec("CREATE ROLE alice LOGIN; CREATE ROLE steward LOGIN; CREATE ROLE counsel")?;
    Ok(node)
}

/// A database with the tables, and the policy or none.
fn database(node: &Cluster, name: &str, policy: &str) -> Result<Client> {
    node.exec(&format!("CREATE DATABASE {name}"))?;
    let mut client = node.client_as("postgres", name)?;
    client.batch_execute(&format!("CREATE EXTENSION pg_custodian; {TABLES} {policy}"))?;
    Ok(client)
}

const EXPORT: &str = "SELECT jsonb_pretty(custodian.export_policy())";
const EPOCHS: &str = "SELECT count(*) FROM custodian.epoch";

fn apply(document: &str, dry_run: bool) -> String {
    format!(
        "SELECT object, change, loosens FROM custodian.apply_policy({}, {dry_run})",
        quote_literal(document)
    )
}

#[test]
fn a_policy_exported_from_one_database_is_that_of_another_once_applied() -> Result<()> {
    let node = node("declare")?;
    let mut from = database(&node, "a", POLICY)?;
    let mut to = database(&node, "b", "")?;
    let document = from.text(EXPORT)?;
    assert_eq!(from.text(&apply(&document, false))?, "");
    let before = from.text(EPOCHS)?;
    assert_eq!(from.text(&apply(&document, true))?, "");
    assert_eq!(from.text(EPOCHS)?, before);

    let difference = r#"purpose shop.account|define|f
purpose shop.news|define|f
minimum cn.tax|require|f
defence cn.claims|require|f
maximum cn.limit|require|f
table "Sh.op"."cust""omer; --"|tag|f
column "Sh.op"."cust""omer; --"."E-mail.1"|tag|f
column "Sh.op"."cust""omer; --".select|clear|t
table "Sh.op".event|tag|f
column "Sh.op".event.ip|tag|f
column "Sh.op".event_1.ip|tag|f
table "Sh.op".profile|tag|f
column "Sh.op".profile.doc|tag|f
publication Abroad "1"|permit|t
purpose shop.news|end|f"#;
    let before = to.text(EXPORT)?;
    assert_eq!(to.text(&apply(&document, true))?, difference);
    assert_eq!(
        (to.text(EXPORT)?, to.text(EPOCHS)?),
        (before, "0".to_owned())
    );
    assert_eq!(to.text(&apply(&document, false))?, difference);
    assert_eq!(to.text(EXPORT)?, document);
    let tags = "SELECT * FROM custodian.tags ORDER BY relation::text, column_name NULLS FIRST";
    assert_eq!(to.text(tags)?, from.text(tags)?);
    assert_eq!(
        to.text(
            "SELECT column_name, maximums FROM custodian.tags WHERE maximums <> '{}'
             UNION ALL SELECT column_name, dependents FROM custodian.tags WHERE dependents IS NOT NULL"
        )?,
        "E-mail.1|{cn.limit}\n|{\"\\\"Sh.op\\\".\\\"pro,file\\\"\"}"
    );
    let epochs = to.text(EPOCHS)?;
    assert_eq!(to.text(&apply(&document, false))?, "");
    assert_eq!(
        to.text(EPOCHS)?,
        epochs,
        "nothing changes, nothing is written"
    );

    // Labels and permissions that a complete document does not list go.
    to.batch_execute(
        r#"SELECT custodian.tag_column('"Sh.op".event', 'note', 'user.content', '{shop.account}');
           SELECT custodian.permit_publication('more', '{cn}', 'test')"#,
    )?;
    assert_eq!(
        to.text(&apply(&document, false))?,
        "column \"Sh.op\".event.note|remove the label|t\npublication more|forbid|f"
    );
    assert_eq!(to.text(EXPORT)?, document);
    Ok(())
}

#[test]
fn a_document_asks_for_the_rights_of_the_single_functions_and_changes_all_or_nothing() -> Result<()>
{
    let node = node("declare-rights")?;
    let mut admin = database(&node, "shop", POLICY)?;
    admin.batch_execute("CREATE TABLE other (id int, name text)")?;
    let before = admin.text(EXPORT)?;
    let mut alice = node.client_as("alice", "shop")?;
    assert_eq!(alice.text(EXPORT)?, before);

    let purposes = |purposes: &str| {
        format!(
            r#"{{"tables": {{"\"Sh.op\".event": {{"columns": {{
                "ip": {{"category": "user.device.ip_address", "sensitivity": "sensitive", "purposes": [{purposes}], "on_expiry": "network"}},
                "note": {{"category": "user.content", "sensitivity": "personal", "purposes": ["shop.account"]}}}}}}}}}}"#
        )
    };
    let refused = |client: &mut Client, document: &str, sqlstate: &str| {
        let error = client.refused(&apply(document, false));
        assert_eq!(error.sqlstate(), sqlstate, "{error}");
        error.to_string()
    };
    // A purpose more is a steward's: nothing of the document is done, the tag of the other column neither.
    admin
        .batch_execute(r#"SELECT custodian.define_purpose('shop.more', 'contract', '9 years')"#)?;
    let before_more = admin.text(EXPORT)?;
    let more = purposes(r#""shop.account", "shop.news", "shop.more""#);
    assert!(refused(&mut alice, &more, "42501").contains("data steward"));
    refused(
        &mut alice,
        r#"{"tables": {"public.other": {"columns": {"name": null}}, "\"Sh.op\".event": {"columns": {"note": {"not_personal": true}}}}}"#,
        "42501",
    );
    refused(
        &mut alice,
        r#"{"purposes": {"shop.account": {"period": "1 day"}}}"#,
        "42501",
    );
    refused(
        &mut alice,
        r#"{"publications": {"p": {"regions": ["cn"], "reason": "x"}}}"#,
        "42501",
    );
    assert_eq!(admin.text(EXPORT)?, before_more);
    // Tightening is the owner's.
    assert_eq!(
        alice.text(&apply(&purposes(r#""shop.account""#), false))?,
        "column \"Sh.op\".event.ip|change the tag|f\ncolumn \"Sh.op\".event.note|tag|f"
    );
    // A steward who owns nothing does the rest.
    let mut steward = node.client_as("steward", "shop")?;
    assert_eq!(
        steward.text(&apply(&more, false))?,
        "column \"Sh.op\".event.ip|change the tag|t"
    );
    assert_eq!(
        steward.text(&apply(
            r#"{"purposes": {"shop.account": {"period": "90 days"}}}"#,
            false
        ))?,
        "purpose shop.account|shorten the period|f"
    );
    assert_eq!(
        steward.text("SELECT period FROM custodian.purposes WHERE name = 'shop.account'")?,
        "90 days"
    );
    Ok(())
}

#[test]
fn what_the_single_functions_refuse_a_document_is_refused_for_when_it_is_only_looked_at()
-> Result<()> {
    let node = node("declare-refused")?;
    let mut client = database(&node, "shop", POLICY)?;
    let event = |label: &str| {
        format!(r#"{{"tables": {{"\"Sh.op\".event": {{"columns": {{"ip": {label}}}}}}}}}"#)
    };
    let tag = |more: &str| {
        event(&format!(
            r#"{{"category": "user.device", "sensitivity": "personal", "purposes": ["shop.account"]{more}}}"#
        ))
    };
    let before = client.text(EXPORT)?;
    for (document, sqlstate) in [
        ("[]".to_owned(), "22023"),
        (r#"{"purpose": {}}"#.to_owned(), "22023"),
        (r#"{"purposes": {"shop.x": {"basis": "legitimate_interests", "period": "P1Y"}}}"#.to_owned(), "22023"),
        (r#"{"purposes": {"shop.account": {"basis": "consent"}}}"#.to_owned(), "42710"),
        (r#"{"minimums": {"cn.tax": {"period": "1 year"}}}"#.to_owned(), "22023"),
        (r#"{"tables": {"nowhere.x": {}}}"#.to_owned(), "42704"),
        (r#"{"tables": {"\"Sh.op\".event": {"columns": {"nothing": null, "no": {"not_personal": true}}}}}"#.to_owned(), "42704"),
        (event(r#"{"category": "user.device", "sensitivity": "personal", "purposes": ["shop.none"]}"#), "42704"),
        (tag(r#", "minimums": [{"name": "cn.none"}]"#), "42704"),
        (tag(r#", "clock": "note""#), "22023"),
        (tag(r#", "on_expiry": {"generalize": 10}"#), "22023"),
        (r#"{"complete": true}"#.to_owned(), "22023"),
    ] {
        for dry_run in [true, false] {
            let error = client.refused(&apply(&document, dry_run));
            assert_eq!(error.sqlstate(), sqlstate, "{document} {dry_run}: {error}");
            let hint = error.db().and_then(|db| db.hint());
            assert!(hint.is_some(), "{document}: {error}");
        }
    }
    assert_eq!(client.text(EXPORT)?, before);
    // A purpose and the tag that names it arrive together.
    assert_eq!(
        client.text(&apply(
            r#"{"purposes": {"shop.log": {"basis": "contract", "period": "1 year"}},
                "tables": {"\"Sh.op\".event": {"columns": {"note": {
                    "category": "user.content", "sensitivity": "personal", "purposes": ["shop.log"], "on_expiry": "set_null"}}}}}"#,
            true
        ))?,
        "purpose shop.log|define|f\ncolumn \"Sh.op\".event.note|tag|f"
    );
    Ok(())
}

/// The policy of an epoch without the histories of purposes, whose instants differ from run to run.
fn of(epoch: &str) -> String {
    format!("SELECT jsonb_pretty(custodian.policy_of_epoch({epoch}))")
}

#[test]
fn the_policy_of_every_epoch_is_read_in_full_with_the_names_of_its_time() -> Result<()> {
    let node = node("history")?;
    let mut client = database(&node, "shop", "")?;
    let mut seen = vec![("0".to_owned(), client.text(EXPORT)?)];
    let mut moments = vec![client.text("SELECT clock_timestamp()")?];
    let mut changed = |client: &mut Client, sql: &str| -> Result<()> {
        client.batch_execute(sql)?;
        seen.push((
            client.text("SELECT max(epoch) FROM custodian.epoch")?,
            client.text(EXPORT)?,
        ));
        moments.push(client.text("SELECT clock_timestamp()")?);
        Ok(())
    };
    changed(&mut client, POLICY)?;
    for step in [
        "SELECT custodian.define_purpose('shop.account', 'contract', '90 days')",
        "SELECT custodian.end_purpose('shop.news')",
        r#"SECURITY LABEL FOR custodian ON COLUMN "Sh.op".event.note IS '{"not_personal":true}'"#,
        "SELECT custodian.forbid_publication('Abroad \"1\"')",
        "BEGIN; SELECT custodian.define_purpose('shop.b', 'contract', '1 day');
         SAVEPOINT s; SELECT custodian.define_purpose('shop.c', 'contract', '1 day'); ROLLBACK TO s; COMMIT",
        "BEGIN; SELECT custodian.define_purpose('shop.d', 'contract', '1 day');
         SELECT custodian.untag_column('\"Sh.op\".event_1', 'ip'); COMMIT",
    ] {
        changed(&mut client, step)?;
    }
    // What changes without a function gets an epoch of its own.
    for step in [
        r#"ALTER TABLE "Sh.op"."cust""omer; --" RENAME TO customer"#,
        r#"ALTER TABLE "Sh.op".event RENAME COLUMN note TO remark"#,
        r#"ALTER SCHEMA "Sh.op" RENAME TO shop"#,
        "ALTER TABLE shop.customer SET SCHEMA public",
        "ALTER TABLE customer DROP COLUMN \"select\"",
        "DROP TABLE shop.event",
        "BEGIN; SAVEPOINT s; SELECT custodian.define_purpose('shop.c', 'contract', '1 day'); ROLLBACK TO s;
         DROP SCHEMA shop CASCADE; DROP TABLE customer; COMMIT",
        "UPDATE custodian.minimum SET citation = 'Law B'; SELECT custodian.record_policy()",
    ] {
        changed(&mut client, step)?;
    }
    // Nothing is left to record.
    assert_eq!(client.text("SELECT custodian.record_policy()")?, "");
    client.batch_execute(
        "BEGIN; SELECT custodian.define_purpose('shop.e', 'contract', '1 day'); ROLLBACK",
    )?;
    assert_eq!(client.text("SELECT custodian.record_policy()")?, "");
    assert!(seen[1].1.contains(r#"\"Sh.op\".\"cust\"\"omer; --\""#));
    for ((epoch, policy), moment) in seen.iter().zip(&moments) {
        assert_eq!(client.text(&of(epoch))?, *policy, "epoch {epoch}");
        assert_eq!(
            client.text(&format!(
                "SELECT jsonb_pretty(custodian.policy_as_of({}))",
                quote_literal(moment)
            ))?,
            *policy,
            "at {moment}"
        );
    }
    for (sql, sqlstate) in [
        ("SELECT custodian.policy_of_epoch(1000)", "22023"),
        ("SELECT custodian.policy_of_epoch(-1)", "22023"),
        ("SELECT custodian.policy_of_epoch(NULL)", "22023"),
    ] {
        assert_eq!(client.refused(sql).sqlstate(), sqlstate, "{sql}");
    }
    assert_eq!(
        node.client_as("alice", "shop")?
            .refused("SELECT custodian.record_policy()")
            .sqlstate(),
        "42501"
    );
    what_no_document_declares(&node, &mut client)
}

/// Holds, transfers and lanes are told as they were at a moment, to stewards.
fn what_no_document_declares(node: &Cluster, client: &mut Client) -> Result<()> {
    client.batch_execute(
        "SET TimeZone = 'UTC';
         INSERT INTO custodian.hold (matter, scope, subject_kind, subject_key, reason, approver, review_on, placed_at, released_at)
         VALUES ('M1', 'subject', 'customer', '{1}', 'suit', 'counsel', '2030-01-01', '2020-01-01', '2020-03-01'),
                ('M2', 'subject', 'customer', '{2}', 'suit', 'counsel', '2030-01-01', '2020-02-01', NULL);
         INSERT INTO custodian.transfer (transfer, receiver, contact, organisation, region, purposes, categories, method, safeguards, risks,
             rights_channel, basis, notice, valid_until, residencies, registered_by, registered_at, approved_by, approved_at, revoked_by, revoked_at)
         SELECT name, 'r', 'c', 'o', 'eu', '{shop.a}', '{user}', 'm', 's', 'r', 'c', 'consent', 'n', until, '{cn}', 'li', '2020-02-01', 'wang',
                '2020-03-01', CASE WHEN revoked IS NOT NULL THEN 'li' END, revoked
         FROM (VALUES ('shop.a', '2020-05-01'::timestamptz, NULL::timestamptz), ('shop.b', '2020-05-01', '2020-04-01')) v (name, until, revoked);
         INSERT INTO custodian.lane (transfer, role, network, database, slot, plugin, publications, opened_at, closed_at)
         VALUES ('shop.a', 'sub', '10.0.0.0/8', 'shop', 's', 'pgoutput', '{p}', '2020-03-01', '2020-04-01'),
                ('shop.b', 'sub', '10.0.0.0/8', 'shop', 't', 'pgoutput', '{p}', '2020-03-01', NULL),
                ('shop.a', 'sub', '10.0.0.0/8', 'copied', 's', 'pgoutput', '{p}', '2020-03-01', '2020-04-01');
         INSERT INTO custodian.archive_lane (transfer, command, region, organisation, database, opened_at)
         VALUES ('shop.a', 'cp', 'eu', 'o', 'shop', '2020-04-01')",
    )?;
    let at = "SELECT full_policy_as_of #>> '{transfers,shop.a,state}', full_policy_as_of #>> '{transfers,shop.b,state}',
                     full_policy_as_of #>> '{transfers,shop.a,approved_by}',
                     jsonb_path_query_array(full_policy_as_of, '$.holds[*].matter'),
                     jsonb_path_query_array(full_policy_as_of, '$.lanes[*].state'),
                     jsonb_path_query_array(full_policy_as_of, '$.archive_lanes[*].state'),
                     full_policy_as_of - '{holds,waivers,lawful_bases,transfers,lanes,archive_lanes}'::text[] = custodian.policy_as_of(at)
              FROM (VALUES ('2019-12-31 23:59:59Z'::timestamptz), ('2020-01-01Z'), ('2020-02-01Z'), ('2020-03-01Z'), ('2020-04-01Z'), ('2020-05-01Z'))
                   v (at), custodian.full_policy_as_of(at)";
    assert_eq!(
        client.text(at)?,
        r#"|||[]|[]|[]|t
|||["M1"]|[]|[]|t
registered|registered||["M1", "M2"]|[]|[]|t
approved|approved|wang|["M2"]|["open", "open", "foreign"]|[]|t
approved|revoked|wang|["M2"]|["suspended"]|["open"]|t
expired|revoked|wang|["M2"]|["suspended"]|["suspended"]|t"#
    );
    for sql in [
        "SELECT custodian.full_policy_as_of(now())",
        "SELECT custodian.full_policy_as_of(NULL)",
    ] {
        let sqlstate = if sql.contains("NULL") {
            "22023"
        } else {
            "42501"
        };
        assert_eq!(
            node.client_as("alice", "shop")?.refused(sql).sqlstate(),
            sqlstate
        );
    }
    Ok(())
}

#[test]
fn a_drop_waits_for_no_change_of_policy_and_is_recorded_by_the_worker() -> Result<()> {
    let node = Cluster::builder("history-worker")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1")
        .start()?;
    node.exec(
        "CREATE TABLE t (id int, mail text); CREATE EXTENSION pg_custodian;
         SELECT custodian.define_purpose('shop.account', 'contract', '1 year');
         SELECT custodian.tag_column('t', 'mail', 'user', '{shop.account}')",
    )?;
    let before = node.text("SELECT max(epoch) FROM custodian.epoch")?;
    let mut other = node.client()?;
    other
        .batch_execute("BEGIN; SELECT custodian.define_purpose('shop.b', 'contract', '1 year')")?;
    node.exec("DROP TABLE t")?;
    assert_eq!(
        node.text("SELECT max(epoch) FROM custodian.epoch")?,
        before,
        "the lock was not to be had"
    );
    other.batch_execute("ROLLBACK")?;
    // A scheduler looks when it begins its work, and every minute.
    node.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_custodian scheduler'")?;
    integration::wait_until("the drop to be recorded", 150, || {
        node.text("SELECT max(epoch) FROM custodian.epoch")
            .is_ok_and(|now| now != before)
    });
    assert_eq!(
        node.text("SELECT change, detail FROM custodian.epoch ORDER BY epoch DESC LIMIT 1")?,
        r#"policy.recorded|{"changed": ["tables.public.t"]}"#
    );
    assert_eq!(
        node.text(&format!(
            "SELECT custodian.policy_of_epoch({before}) -> 'tables' ? 'public.t', custodian.export_policy() -> 'tables'"
        ))?,
        "t|{}"
    );
    Ok(())
}

#[test]
fn one_path_of_a_document_is_changed_or_removed_by_itself() -> Result<()> {
    let node = node("declare-paths")?;
    let mut admin = database(&node, "shop", POLICY)?;
    let paths = "SELECT column_name, kind, category, on_expiry FROM custodian.tags
                 WHERE relation = '\"Sh.op\".profile'::regclass AND kind = 'path' ORDER BY category";
    // The policy with the paths of the document as `list` makes them of each, `x`, that it keeps.
    let with = |list: &str, keep: &str| {
        format!(
            r#"SELECT jsonb_set(p, at, (SELECT jsonb_agg({list}) FROM jsonb_array_elements(p #> at) x WHERE {keep}))
               FROM custodian.export_policy() p, CAST('{{tables,"\"Sh.op\".profile",columns,doc,paths}}' AS text[]) at"#
        )
    };
    let is_name = r#"x -> 'path' = '["name"]'"#;
    let before = admin.text(paths)?;
    let changed = admin.text(&with(
        &format!(r#"CASE WHEN {is_name} THEN x || '{{"on_expiry":"set_null"}}' ELSE x END"#),
        "true",
    ))?;
    let difference = "column \"Sh.op\".profile.doc|change the tag|f";
    assert_eq!(admin.text(&apply(&changed, true))?, difference);
    assert_eq!(admin.text(paths)?, before, "a dry run changes nothing");
    assert_eq!(admin.text(&apply(&changed, false))?, difference);
    let after = admin.text(paths)?;
    let lines = |text: &str, category: &str| -> Vec<String> {
        let of_it = text.lines().filter(|line| line.contains(category));
        of_it.map(str::to_owned).collect()
    };
    assert_eq!(after.lines().count(), before.lines().count());
    assert_ne!(lines(&after, "user.name"), lines(&before, "user.name"));
    assert_eq!(
        lines(&after, "user.contact"),
        lines(&before, "user.contact")
    );

    // Without its path the other one is as it was.
    let removed = admin.text(&with("x", is_name))?;
    // That loosens, which is for stewards.
    let mut alice = node.client_as("alice", "shop")?;
    assert_eq!(alice.refused(&apply(&removed, false)).sqlstate(), "42501");
    assert_eq!(
        admin.text(&apply(&removed, false))?,
        "column \"Sh.op\".profile.doc|change the tag|t"
    );
    let left = admin.text(paths)?;
    assert_eq!(lines(&left, "user.contact"), Vec::<String>::new());
    assert_eq!(lines(&left, "user.name"), lines(&after, "user.name"));
    assert_eq!(admin.text(&apply(&removed, false))?, "");
    // The last one goes with the label.
    let none = admin.text(
        r#"SELECT custodian.export_policy() #- '{tables,"\"Sh.op\".profile",columns,doc}'"#,
    )?;
    assert_eq!(
        admin.text(&apply(&none, false))?,
        "column \"Sh.op\".profile.doc|remove the label|t"
    );
    assert_eq!(admin.text(paths)?, "");
    Ok(())
}
