//! What was in force at a moment, in full and with the names of its time; and what of a past policy can be applied again.

use integration::{Cluster, Result, Sql, quote_literal};
use postgres::Client;

fn node(name: &str) -> Result<Cluster> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.disposal = observe")
        .start()?;
    node.exec(
        "CREATE ROLE counsel; CREATE EXTENSION pg_custodian; CREATE SCHEMA shop;
         CREATE TABLE shop.customer (id int PRIMARY KEY, mail text, phone text, at timestamptz NOT NULL);
         CREATE TABLE shop.invoice (no text PRIMARY KEY, part int, buyer text, at timestamptz NOT NULL) PARTITION BY LIST (no);
         CREATE TABLE shop.invoice_a PARTITION OF shop.invoice DEFAULT;
         SELECT custodian.define_purpose('shop.account', 'contract', '1 year');
         SELECT custodian.tag_table(t::regclass, clock => 'at') FROM unnest('{shop.customer,shop.invoice}'::text[]) t;
         SELECT custodian.tag_column('shop.customer', 'mail', 'user.contact.email', '{shop.account}', on_expiry => 'set_null'),
                custodian.tag_column('shop.invoice', 'buyer', 'user.name', '{shop.account}', on_expiry => 'set_null')",
    )?;
    Ok(node)
}

fn place(client: &mut Client, matter: &str, on: &str) -> Result<String> {
    client.text(&format!(
        "SELECT custodian.place_hold('{matter}', approver => 'counsel', review_on => '2099-01-01', reason => 'court', {on})"
    ))
}

/// The holds in force with what they name, as the view has them now.
const NOW: &str =
    "SELECT coalesce(string_agg(concat_ws(' ', matter, relation, match), ', ' ORDER BY hold), '')
                   FROM custodian.holds WHERE released_at IS NULL";

/// The same of a moment.
fn then(client: &mut Client, moment: &str) -> Result<String> {
    client.text(&format!(
        "SELECT coalesce(string_agg(concat_ws(' ', h ->> 'matter', h ->> 'relation', h -> 'match'), ', ' ORDER BY (h ->> 'hold')::int), '')
         FROM jsonb_array_elements(custodian.full_policy_as_of({}) -> 'holds') h",
        quote_literal(moment)
    ))
}

#[test]
fn holds_of_a_past_moment_have_the_names_of_their_time() -> Result<()> {
    let node = node("in_force_holds")?;
    let mut client = node.client()?;
    let mut seen: Vec<(String, String, &str)> = Vec::new();
    let mut step = |client: &mut Client, sql: &'static str| -> Result<()> {
        client.batch_execute(sql)?;
        let moment = client.text("SELECT clock_timestamp()")?;
        seen.push((moment, client.text(NOW)?, sql));
        Ok(())
    };
    step(&mut client, "SELECT 1")?;
    place(&mut client, "M1", "rel => 'shop.customer'")?;
    place(
        &mut client,
        "M2",
        r#"rel => 'shop.invoice', match => '{"no":["A1"],"part":[1]}'"#,
    )?;
    for sql in [
        "SELECT 2",
        "ALTER TABLE shop.invoice RENAME COLUMN no TO number",
        "ALTER TABLE shop.invoice RENAME COLUMN part TO no",
        "ALTER TABLE shop.customer RENAME TO \"cust omer\"",
        "ALTER SCHEMA shop RENAME TO store",
        "ALTER TABLE store.invoice SET SCHEMA public",
        // Of several names in one transaction only the last was ever in force.
        "BEGIN; ALTER TABLE invoice RENAME TO a; ALTER TABLE a RENAME COLUMN no TO b; ALTER TABLE a RENAME TO bill;
         ALTER TABLE bill RENAME COLUMN number TO c; COMMIT",
        "BEGIN; ALTER TABLE bill RENAME TO lost; ROLLBACK",
        // A partition has no name in it, but its columns are renamed with those of the table.
        "ALTER TABLE store.invoice_a RENAME TO invoice_b",
        "SELECT custodian.release_hold(hold, 'counsel', 'settled') FROM custodian.holds WHERE matter = 'M1'",
        "ALTER TABLE store.\"cust omer\" RENAME TO person",
        "ALTER TABLE bill RENAME COLUMN c TO number",
    ] {
        step(&mut client, sql)?;
    }
    assert_eq!(
        seen[1].1,
        r#"M1 shop.customer, M2 shop.invoice {"no": ["A1"], "part": [1]}"#
            .replace("[1]", r#"["1"]"#)
    );
    assert_eq!(
        seen[8].1,
        r#"M1 store."cust omer", M2 public.bill {"b": ["1"], "c": ["A1"]}"#
    );
    for (moment, expected, sql) in &seen {
        assert_eq!(then(&mut client, moment)?, *expected, "after {sql}");
    }
    // They travel with the holds.
    let dumped = client.text(
        "SELECT count(*) FROM pg_extension e, unnest(e.extconfig) c WHERE e.extname = 'pg_custodian' AND c = 'custodian.hold_former_name'::regclass",
    )?;
    assert_eq!(dumped, "1");
    // What a hold named is for stewards.
    client.batch_execute("CREATE ROLE alice LOGIN")?;
    let mut alice = node.client_as("alice", "postgres")?;
    for table in ["former_hold_names", "hold_former_name"] {
        let refused = alice.refused(&format!("SELECT * FROM custodian.{table}"));
        assert_eq!(refused.sqlstate(), "42501", "{table}");
    }
    Ok(())
}

