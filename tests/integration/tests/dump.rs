//! Tags and policy travel in pg_dump, and a restore brings back the same ones, whatever the OIDs.

use std::fs;
use std::path::PathBuf;

use integration::{Cluster, Result, Sql, host};
use postgres::Client;

/// Purposes with a history, a minimum, a permit, tags of every form; a dropped column moves the attribute
/// numbers of the restored table.
const SCHEMA: &str = r#"
    CREATE EXTENSION pg_custodian;
    CREATE SCHEMA shop AUTHORIZATION shopkeeper;
    SET ROLE shopkeeper;
    CREATE TABLE shop.customer (id bigint PRIMARY KEY, gone text, email text, "Tel; --" text, country text,
                                last_seen_at timestamptz NOT NULL, created_at timestamptz NOT NULL);
    ALTER TABLE shop.customer DROP COLUMN gone;
    CREATE TABLE shop.invoice (id bigint PRIMARY KEY, address text, issued date,
                               customer_id bigint CONSTRAINT customer REFERENCES shop.customer);
    CREATE TABLE shop.click (at timestamptz NOT NULL, ip inet, url text) PARTITION BY RANGE (at);
    CREATE TABLE shop.click_2024 PARTITION OF shop.click FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    INSERT INTO shop.customer SELECT n, n || '@example.com', n, 'cn', now() - n * interval '1 day', now() - interval '9 years'
        FROM generate_series(1, 1000) n;
    INSERT INTO shop.invoice SELECT n, 'street ' || n, current_date - n * 4, n FROM generate_series(1, 1000) n;
    CREATE TABLE shop.profile (id bigint PRIMARY KEY, doc jsonb, seen timestamptz);
    CREATE TABLE shop.picture (profile bigint REFERENCES shop.profile ON DELETE CASCADE);
    INSERT INTO shop.click VALUES ('2024-05-05', '10.1.2.3', '/');
    RESET ROLE;
    SELECT custodian.define_lawful_basis('br', 'contract', 'LGPD art. 7, V', false, valid_from => '2020-09-18');
    SELECT custodian.define_purpose('shop.brazil', 'contract', '3 years', 'br');
    SELECT custodian.define_purpose('shop.account', 'contract', '3 years');
    SELECT custodian.define_purpose('shop.account', 'contract', '200 days');
    SELECT custodian.define_purpose('shop.marketing', 'consent', '90 days', required => false, description => 'letters; "quoted"');
    SELECT custodian.define_purpose('shop.letters', 'consent', '90 days', required => false);
    SELECT custodian.end_purpose('shop.marketing', '2030-01-01 00:00+00');
    SELECT custodian.tag_table('shop.customer', clock => 'last_seen_at', collected => 'created_at', subject_kind => 'customer',
        subject_key => '{id}', on_expiry => 'delete', residency_column => 'country');
    SELECT custodian.tag_column('shop.customer', 'email', 'user.contact.email', '{shop.account,shop.marketing}',
        residency => '{cn}', on_expiry => 'set_null');
    SELECT custodian.tag_column('shop.customer', 'Tel; --', 'user.contact.phone_number', '{shop.account}',
        on_expiry => '{"constant":"''; --"}');
    SELECT custodian.clear_column('shop.customer', 'country');
    SELECT custodian.tag_table('shop.invoice', clock => 'customer.last_seen_at', subject_kind => 'customer', subject_via => '{customer_id}');
    SELECT custodian.tag_column('shop.invoice', 'address', 'user.contact', '{shop.account}', on_expiry => 'set_null');
    SELECT custodian.require_minimum('cn.tax.invoice', 'shop.invoice', '{address}', '5 years', 'Law A, article 1', clock => 'issued');
    SELECT custodian.tag_table('shop.click', clock => 'at', on_expiry => 'delete');
    SELECT custodian.tag_column('shop.click', 'ip', 'user.device.ip_address', '{shop.account}', on_expiry => 'network');
    SELECT custodian.tag_column('shop.click_2024', 'ip', 'user.device.ip_address', '{shop.account}', sensitivity => 'sensitive');
    SELECT custodian.tag_table('shop.profile', clock => 'seen', on_expiry => 'delete', subject_kind => 'profile', subject_key => '{id}');
    SELECT custodian.declare_dependents('shop.profile', '{shop.picture}');
    SELECT custodian.tag_column('shop.profile', 'doc', 'user.contact.email', '{shop.account}', residency => '{cn}',
        on_expiry => 'set_null', path => '{contact,"e.mail"}');
    SELECT custodian.tag_column('shop.profile', 'doc', 'user.note', '{shop.letters}', on_expiry => '{"constant":"\"''\""}', path => '{note}');
    SELECT custodian.require_minimum('cn.tax.invoice', 'shop.profile', '{doc.note}', '5 years', 'Law A, article 1');
    SELECT custodian.declare_defence('cn.claim', 'shop.profile', '{doc.note}', '3 years', 'Civil Code art. 188');
    SELECT custodian.suspend_defence('cn.claim', '2024-01-01 00:00+00'); SELECT custodian.resume_defence('cn.claim', '2024-02-01 00:00+00');
    SELECT custodian.enforce_minimum('cn.tax.invoice', 'warn');
    SELECT custodian.require_maximum('cn.limit', 'shop.profile', '{doc.note}', '9 years', 'Law D');
    SELECT custodian.record_consent('profile', '{1}', 'shop.letters', '2024-01-01 00:00+00', 'form 7');
    SELECT custodian.record_consent('profile', '{2}', 'shop.letters', '2024-01-01 00:00+00');
    SELECT custodian.withdraw_consent('profile', '{1}', 'shop.letters', '2024-03-01 00:00+00');
    SELECT custodian.waive(code, object, 'reviewed', 'shopkeeper', now() + interval '1 year')
        FROM custodian.check() ORDER BY code, object LIMIT 1;
    SELECT custodian.permit_publication('pub', '{cn,eu}', 'assessed');
    CREATE PUBLICATION "swept there";
    SELECT custodian.declare_subscriber_disposal('swept there', 'it has sweeps of its own');"#;

