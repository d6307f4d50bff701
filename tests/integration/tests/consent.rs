//! Consent: a withdrawal ends a purpose for one subject, and nobody learns of consents what is not theirs to know.

use integration::{Cluster, Result, Sql};

/// Three customers, seen lately, whose mail address is held with their consent; their owner an ordinary role.
const SCHEMA: &str = "
    CREATE EXTENSION pg_custodian;
    CREATE ROLE app NOLOGIN;
    CREATE SCHEMA shop AUTHORIZATION app;
    CREATE TABLE shop.customer (id bigint PRIMARY KEY, email text, seen timestamptz NOT NULL DEFAULT now());
    CREATE TABLE shop.letter (id bigint PRIMARY KEY, customer_id bigint REFERENCES shop.customer, body text,
                              sent timestamptz NOT NULL DEFAULT now());
    ALTER TABLE shop.customer OWNER TO app;
    ALTER TABLE shop.letter OWNER TO app;
    INSERT INTO shop.customer SELECT n, 'u' || n FROM generate_series(1, 3) n;
    INSERT INTO shop.letter SELECT n, n, 'b' || n FROM generate_series(1, 3) n;
    SELECT custodian.define_purpose('shop.mail', 'consent', '10 years', required => false);
    SELECT custodian.define_purpose('shop.study', 'consent', '10 years', required => false);
    SELECT custodian.tag_table('shop.customer', clock => 'seen', subject_kind => 'customer', subject_key => '{id}');
    SELECT custodian.tag_column('shop.customer', 'email', 'user.contact.email', '{shop.mail}', on_expiry => 'set_null');
    SELECT custodian.tag_table('shop.letter', clock => 'sent', subject_kind => 'customer', subject_via => '{customer_id}',
                               on_expiry => 'delete');
    SELECT custodian.tag_column('shop.letter', 'body', 'user.content', '{shop.mail}');
    SELECT custodian.record_consent('customer', ARRAY[n], 'shop.mail', now() - interval '2 days'),
           custodian.record_consent('customer', ARRAY[n], 'shop.study', now() - interval '2 days')
    FROM (VALUES ('1'), ('2')) v (n)";

fn cluster(name: &str) -> Result<Cluster> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 1")
        // Sweeps of these tests are called by name.
        .conf("custodian.naptime = 1h")
        .start()?;
    node.exec(SCHEMA)?;
    Ok(node)
}

const LEFT: &str = "SELECT c.id, c.email IS NOT NULL, l.id IS NOT NULL
                    FROM shop.customer c LEFT JOIN shop.letter l ON l.customer_id = c.id ORDER BY 1";

#[test]
fn what_a_withdrawal_ends_goes_with_the_next_sweep_and_nothing_else() -> Result<()> {
    let node = cluster("withdrawal")?;
    let sweep = "SELECT custodian.sweep_now('shop.letter'), custodian.sweep_now('shop.customer')";
    node.exec(sweep)?;
    assert_eq!(node.text(LEFT)?, "1|t|t\n2|t|t\n3|t|t");
    let epoch = node.text("SELECT max(epoch) FROM custodian.epoch")?;
    node.exec("SELECT custodian.withdraw_consent('customer', '{1}', 'shop.mail')")?;
    // One person's act is no new policy.
    assert_eq!(node.text("SELECT max(epoch) FROM custodian.epoch")?, epoch);
    node.exec(sweep)?;
    assert_eq!(node.text(LEFT)?, "1|f|f\n2|t|t\n3|t|t");
    // What is collected after a new consent stays.
    node.exec(
        "SELECT custodian.record_consent('customer', '{1}', 'shop.mail');
         UPDATE shop.customer SET email = 'again' WHERE id = 1",
    )?;
    node.exec(sweep)?;
    assert_eq!(node.text(LEFT)?, "1|t|f\n2|t|t\n3|t|t");
    Ok(())
}

