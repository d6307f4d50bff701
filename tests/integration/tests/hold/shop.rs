//! The database that the tests work on, and what they expect of it.

use integration::{Cluster, Error, Result, Sql};
use postgres::Client;

pub const MATTER: &str = "case 42";

/// A shop: customers, their orders by year, tickets. Customers 1 to 3 with two orders and a ticket each.
pub fn shop() -> Result<Cluster> {
    let node = Cluster::builder("hold")
        .preload("pg_custodian")
        .conf("deadlock_timeout = 200ms")
        .conf("custodian.naptime = 3600")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec(SHOP)?;
    node.exec(
        "SELECT custodian.define_purpose('shop.account', 'contract', '50 years');
         SELECT custodian.tag_column('shop.customer', 'email', 'user.contact.email', ARRAY['shop.account'], on_expiry => 'set_null', clock => 'last_seen');
         SELECT custodian.tag_table('shop.customer', clock => 'last_seen', subject_kind => 'customer', subject_key => ARRAY['id']);
         SELECT custodian.tag_table('shop.orders', clock => 'at', subject_kind => 'customer', subject_via => ARRAY['customer_id']);
         SELECT custodian.tag_table('shop.ticket', clock => 'at', subject_kind => 'customer', subject_via => ARRAY['customer_id'])",
    )?;
    Ok(node)
}

const SHOP: &str = "
    CREATE ROLE shop LOGIN; CREATE ROLE counsel; CREATE SCHEMA shop AUTHORIZATION shop;
    SET ROLE shop;
    CREATE TABLE shop.customer (id int PRIMARY KEY, email text, note text, last_seen timestamptz);
    CREATE TABLE shop.orders (id int, customer_id int REFERENCES shop.customer ON DELETE CASCADE,
        invoice_no text, amount int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE shop.orders_2024 PARTITION OF shop.orders FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    CREATE TABLE shop.orders_2025 PARTITION OF shop.orders FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE TABLE shop.ticket (id int PRIMARY KEY, customer_id int REFERENCES shop.customer ON DELETE SET NULL,
        body text, at timestamptz);
    INSERT INTO shop.customer SELECT n, 'c' || n || '@example.org', 'note', '2024-05-01' FROM generate_series(1, 3) n;
    INSERT INTO shop.orders SELECT n, n, 'A' || n, 10 * n, '2024-06-01' FROM generate_series(1, 3) n;
    INSERT INTO shop.orders SELECT 10 + n, n, 'B' || n, 10 * n, '2025-06-01' FROM generate_series(1, 3) n;
    INSERT INTO shop.ticket SELECT n, n, 'help', '2025-01-01' FROM generate_series(1, 3) n;
    RESET ROLE;
";

pub fn hold_customer(node: &Cluster, id: u32) -> Result<String> {
    node.text(&format!(
        "SELECT custodian.place_hold('{MATTER}', 'counsel', current_date + 30, 'court order',
             subject_kind => 'customer', subject_key => ARRAY['{id}'])"
    ))
}

/// The statements are refused because of the matter, and the message gives no value away.
#[track_caller]
pub fn kept(client: &mut Client, sql: &str) -> Error {
    kept_by(client, sql, MATTER)
}

#[track_caller]
pub fn kept_by(client: &mut Client, sql: &str, by: &str) -> Error {
    let error = client.refused(sql);
    assert_eq!(error.sqlstate(), "23001", "{sql}: {error}");
    let text = error.to_string();
    assert!(text.contains(by), "{sql}: {text}");
    assert!(!text.contains("example.org"), "{text}");
    let _closed = client.batch_execute("ROLLBACK");
    error
}

pub fn counts(node: &Cluster) -> Result<String> {
    node.text(
        "SELECT (SELECT count(*) FROM shop.customer), (SELECT count(*) FROM shop.orders),
                (SELECT count(*) FROM shop.ticket WHERE customer_id IS NOT NULL)",
    )
}