/// All that was declared, by name.
const POLICY: [&str; 12] = [
    "SELECT relation::text, column_name, kind, category, sensitivity, purposes, residency, on_expiry, clock, minimums,
            subject_kind, subject_key, subject_via, collected, null_clock, residency_column, disposal, problem, maximums, dependents
     FROM custodian.tags ORDER BY 1, 2",
    "SELECT * FROM custodian.purpose ORDER BY 1",
    "SELECT * FROM custodian.purpose_period ORDER BY 1, 2",
    "SELECT * FROM custodian.minimum ORDER BY 1",
    "SELECT * FROM custodian.maximum ORDER BY 1",
    "SELECT * FROM custodian.suspension ORDER BY 1, 2",
    "SELECT * FROM custodian.consent ORDER BY 1, 2, 3, 4",
    "SELECT * FROM custodian.waiver ORDER BY 1",
    "SELECT * FROM custodian.publication_permit ORDER BY 1",
    "SELECT * FROM custodian.subscriber_disposal ORDER BY 1",
    "SELECT * FROM custodian.lawful_basis ORDER BY 1, 2, 3",
    "SELECT provider, objname, label FROM pg_seclabels WHERE objtype IN ('table', 'column') ORDER BY 2",
];

const OIDS: &str = "SELECT string_agg(c.oid::text, ',' ORDER BY c.relname) FROM pg_class c WHERE c.relnamespace = 'shop'::regnamespace";

fn policy(node: &Cluster, database: &str) -> Result<Vec<String>> {
    let mut client = node.client_as("postgres", database)?;
    let texts = POLICY
        .iter()
        .map(|query| client.text(query))
        .collect::<Result<Vec<String>>>()?;
    for text in &texts {
        assert!(!text.is_empty(), "each of them has rows");
    }
    Ok(texts)
}