#[test]
fn a_consent_given_again_waits_for_batches_that_saw_the_withdrawal() -> Result<()> {
    let node = cluster("again")?;
    node.exec("SELECT custodian.withdraw_consent('customer', '{1}', 'shop.mail', now() - interval '1 day')")?;
    let mut sweep = node.client()?;
    sweep.batch_execute("BEGIN; SELECT custodian.sweep_now('shop.customer')")?;
    let mut app = node.client()?;
    app.batch_execute("SET lock_timeout = '300ms'")?;
    let error = app.refused("SELECT custodian.record_consent('customer', '{1}', 'shop.mail')");
    assert_eq!(error.sqlstate(), "55P03");
    // Others need not wait: what they record takes nothing from the sweep.
    app.batch_execute(
        "SELECT custodian.record_consent('customer', '{3}', 'shop.mail');
         SELECT custodian.withdraw_consent('customer', '{2}', 'shop.mail')",
    )?;
    sweep.batch_execute("ROLLBACK")?;
    app.batch_execute("SELECT custodian.record_consent('customer', '{1}', 'shop.mail')")?;
    Ok(())
}

#[test]
fn a_trigger_of_the_owner_learns_nothing_of_purposes_that_its_table_is_not_held_for() -> Result<()>
{
    let node = cluster("consent_spy")?;
    node.exec(
        "CREATE TABLE shop.seen (what text);
         ALTER TABLE shop.seen OWNER TO app;
         CREATE FUNCTION shop.spy() RETURNS trigger LANGUAGE plpgsql AS $$
         DECLARE purpose text;
         BEGIN
             FOREACH purpose IN ARRAY '{shop.mail,shop.study}'::text[] LOOP
                 BEGIN
                     INSERT INTO shop.seen VALUES (purpose || ' ' ||
                         custodian.sweep_consent('customer', purpose, ARRAY[old.id::text], now()));
                 EXCEPTION WHEN insufficient_privilege THEN
                     INSERT INTO shop.seen VALUES (purpose || ' refused');
                 END;
             END LOOP;
             BEGIN
                 INSERT INTO shop.seen SELECT 'table ' || count(*) FROM custodian.consent;
             EXCEPTION WHEN insufficient_privilege THEN
                 INSERT INTO shop.seen VALUES ('table refused');
             END;
             RETURN new;
         END $$;
         ALTER FUNCTION shop.spy() OWNER TO app;
         CREATE TRIGGER spy BEFORE UPDATE ON shop.customer FOR EACH ROW EXECUTE FUNCTION shop.spy();
         SELECT custodian.withdraw_consent('customer', '{1}', 'shop.mail');
         SELECT custodian.sweep_now('shop.customer')",
    )?;
    // Its own purpose it could also tell from what the sweep leaves.
    assert_eq!(
        node.text("SELECT what FROM shop.seen ORDER BY what")?,
        "shop.mail withdrawn\nshop.study refused\ntable refused"
    );
    Ok(())
}

#[test]
fn consents_suspensions_and_maximums_travel_in_dumps() -> Result<()> {
    let node = cluster("consent_dump")?;
    // The restored database gets a scheduler, too, which would dispose of what is compared.
    node.alter_system("custodian.disposal", "observe")?;
    node.exec(
        "SELECT custodian.withdraw_consent('customer', '{1}', 'shop.mail');
         SELECT custodian.declare_defence('cn.claim', 'shop.letter', '{body}', '3 years', 'Civil Code art. 188');
         SELECT custodian.suspend_defence('cn.claim', now() - interval '1 day');
         SELECT custodian.require_maximum('cn.max', 'shop.customer', '{email}', '5 years', 'Law B')",
    )?;
    let policy = "SELECT to_jsonb(c) FROM custodian.consent c
                  UNION ALL SELECT to_jsonb(s) FROM custodian.suspension s
                  UNION ALL SELECT to_jsonb(m) FROM custodian.maximum m
                  UNION ALL SELECT to_jsonb(e) FROM custodian.explain_row('shop.customer', '{\"id\":1}', '2030-01-01') e
                  ORDER BY 1";
    let before = node.text(policy)?;
    assert_eq!(before.lines().count(), 7, "{before}");
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
        .args(["--exit-on-error", "-j", "2", "-d", "restored"])
        .arg(&file)
        .run()?
        .ok()?;
    assert_eq!(restored.text(policy)?, before);
    Ok(())
}
