//! A minimum may rise and never falls, by whatever way it is asked; and the extension's clock is a superuser's to move.

use integration::{Cluster, Result, Sql};

#[test]
fn a_minimum_never_falls_by_whatever_way_it_is_asked() -> Result<()> {
    let node = Cluster::builder("never_falls")
        .preload("pg_custodian")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian; CREATE SCHEMA s;
         CREATE TABLE s.bill (id int PRIMARY KEY, at timestamptz, payer text, street text);
         INSERT INTO s.bill VALUES (1, now() - interval '70 days', 'p', 's');
         SELECT custodian.define_purpose('p.a', 'contract', '10 days');
         SELECT custodian.tag_table('s.bill', clock => 'at');
         SELECT custodian.tag_column('s.bill', 'payer', 'user.name', '{p.a}', on_expiry => 'set_null'),
                custodian.tag_column('s.bill', 'street', 'user.contact', '{p.a}', on_expiry => 'set_null');
         SELECT custodian.require_minimum('k.tax', 's.bill', '{payer,street}', '90 days', 'Act A')",
    )?;
    let mut client = node.client()?;
    let kept = "SELECT string_agg(concat_ws(' ', column_name, state, decided_by), ', ' ORDER BY column_name) FROM custodian.explain_row('s.bill', '{\"id\":1}') WHERE column_name <> 'note'";
    let before = client.text(kept)?;
    assert_eq!(
        before,
        "payer blocked minimum: k.tax, street blocked minimum: k.tax"
    );
    let stored = "SELECT period, citation FROM custodian.minimums";
    let was = client.text(stored)?;
    for period in ["60 days", "2 mons", "89 days 23:59:59", "0", "-1 day"] {
        for sql in [
            format!(
                "SELECT custodian.require_minimum('k.tax', 's.bill', '{{payer}}', '{period}', 'Act B')"
            ),
            format!(
                "SELECT custodian.apply_policy('{{\"minimums\":{{\"k.tax\":{{\"period\":\"{period}\"}}}}}}', dry_run => false)"
            ),
            format!(
                "SELECT custodian.apply_policy('{{\"minimums\":{{\"k.tax\":{{\"period\":\"{period}\"}}}}}}', dry_run => true)"
            ),
        ] {
            assert_eq!(client.refused(&sql).sqlstate(), "22023", "{sql}");
        }
    }
    assert_eq!(
        (client.text(stored)?, client.text(kept)?),
        (was.clone(), before.clone())
    );
    // The same again for fewer columns takes none away.
    client.batch_execute(
        "SELECT custodian.require_minimum('k.tax', 's.bill', '{payer}', '90 days', 'Act A')",
    )?;
    assert_eq!(client.text(kept)?, before);
    // What a past policy had is no way down, either.
    let moment = client.text("SELECT clock_timestamp()")?;
    client.batch_execute("SELECT custodian.require_minimum('k.tax', 's.bill', '{payer}', '100 days', 'Act A as amended')")?;
    let past = format!(
        "SELECT custodian.apply_policy(custodian.policy_as_of('{moment}'), dry_run => false)"
    );
    assert_eq!(client.refused(&past).sqlstate(), "22023");
    assert_eq!(
        client.text(stored)?,
        was.replace("90 days", "100 days")
            .replace("Act A", "Act A as amended")
    );
    Ok(())
}

/// Bills with two minimums: one with a clock of its own, one that runs from the table's; and an owner who is no steward.
const CLOCKS: &str = r#"
    CREATE ROLE steward; CREATE ROLE li LOGIN IN ROLE steward; CREATE ROLE app LOGIN;
    CREATE EXTENSION pg_custodian; CREATE SCHEMA s AUTHORIZATION app; GRANT USAGE ON SCHEMA s TO li;
    SET ROLE app;
    CREATE TABLE s.bill (id int PRIMARY KEY, at timestamptz, paid timestamptz, payer text, street text, note text);
    INSERT INTO s.bill VALUES (1, now() - interval '200 days', now() - interval '70 days', 'p', 's', 'n');
    CREATE TABLE s.old_bill () INHERITS (s.bill);
    RESET ROLE;
    SELECT custodian.define_purpose('p.a', 'contract', '10 days');
    SELECT custodian.tag_table('s.bill', clock => 'at');
    SELECT custodian.tag_column('s.bill', c, 'user.name', '{p.a}', on_expiry => 'set_null') FROM unnest('{payer,street,note}'::text[]) c;
    SELECT custodian.require_minimum('k.paid', 's.bill', '{payer}', '90 days', 'Act A', clock => 'paid');
    SELECT custodian.require_minimum('k.at', 's.bill', '{street}', '300 days', 'Act A')"#;