/// A cluster with a database `source`, and its dump in the custom format.
fn dumped(name: &str) -> Result<(Cluster, PathBuf)> {
    let node = Cluster::builder(name).preload("pg_custodian").start()?;
    node.exec("CREATE ROLE shopkeeper")?;
    node.create_database("source")?.batch_execute(SCHEMA)?;
    let file = node.dir().join("source.dump");
    node.program("pg_dump")?
        .database("source")
        .args(["-Fc", "-f"])
        .arg(&file)
        .run()?
        .ok()?;
    Ok((node, file))
}

#[test]
fn a_restore_brings_the_same_tags_and_policy_whatever_the_oids() -> Result<()> {
    let (node, file) = dumped("dump")?;
    node.create_database("target")?;
    node.program("pg_restore")?
        .database("target")
        .args(["--exit-on-error", "-d", "target"])
        .arg(&file)
        .run()?
        .ok()?;
    assert_eq!(policy(&node, "target")?, policy(&node, "source")?);

    let mut source = node.client_as("postgres", "source")?;
    let mut target = node.client_as("postgres", "target")?;
    assert_ne!(source.text(OIDS)?, target.text(OIDS)?);
    // What was decided elsewhere is not: epochs begin anew, with the labels that the restore wrote.
    assert_eq!(
        target.text("SELECT DISTINCT change FROM custodian.epoch")?,
        "tag.added"
    );
    // The clock over a foreign key, which was restored after the label that names it, is found again.
    assert_eq!(
        target.text("SELECT custodian.tag_column('shop.invoice', 'address', 'user.contact', '{shop.account}', on_expiry => 'set_null')")?,
        ""
    );
    assert_eq!(policy(&node, "target")?, policy(&node, "source")?);

    // The same policy on the same rows means the same: one preview, one moment.
    let preview = "SELECT relation::text, column_names, action, reason, rows
                   FROM custodian.preview(as_of => '2030-06-01 00:00+00') ORDER BY 1, 2, 3, 4";
    let expected = source.text(preview)?;
    assert!(expected.contains("shop.customer|"), "{expected}");
    assert!(expected.contains("Law A, article 1"), "{expected}");
    assert_eq!(target.text(preview)?, expected);

    // With several jobs, too: labels are restored by the first connection.
    node.create_database("parallel")?;
    node.program("pg_restore")?
        .database("parallel")
        .args(["--exit-on-error", "--jobs=3", "-d", "parallel"])
        .arg(&file)
        .run()?
        .ok()?;
    assert_eq!(policy(&node, "parallel")?, policy(&node, "source")?);
    Ok(())
}

#[test]
fn an_owner_restores_tags_but_not_what_a_steward_cleared() -> Result<()> {
    let (node, file) = dumped("dump-owner")?;
    node.create_database("target")?.batch_execute(
        "CREATE EXTENSION pg_custodian; GRANT CREATE ON DATABASE target TO shopkeeper; ALTER ROLE shopkeeper LOGIN",
    )?;
    let output = node
        .program("pg_restore")?
        .role("shopkeeper")
        .database("target")
        .args(["--schema=shop", "-d", "target"])
        .arg(&file)
        .run()?;
    // --schema leaves out the schema itself.
    assert!(output.all().contains("schema \"shop\" does not exist"));
    node.client_as("shopkeeper", "target")?
        .batch_execute("CREATE SCHEMA shop")?;
    let output = node
        .program("pg_restore")?
        .role("shopkeeper")
        .database("target")
        .args(["--schema=shop", "-d", "target"])
        .arg(&file)
        .run()?;
    let errors: Vec<&str> = output
        .stderr
        .lines()
        .filter(|line| line.contains("ERROR:"))
        .collect();
    assert_eq!(
        errors,
        [
            "pg_restore: error: could not execute query: ERROR:  must be a data steward to loosen the tag of table shop.customer"
        ]
    );
    // pg_restore sends all labels of a table as one command, so one that takes a steward, such as a residency_column or a
    // column that was cleared, keeps the others out: such a dump is restored by a steward or superuser.
    let tags = "SELECT relation::text, column_name, kind FROM custodian.tags WHERE relation <> 'shop.customer'::regclass ORDER BY 1, 2";
    let mut target = node.client_as("postgres", "target")?;
    assert_eq!(
        target.text(
            "SELECT count(*) FROM custodian.tags WHERE relation = 'shop.customer'::regclass"
        )?,
        "0"
    );
    assert_eq!(
        target.text(tags)?,
        node.client_as("postgres", "source")?.text(tags)?
    );
    Ok(())
}

