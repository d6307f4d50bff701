//! Whether a row goes or becomes a shell, for every action of a foreign key and every sort of dependent.

use integration::{Cluster, Result, Sql};
use postgres::Client;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dependents {
    /// Their own time has come.
    Due,
    /// Their table is tagged, and their time has not come.
    NotDue,
    Untagged,
    /// Untagged, and the tag of the table that they refer to lets them go.
    Declared,
}

use Dependents::{Declared, Due, NotDue, Untagged};

const ACTIONS: [&str; 5] = [
    "NO ACTION",
    "RESTRICT",
    "CASCADE",
    "SET NULL",
    "SET DEFAULT",
];

/// What becomes of row 1 of the parent and of the row that refers to it: `parent | child`, where a parent is its id and
/// name, and a child what it refers to; nothing for a row that is gone.
fn fate(action: &str, dependents: Dependents, delete: bool) -> &'static str {
    if !delete {
        // The row stays whatever refers to it; of dependents that are due on their own account nothing is left.
        return if dependents == Due { "1:|" } else { "1:|1" };
    }
    match (dependents, action) {
        (Due, _) => "|",
        (NotDue | Untagged, _) => "1:|1",
        (Declared, "CASCADE") => "|",
        (Declared, "SET NULL") => "|null",
        (Declared, "SET DEFAULT") => "|0",
        (Declared, _) => "1:|1",
    }
}

fn build(client: &mut Client, action: &str, dependents: Dependents, delete: bool) -> Result<()> {
    let on_expiry = if delete { "'delete'" } else { "NULL" };
    client.batch_execute(&format!(
        "BEGIN;
         CREATE TABLE s.parent (id int PRIMARY KEY, at timestamptz, name text, mail text);
         CREATE TABLE s.child (id int PRIMARY KEY, up int DEFAULT 0 CONSTRAINT child_up REFERENCES s.parent ON DELETE {action},
             at timestamptz, text text);
         ALTER TABLE s.parent OWNER TO app; ALTER TABLE s.child OWNER TO app;
         INSERT INTO s.parent VALUES (0, NULL, 'nobody', 'm'), (1, now() - interval '20 days', 'somebody', 'm');
         INSERT INTO s.child VALUES (1, 1, now() - interval '{} days', 'x');
         SELECT custodian.tag_table('s.parent', clock => 'at', on_expiry => {on_expiry}, null_clock => 'not_started');
         SELECT custodian.tag_column('s.parent', 'name', 'user.name', '{{p.short}}', on_expiry => 'set_null')",
        if dependents == NotDue { 1 } else { 20 },
    ))?;
    if delete {
        // Without a method: it goes with its row or not at all.
        client.batch_execute(
            "SELECT custodian.tag_column('s.parent', 'mail', 'user.contact.email', '{p.short}')",
        )?;
    }
    match dependents {
        Due | NotDue => client.batch_execute(
            "SELECT custodian.tag_table('s.child', clock => 'at', on_expiry => 'delete');
             SELECT custodian.tag_column('s.child', 'text', 'user.content', '{p.short}')",
        )?,
        Untagged => {}
        Declared => {
            client.batch_execute("SELECT custodian.declare_dependents('s.parent', '{s.child}')")?
        }
    }
    Ok(())
}

/// In one transaction for each case, which is rolled back: nobody else sweeps what it makes.
#[test]
fn every_action_meets_every_sort_of_dependent() -> Result<()> {
    let node = Cluster::builder("foreign_keys")
        .preload("pg_custodian")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.naptime = 1h")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian;
         CREATE ROLE app NOLOGIN;
         CREATE SCHEMA s AUTHORIZATION app;
         SELECT custodian.define_purpose('p.short', 'contract', '10 days')",
    )?;
    let mut client = node.client()?;
    for action in ACTIONS {
        for dependents in [Due, NotDue, Untagged, Declared] {
            for delete in [true, false] {
                let case = format!("{action}, {dependents:?}, delete: {delete}");
                build(&mut client, action, dependents, delete)?;
                let fate = fate(action, dependents, delete);
                let stays = fate.starts_with("1:");

                // What will become of it is told beforehand, with the reason.
                let preview = client.text(
                    "SELECT action, reason, rows FROM custodian.preview('s.parent') ORDER BY 1, 2",
                )?;
                let expected = match (delete, stays) {
                    (_, false) if dependents == Declared && action == "CASCADE" => {
                        "delete row|past: p.short|1\ndelete row (cascade)|goes with s.parent|1"
                    }
                    (_, false) if dependents == Declared => {
                        "change row (cascade)|goes with s.parent|1\ndelete row|past: p.short|1"
                    }
                    (_, false) => "delete row|past: p.short|1",
                    (false, true) => "set null|past: p.short|1",
                    (true, true) => {
                        "keep|referenced by s.child (child_up)|1\nset null|past: p.short|1"
                    }
                };
                assert_eq!(preview, expected, "{case}");
                let explained = client.text(
                    "SELECT column_name, state, explanation FROM custodian.explain_row('s.parent', '{\"id\": 1}') ORDER BY 1",
                )?;
                let expected = match (delete, stays) {
                    (_, false) => {
                        "mail|due|Its row is due for deletion.\nname|due|Its row is due for deletion."
                    }
                    (false, true) => "name|due|It is due for disposal by its method.",
                    (true, true) => {
                        "mail|due|It goes with its row, which is referenced by: s.child.\n\
                         name|due|It is due for disposal by its method."
                    }
                };
                assert_eq!(explained, expected, "{case}");

                // Dependents first, as the worker does it.
                client.batch_execute("SAVEPOINT before")?;
                if matches!(dependents, Due | NotDue) {
                    client.batch_execute("SELECT custodian.sweep_now('s.child')")?;
                }
                client.batch_execute("SELECT custodian.sweep_now('s.parent')")?;
                let left = client.text(
                    "SELECT (SELECT id || ':' || coalesce(name, '') FROM s.parent WHERE id = 1),
                            (SELECT coalesce(up::text, 'null') FROM s.child)",
                )?;
                assert_eq!(left, fate, "{case}");
                client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE")?;
                // And what is left stays: a second sweep finds nothing.
                assert_eq!(
                    client.text("SELECT rows FROM custodian.sweep_now('s.parent')")?,
                    "",
                    "{case}"
                );

                // Before its dependents are gone no row goes by a cascade of theirs.
                if dependents == Due && delete {
                    client.batch_execute("ROLLBACK TO before")?;
                    client.batch_execute("SELECT custodian.sweep_now('s.parent')")?;
                    assert_eq!(
                        client.text(
                            "SELECT (SELECT count(*) FROM s.parent WHERE id = 1), (SELECT up FROM s.child)"
                        )?,
                        "1|1",
                        "{case}"
                    );
                }
                client.batch_execute("ROLLBACK")?;
            }
        }
    }
    Ok(())
}