const KEPT: &str =
    "SELECT string_agg(concat_ws(' ', column_name, state, decided_by), ', ' ORDER BY column_name)
    FROM custodian.explain_row('s.bill', '{\"id\":1}') WHERE column_name <> 'note'";

fn clocks(name: &str) -> Result<Cluster> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.steward_role = 'steward'")
        .conf("custodian.naptime = 3600")
        .start()?;
    node.exec(CLOCKS)?;
    Ok(node)
}

fn apply(document: &str, dry_run: bool) -> String {
    format!("SELECT custodian.apply_policy('{document}', dry_run => {dry_run})")
}

#[test]
fn the_clock_of_a_minimum_stays_by_whatever_way_it_is_asked() -> Result<()> {
    let node = clocks("clocks")?;
    let mut client = node.client()?;
    let before = "payer blocked minimum: k.paid, street blocked minimum: k.at";
    let clocks = "SELECT string_agg(name || ' ' || clock, ', ' ORDER BY name) FROM custodian.retention_schedule
                  WHERE rule <> 'purpose' AND relation = 's.bill'::regclass";
    assert_eq!(client.text(KEPT)?, before);
    // Raised without repeating its clock, it runs from the one that it had: by the cell's own it would be over.
    client.batch_execute("SELECT custodian.require_minimum('k.paid', 's.bill', '{payer}', '95 days', 'Act A as amended')")?;
    assert_eq!(client.text(KEPT)?, before);
    assert_eq!(client.text(clocks)?, "k.at at, k.paid paid");

    let street = r#"{"category":"user.name","sensitivity":"personal","purposes":["p.a"],"on_expiry":"set_null""#;
    let mut ways = vec![
        "SELECT custodian.require_minimum('k.paid', 's.bill', '{payer}', '95 days', 'Act A as amended', clock => 'at')".to_owned(),
        "SELECT custodian.require_minimum('k.at', 's.bill', '{street}', '300 days', 'Act A', clock => 'paid')".to_owned(),
        "SELECT custodian.tag_table('s.bill', clock => 'paid')".to_owned(),
        "SELECT custodian.tag_table('s.bill', on_expiry => 'delete')".to_owned(),
        "SELECT custodian.untag_table('s.bill')".to_owned(),
        "SELECT custodian.tag_column('s.bill', 'street', 'user.name', '{p.a}', on_expiry => 'set_null', clock => 'paid')".to_owned(),
        r#"SECURITY LABEL FOR custodian ON TABLE s.bill IS '{"clock":"paid"}'"#.to_owned(),
        format!(r#"SECURITY LABEL FOR custodian ON COLUMN s.bill.street IS '{street},"minimums":[{{"name":"k.at"}}],"clock":"paid"}}'"#),
        format!(r#"SECURITY LABEL FOR custodian ON COLUMN s.bill.payer IS '{street},"minimums":[{{"name":"k.paid"}}]}}'"#),
        // A child's own tag decides as far as its parent's leaves room.
        "SELECT custodian.tag_column('s.old_bill', 'street', 'user.name', '{p.a}', on_expiry => 'set_null', clock => 'paid')".to_owned(),
        format!(r#"SET ROLE app; SECURITY LABEL FOR custodian ON COLUMN s.old_bill.street IS '{street},"clock":"paid"}}'"#),
    ];
    for dry_run in [true, false] {
        ways.extend([
            apply(r#"{"tables":{"s.bill":{"tag":{"clock":"paid"}}}}"#, dry_run),
            apply(r#"{"tables":{"s.bill":{"tag":null}}}"#, dry_run),
            apply(
                &format!(r#"{{"tables":{{"s.bill":{{"columns":{{"payer":{street},"minimums":[{{"name":"k.paid"}}]}}}}}}}}}}"#),
                dry_run,
            ),
        ]);
    }
    for sql in ways {
        let error = client.refused(&sql);
        assert_eq!(error.sqlstate(), "22023", "{sql}: {error}");
        assert!(error.to_string().contains("new name"), "{sql}: {error}");
        client.batch_execute("RESET ROLE")?;
        assert_eq!(client.text(clocks)?, "k.at at, k.paid paid", "{sql}");
        assert_eq!(client.text(KEPT)?, before, "{sql}");
    }

    // As a child it would have its parent's clock.
    client.batch_execute(
        "SET ROLE app;
         CREATE TABLE s.other (LIKE s.bill); CREATE TABLE s.parent (LIKE s.bill);
         CREATE TABLE s.parted (LIKE s.bill) PARTITION BY LIST (id);
         RESET ROLE;
         SELECT custodian.tag_table('s.other', clock => 'at'), custodian.tag_table('s.parent', clock => 'paid'),
                custodian.tag_table('s.parted', clock => 'paid');
         SELECT custodian.tag_column(rel, 'street', 'user.name', '{p.a}', on_expiry => 'set_null')
         FROM unnest('{s.other,s.parent,s.parted}'::regclass[]) rel;
         SELECT custodian.require_minimum('k.at', 's.other', '{street}', '300 days', 'Act A')",
    )?;
    for sql in [
        "SET ROLE app; ALTER TABLE s.other INHERIT s.parent",
        "SET ROLE app; ALTER TABLE s.parted ATTACH PARTITION s.other FOR VALUES IN (1)",
    ] {
        let error = client.refused(sql);
        assert_eq!(error.sqlstate(), "22023", "{sql}: {error}");
        client.batch_execute("RESET ROLE")?;
    }
    // Also where other statements run inside: the sequence of a column, and what event triggers do.
    client.batch_execute(
        "CREATE FUNCTION s.tell() RETURNS event_trigger LANGUAGE plpgsql AS
             $$ BEGIN NOTIFY told; BEGIN ALTER TABLE s.parent ADD id int; EXCEPTION WHEN duplicate_column THEN END; END $$;
         CREATE EVENT TRIGGER tell ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION s.tell();
         CREATE FUNCTION s.relabel() RETURNS event_trigger LANGUAGE plpgsql AS
             $$ BEGIN IF pg_trigger_depth() = 0 AND current_setting('s.inside', true) IS DISTINCT FROM 't' THEN
                 SET LOCAL s.inside = 't'; SECURITY LABEL FOR custodian ON COLUMN s.parent.note IS NULL; SET LOCAL s.inside = 'f'; END IF; END $$;
         CREATE EVENT TRIGGER relabel ON ddl_command_end WHEN TAG IN ('SECURITY LABEL') EXECUTE FUNCTION s.relabel()",
    )?;
    for sql in [
        "SET ROLE app; ALTER TABLE s.other INHERIT s.parent, ADD COLUMN n serial",
        "SET ROLE app; ALTER TABLE s.parted ATTACH PARTITION s.other FOR VALUES IN (1)",
        r#"SECURITY LABEL FOR custodian ON TABLE s.other IS '{"clock":"paid"}'"#,
    ] {
        let error = client.refused(sql);
        assert_eq!(error.sqlstate(), "22023", "{sql}: {error}");
        client.batch_execute("RESET ROLE")?;
    }
    client.batch_execute("DROP EVENT TRIGGER tell; DROP EVENT TRIGGER relabel")?;
    client.batch_execute(
        "SELECT custodian.require_minimum('k.at', 's.other', '{street}', '300 days', 'Act A', clock => 'at');
         SET ROLE app; ALTER TABLE s.other INHERIT s.parent; ALTER TABLE s.other NO INHERIT s.parent;
         ALTER TABLE s.parted ATTACH PARTITION s.other FOR VALUES IN (1); RESET ROLE",
    )?;

    // Once it has its clock for its own, that of the table is anybody's to change who may, also in one document.
    client.batch_execute(&apply(
        &format!(r#"{{"tables":{{"s.bill":{{"tag":{{"clock":"paid"}},"columns":{{"street":{street},"minimums":[{{"name":"k.at","clock":"at"}}]}}}}}}}}}}"#),
        false,
    ))?;
    assert_eq!(client.text(clocks)?, "k.at at, k.paid paid");
    client.batch_execute(
        "SELECT custodian.require_minimum('k.at', 's.bill', '{street}', '310 days', 'Act A', clock => 'at');
         SELECT custodian.tag_table('s.bill', clock => 'at');
         SELECT custodian.tag_table('s.bill', clock => 'paid')",
    )?;
    assert_eq!(client.text(clocks)?, "k.at at, k.paid paid");
    // One without a clock keeps for ever, and may get one.
    client.batch_execute(
        "CREATE TABLE s.open (a text, at timestamptz);
         SELECT custodian.tag_column('s.open', 'a', 'user.name', '{p.a}', on_expiry => 'set_null');
         SELECT custodian.require_minimum('k.open', 's.open', '{a}', '90 days', 'Act O');
         SELECT custodian.tag_table('s.open', clock => 'at')",
    )?;
    Ok(())
}

#[test]
fn the_clock_of_a_kept_row_moves_later_and_never_back() -> Result<()> {
    let node = clocks("moved")?;
    let mut app = node.client_as("app", "postgres")?;
    for sql in [
        "UPDATE s.bill SET paid = '1990-01-01'",
        "UPDATE s.bill SET at = at - interval '1 second'",
        "UPDATE s.bill SET paid = NULL",
        "UPDATE s.bill SET paid = '-infinity'",
        "UPDATE s.bill SET paid = 'infinity'",
        "INSERT INTO s.bill (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET paid = '1990-01-01'",
        "MERGE INTO s.bill b USING (VALUES (1)) v (id) ON b.id = v.id WHEN MATCHED THEN UPDATE SET paid = '1990-01-01'",
    ] {
        let error = app.refused(sql);
        assert_eq!(error.sqlstate(), "23001", "{sql}: {error}");
        assert!(
            error.to_string().contains("may not move back"),
            "{sql}: {error}"
        );
    }
    app.batch_execute(
        "UPDATE s.bill SET paid = paid + interval '1 second', at = at; UPDATE s.bill SET note = 'x', street = 'corrected';
         INSERT INTO s.bill VALUES (2, now(), NULL, 'p', 's', 'n'), (3, '1990-01-01', '1990-01-01', 'p', 's', 'n');
         UPDATE s.bill SET paid = '1990-01-01' WHERE id = 2; UPDATE s.bill SET paid = NULL, at = '1980-01-01' WHERE id = 3",
    )?;
    // Where a steward chose so it is a warning.
    node.exec("SELECT custodian.enforce_minimum('k.paid', 'warn')")?;
    app.batch_execute("UPDATE s.bill SET paid = '1990-01-01' WHERE id = 1")?;
    assert_eq!(
        app.refused("UPDATE s.bill SET at = '1990-01-01' WHERE id = 1")
            .sqlstate(),
        "23001"
    );
    Ok(())
}

#[test]
fn defences_and_maximums_keep_their_clocks_too() -> Result<()> {
    let node = clocks("clocks_of_others")?;
    let mut client = node.client()?;
    for (what, again) in [
        ("declare_defence", "100 days"),
        ("require_maximum", "80 days"),
    ] {
        let call = |period: &str, clock: &str| {
            format!(
                "SELECT custodian.{what}('k.{what}', 's.bill', '{{note}}', '{period}', 'Act C'{clock})"
            )
        };
        client.batch_execute(&call("90 days", ", clock => 'paid'"))?;
        client.batch_execute(&call(again, ""))?;
        let clock = format!(
            "SELECT period, clock FROM custodian.retention_schedule WHERE name = 'k.{what}'"
        );
        assert_eq!(client.text(&clock)?, format!("{again}|paid"));
        let error = client.refused(&call(again, ", clock => 'at'"));
        assert_eq!(error.sqlstate(), "22023", "{error}");
    }
    Ok(())
}

#[test]
fn a_steward_alone_drops_a_minimum_and_the_ledger_names_it() -> Result<()> {
    let node = clocks("dropped")?;
    let mut li = node.client_as("li", "postgres")?;
    let mut app = node.client_as("app", "postgres")?;
    let mut superuser = node.client()?;
    let tag = r#"{"category":"user.name","sensitivity":"personal","purposes":["p.a"],"on_expiry":"set_null""#;
    let others = format!(r#""note":{tag}}},"street":{tag},"minimums":[{{"name":"k.at"}}]}}"#);
    let column = |label: &str| {
        apply(
            &format!(r#"{{"tables":{{"s.bill":{{"columns":{{"payer":{label}}}}}}}}}"#),
            false,
        )
    };
    let whole = |label: &str| {
        let law = |name: &str, days: u32| {
            format!(r#""{name}":{{"period":"{days} days","citation":"Act A"}}"#)
        };
        let document = format!(
            r#"{{"complete":true,"purposes":{{"p.a":{{"period":"10 days"}}}},"minimums":{{{},{}}},
                "tables":{{"s.bill":{{"tag":{{"clock":"at"}},"columns":{{{label}{others}}}}}}}}}"#,
            law("k.paid", 90),
            law("k.at", 300)
        );
        apply(&document, false)
    };
    let ways = [
        "SELECT custodian.untag_column('s.bill', 'payer')".to_owned(),
        "SELECT custodian.clear_column('s.bill', 'payer')".to_owned(),
        "SECURITY LABEL FOR custodian ON COLUMN s.bill.payer IS NULL".to_owned(),
        format!("SECURITY LABEL FOR custodian ON COLUMN s.bill.payer IS '{tag}}}'"),
        column("null"),
        column(&format!("{tag}}}")),
        column(r#"{"not_personal":true}"#),
        whole(""),
        whole(&format!(r#""payer":{tag}}},"#)),
    ];
    let again = "SELECT custodian.untag_column('s.bill', 'payer');
                 SELECT custodian.tag_column('s.bill', 'payer', 'user.name', '{p.a}', on_expiry => 'set_null');
                 SELECT custodian.require_minimum('k.paid', 's.bill', '{payer}', '90 days', 'Act A', clock => 'paid')";
    let names = "SELECT count(*) FROM custodian.retention_schedule WHERE name = 'k.paid'";
    for sql in ways {
        assert_eq!(li.text(names)?, "1", "{sql}");
        let error = app.refused(&sql);
        assert_eq!(error.sqlstate(), "42501", "{sql}: {error}");
        assert_eq!(li.text(names)?, "1", "{sql}");
        let kept = superuser.refused("DELETE FROM s.bill");
        assert_eq!(kept.sqlstate(), "23001", "{kept}");
        let last = superuser.text("SELECT max(entry) FROM custodian.ledger")?;
        // SECURITY LABEL is an owner's, whom the server asks for besides.
        let steward = if sql.starts_with("SECURITY") {
            &mut superuser
        } else {
            &mut li
        };
        steward.batch_execute(&sql)?;
        assert_eq!(li.text(names)?, "0", "{sql}");
        assert_eq!(
            superuser.text(&format!(
                "SELECT object, detail -> 'old' -> 'minimums' FROM custodian.ledger
                 WHERE entry > {last} AND kind LIKE 'tag.%' AND object = 's.bill.payer'"
            ))?,
            r#"s.bill.payer|[{"name": "k.paid", "clock": "paid"}]"#,
            "{sql}"
        );
        superuser.batch_execute(again)?;
    }
    Ok(())
}

#[test]
fn only_a_superuser_moves_the_clock() -> Result<()> {
    let node = Cluster::builder("clock_offset")
        .preload("pg_custodian")
        .conf("custodian.steward_role = 'steward'")
        .start()?;
    node.exec(
        "CREATE ROLE steward; CREATE ROLE li LOGIN IN ROLE steward; CREATE EXTENSION pg_custodian",
    )?;
    let mut li = node.client_as("li", "postgres")?;
    for sql in [
        "SET custodian.clock_offset = '1d'",
        "SET LOCAL custodian.clock_offset = '-1d'",
        "SELECT set_config('custodian.clock_offset', '1d', false)",
        "ALTER ROLE li SET custodian.clock_offset = '1d'",
        "ALTER DATABASE postgres SET custodian.clock_offset = '1d'",
    ] {
        assert_eq!(li.refused(sql).sqlstate(), "42501", "{sql}");
    }
    node.exec("SET custodian.clock_offset = '1d'")
}