#[test]
fn waivers_and_lawful_bases_are_those_of_the_moment() -> Result<()> {
    let node = node("in_force_waivers")?;
    let mut client = node.client()?;
    client.batch_execute(
        "INSERT INTO custodian.waiver (code, object, reason, owner, waived_at, expires_at, revoked_at)
         VALUES ('a', 'o', 'r', 'counsel', '2020-01-01', '2020-03-01', NULL),
                ('b', 'o', 'r', 'counsel', '2020-02-01', '2020-12-01', '2020-04-01');
         SELECT custodian.define_lawful_basis('br', 'credit', 'LGPD art. 7, X', consent_based => false, valid_from => '2020-02-01');
         SELECT custodian.define_lawful_basis('br', 'credit', 'LGPD art. 7, XI', consent_based => false,
                                              valid_from => '2020-03-01', valid_to => '2020-05-01');
         SELECT custodian.define_lawful_basis('br', 'late', 'LGPD art. 8', consent_based => true, valid_from => '2020-02-01');
         UPDATE custodian.lawful_basis SET recorded_at = '2020-01-15' WHERE basis = 'credit'",
    )?;
    let told = client.text(
        "SELECT jsonb_path_query_array(p, '$.waivers[*].code'), p #>> '{lawful_bases,br,credit,citation}', p #>> '{lawful_bases,br,late,citation}',
                p #>> '{lawful_bases,eu,consent,citation}', p #>> '{lawful_bases,gb,consent,citation}'
         FROM (VALUES ('2018-05-24 23:59:59Z'::timestamptz), ('2020-01-01Z'), ('2020-02-01Z'), ('2020-03-01Z'), ('2020-04-01Z'), ('2020-05-01Z'),
                      ('2021-01-01Z')) v (at), custodian.full_policy_as_of(at) p",
    )?;
    assert_eq!(
        told,
        "[]||||
[\"a\"]|||GDPR art. 6(1)(a)|
[\"a\", \"b\"]|LGPD art. 7, X||GDPR art. 6(1)(a)|
[\"b\"]|LGPD art. 7, XI||GDPR art. 6(1)(a)|
[]|LGPD art. 7, XI||GDPR art. 6(1)(a)|
[]|||GDPR art. 6(1)(a)|
[]|||GDPR art. 6(1)(a)|UK GDPR art. 6(1)(a)"
    );
    // What a steward's replaced counted until then.
    client.batch_execute(
        "SELECT custodian.define_lawful_basis('eu', 'contract', 'the law as we read it', consent_based => false, valid_from => '2018-05-25')",
    )?;
    assert_eq!(
        client.text(
            "SELECT p #>> '{lawful_bases,eu,contract,citation}' FROM (VALUES (timestamptz '2020-01-01Z'), (clock_timestamp())) v (at), custodian.full_policy_as_of(at) p"
        )?,
        "GDPR art. 6(1)(b)\nthe law as we read it"
    );
    // It counts from when it was added.
    let late = "SELECT custodian.full_policy_as_of(clock_timestamp()) #>> '{lawful_bases,br,late,citation}'";
    assert_eq!(client.text(late)?, "LGPD art. 8");
    // A waiver as a steward gives it, and takes it back.
    let mut moments = Vec::new();
    let codes =
        "SELECT jsonb_path_query_array(custodian.full_policy_as_of(MOMENT), '$.waivers[*].code')";
    client.batch_execute("ALTER TABLE shop.customer ADD young timestamptz; SELECT custodian.tag_column('shop.customer', 'phone', 'user.contact', '{shop.account}')")?;
    let code = client.text("SELECT code FROM custodian.check() ORDER BY code, object LIMIT 1")?;
    for sql in [
        "SELECT 1",
        "SELECT custodian.waive(code, object, 'known', 'counsel', now() + interval '1 day') FROM custodian.check() ORDER BY code, object LIMIT 1",
        "SELECT custodian.revoke_waiver(waiver, 'over') FROM custodian.waivers WHERE revoked_at IS NULL AND expires_at > now()",
    ] {
        client.batch_execute(sql)?;
        moments.push(client.text("SELECT clock_timestamp()")?);
    }
    let told: Vec<String> = moments
        .iter()
        .map(|moment| client.text(&codes.replace("MOMENT", &quote_literal(moment))))
        .collect::<Result<_>>()?;
    assert_eq!(
        told,
        ["[]".to_owned(), format!("[\"{code}\"]"), "[]".to_owned()]
    );
    Ok(())
}

#[test]
fn a_past_policy_is_applied_again_where_its_names_are_those_of_today() -> Result<()> {
    let node = node("in_force_again")?;
    let mut client = node.client()?;
    // What a document declares anew: the histories of purposes go on.
    const DECLARED: &str =
        "SELECT jsonb_pretty(custodian.export_policy() #- '{purposes,shop.account,history}')";
    let (before, moment) = (
        client.text(DECLARED)?,
        client.text("SELECT clock_timestamp()")?,
    );
    client.batch_execute(
        "SELECT custodian.define_purpose('shop.account', 'contract', '90 days');
         SELECT custodian.tag_column('shop.customer', 'phone', 'user.contact', '{shop.account}', on_expiry => 'set_null');
         SELECT custodian.untag_column('shop.invoice', 'buyer')",
    )?;
    assert_ne!(client.text(DECLARED)?, before);
    let apply = |dry_run: bool| {
        format!(
            "SELECT object, change, loosens FROM custodian.apply_policy(custodian.policy_as_of({}), dry_run => {dry_run}) ORDER BY 1, 2",
            quote_literal(&moment)
        )
    };
    let difference = "column shop.customer.phone|remove the label|t\ncolumn shop.invoice.buyer|tag|f\npurpose shop.account|lengthen the period|t";
    assert_eq!(client.text(&apply(true))?, difference);
    // A table of another name is not found, and nothing is applied.
    client.batch_execute("ALTER TABLE shop.customer RENAME TO person")?;
    for dry_run in [true, false] {
        assert_eq!(client.refused(&apply(dry_run)).sqlstate(), "42704");
    }
    client.batch_execute("ALTER TABLE shop.person RENAME TO customer")?;
    assert_eq!(client.text(&apply(false))?, difference);
    assert_eq!(client.text(DECLARED)?, before);
    assert_eq!(client.text(&apply(false))?, "");
    // In full it is for reading.
    let full = format!(
        "SELECT custodian.apply_policy(custodian.full_policy_as_of({}))",
        quote_literal(&moment)
    );
    assert_eq!(client.refused(&full).sqlstate(), "22023");
    Ok(())
}