#[test]
fn without_preloading_a_restore_works_and_without_the_library_labels_are_lost_and_can_be_restored_later()
-> Result<()> {
    let (source, file) = dumped("dump-with")?;
    let node = Cluster::builder("without").start()?;
    node.exec("CREATE ROLE shopkeeper")?;
    node.create_database("target")?;
    // CREATE EXTENSION loads the library into the session that restores.
    node.program("pg_restore")?
        .database("target")
        .args(["--exit-on-error", "-d", "target"])
        .arg(&file)
        .run()?
        .ok()?;
    assert_eq!(policy(&node, "target")?, policy(&source, "source")?);

    // Without the extension nobody knows the provider of the labels. Data are restored all the same.
    node.create_database("bare")?;
    let list = node.dir().join("list");
    let contents = node
        .program("pg_restore")?
        .arg("--list")
        .arg(&file)
        .run()?
        .ok()?;
    let kept: Vec<&str> = contents
        .lines()
        .filter(|line| !line.contains("EXTENSION") && !line.contains(" custodian "))
        .collect();
    integration::host::write_private(&list, &kept.join("\n"))?;
    let output = node
        .program("pg_restore")?
        .database("bare")
        .args(["-d", "bare", "-L"])
        .arg(&list)
        .arg(&file)
        .run()?;
    assert!(!output.success());
    let lost = output
        .stderr
        .matches("ERROR:  security label provider \"custodian\" is not loaded")
        .count();
    // pg_restore sends all labels of a table as one command.
    let labelled = source
        .client_as("postgres", "source")?
        .text("SELECT count(DISTINCT relation) FROM custodian.tags")?;
    assert_eq!(lost.to_string(), labelled, "{output}");
    assert_eq!(
        output.stderr.matches("ERROR:").count(),
        lost,
        "nothing else failed: {output}"
    );
    let mut bare = node.client_as("postgres", "bare")?;
    assert_eq!(bare.text("SELECT count(*) FROM shop.customer")?, "1000");
    // What to do: with the library, the same dump's labels are restored alone.
    bare.batch_execute("CREATE EXTENSION pg_custodian")?;
    let labels_only: Vec<&str> = contents
        .lines()
        .filter(|line| line.contains("SECURITY LABEL"))
        .collect();
    let only = node.dir().join("labels");
    integration::host::write_private(&only, &labels_only.join("\n"))?;
    let output = node
        .program("pg_restore")?
        .env("PGOPTIONS", "-c session_preload_libraries=pg_custodian")
        .database("bare")
        .args(["--exit-on-error", "-d", "bare", "-L"])
        .arg(&only)
        .arg(&file)
        .run()?;
    output.ok()?;
    assert_eq!(
        bare.text(POLICY[0])?,
        source.client_as("postgres", "source")?.text(POLICY[0])?
    );
    Ok(())
}

/// Constraints that the source did not have: each refuses what the method of its column would write.
const PEOPLE: &str = "
    CREATE EXTENSION pg_custodian;
    CREATE SCHEMA shop;
    CREATE DOMAIN shop.word AS text;
    CREATE TABLE shop.person (
        id int NOT NULL, at timestamptz, email text, phone text, nick shop.word, code text, fine text);
    INSERT INTO shop.person SELECT n, '2020-01-01', 'e', 'p', 'n', 'c' || n, 'f' FROM generate_series(1, 3) n;
    SELECT custodian.define_purpose('shop.account', 'contract', '1 year');
    SELECT custodian.tag_table('shop.person', clock => 'at');
    SELECT custodian.tag_column('shop.person', c, 'user.name', '{shop.account}', on_expiry => m)
        FROM (VALUES ('email', 'set_null'), ('phone', 'set_null'), ('nick', 'set_null'), ('fine', 'set_null'),
                     ('code', '{\"constant\":\"gone\"}')) v(c, m);";

/// What stands where the constraints are: unresolved, kept, and told.
fn constrained(client: &mut Client, keys: &str) -> Result<()> {
    // Without its keys a restored database disposes of nothing.
    client.execute("SELECT custodian.import_keys($1)", &[&keys])?;
    assert_eq!(
        client.text(
            "SELECT string_agg(object, ' ' ORDER BY object) FROM custodian.check() WHERE code = 'tag-unresolved'"
        )?,
        "shop.person.code shop.person.email shop.person.nick shop.person.phone"
    );
    assert_eq!(
        client.text(
            "SELECT column_names, action, rows FROM custodian.preview('shop.person') ORDER BY 1"
        )?,
        "{code}|keep|\n{email}|keep|\n{fine}|set null|3\n{nick}|keep|\n{phone}|keep|"
    );
    client.batch_execute("BEGIN; SELECT custodian.sweep_now('shop.person')")?;
    assert_eq!(
        client.text("SELECT count(code), count(email), count(fine), count(nick), count(phone) FROM shop.person")?,
        "3|3|0|3|3"
    );
    client.batch_execute("ROLLBACK")?;
    Ok(())
}

#[test]
fn a_constraint_that_comes_with_a_restore_leaves_the_tags_unresolved_that_it_refuses() -> Result<()>
{
    let node = Cluster::builder("dump-constraint")
        .preload("pg_custodian")
        .conf("custodian.max_disposal_fraction = 1")
        .start()?;
    let mut source = node.create_database("source")?;
    source.batch_execute(PEOPLE)?;
    assert_eq!(
        source.text("SELECT count(*) FROM custodian.check() WHERE code = 'tag-unresolved'")?,
        "0"
    );

    // A dump as SQL that somebody edited: in CREATE TABLE and CREATE DOMAIN before the labels, and at its end.
    let plain = node.dir().join("plain.sql");
    node.program("pg_dump")?
        .database("source")
        .arg("-f")
        .arg(&plain)
        .run()?
        .ok()?;
    let mut dump = fs::read_to_string(&plain)?;
    for (written, edited) in [
        ("    email text,", "    email text NOT NULL,"),
        (
            "CREATE DOMAIN shop.word AS text;",
            "CREATE DOMAIN shop.word AS text CHECK (VALUE IS NOT NULL);",
        ),
    ] {
        assert_eq!(dump.matches(written).count(), 1, "{written}");
        dump = dump.replace(written, edited);
    }
    dump.push_str(
        "ALTER TABLE shop.person ADD CONSTRAINT phone CHECK (phone IS NOT NULL), ADD CONSTRAINT code UNIQUE (code);",
    );
    let edited = node.dir().join("edited.sql");
    host::write_private(&edited, &dump)?;
    node.create_database("edited")?;
    node.program("psql")?
        .database("edited")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"])
        .arg(&edited)
        .run()?
        .ok()?;
    let keys = source.text("SELECT custodian.export_keys()")?;
    constrained(&mut node.client_as("postgres", "edited")?, &keys)?;

    // A restore by sections, with the constraints between the tables, which bring their labels, and the data.
    let file = node.dir().join("sections.dump");
    node.program("pg_dump")?
        .database("source")
        .args(["-Fc", "-f"])
        .arg(&file)
        .run()?
        .ok()?;
    let mut sections = node.create_database("sections")?;
    let restore = |section: &str| -> Result<()> {
        node.program("pg_restore")?
            .database("sections")
            .args(["--exit-on-error", section, "-d", "sections"])
            .arg(&file)
            .run()?
            .ok()?;
        Ok(())
    };
    restore("--section=pre-data")?;
    sections.batch_execute(
        "ALTER TABLE shop.person ALTER email SET NOT NULL, ADD CONSTRAINT phone CHECK (phone IS NOT NULL),
             ADD CONSTRAINT code UNIQUE (code);
         ALTER DOMAIN shop.word ADD CHECK (VALUE IS NOT NULL)",
    )?;
    restore("--section=data")?;
    restore("--section=post-data")?;
    constrained(&mut sections, &keys)
}
