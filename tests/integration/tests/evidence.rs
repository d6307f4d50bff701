//! Evidence on real clusters: tampering, concurrency, crashes, standbys, restores.

use std::thread;

use integration::{Cluster, Result, Sql, Stop, quote_literal, wait_until};

fn node(name: &str) -> Result<Cluster> {
    let node = Cluster::builder(name).preload("pg_custodian").start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    Ok(node)
}

/// Makes entries: each export of keys is one.
const ENTRY: &str = "SELECT custodian.export_keys() IS NOT NULL";

fn seal(node: &Cluster) -> Result<String> {
    node.text("SELECT custodian.seal_ledger() > 0")?;
    node.text("SELECT custodian.ledger_head()")
}

fn verify(node: &Cluster, head: Option<&str>) -> Result<String> {
    let head = head.map_or("NULL".to_owned(), quote_literal);
    node.text(&format!("SELECT * FROM custodian.verify_ledger({head})"))
}

/// Two blocks of three entries at least, and their head; the ledger is saved aside for [`undo`].
fn sealed(node: &Cluster) -> Result<String> {
    for _ in 0..2 {
        // The scheduler may seal at any moment, but not a part of a transaction.
        node.text(&format!("{ENTRY} FROM generate_series(1, 3)"))?;
        seal(node)?;
    }
    let head = node.text("SELECT custodian.ledger_head()")?;
    node.exec(
        "CREATE TABLE saved_entry AS TABLE custodian.ledger_entry;
         CREATE TABLE saved_block AS TABLE custodian.ledger_block;
         CREATE TABLE saved_leaf AS TABLE custodian.ledger_leaf",
    )?;
    Ok(head)
}

fn undo(node: &Cluster) -> Result<()> {
    node.exec(
        "TRUNCATE custodian.ledger_entry, custodian.ledger_block, custodian.ledger_leaf, custodian.ledger_tail;
         INSERT INTO custodian.ledger_entry OVERRIDING SYSTEM VALUE TABLE saved_entry;
         INSERT INTO custodian.ledger_block TABLE saved_block;
         INSERT INTO custodian.ledger_leaf TABLE saved_leaf",
    )
}

#[test]
fn tampering_is_found_against_an_exported_head() -> Result<()> {
    let node = node("tampering")?;
    let head = sealed(&node)?;
    assert_eq!(verify(&node, Some(&head))?, "");
    let of_last = |what: &str| {
        node.text(&format!(
            "SELECT {what} FROM saved_leaf WHERE block = (SELECT max(block) FROM saved_block)"
        ))
    };
    let (block, first, last) = (
        of_last("max(block)")?,
        of_last("min(entry)")?,
        of_last("max(entry)")?,
    );

    // What a superuser does, and what of it must be named.
    let cases = [
        (
            format!("UPDATE custodian.ledger_entry SET body = body || ' ' WHERE entry = {first}"),
            format!("{block}|{first}|the entry was edited"),
        ),
        (
            format!("DELETE FROM custodian.ledger_entry WHERE entry = {last}"),
            format!("{block}|{last}|the entry was deleted"),
        ),
        (
            format!(
                "INSERT INTO custodian.ledger_entry OVERRIDING SYSTEM VALUE VALUES (999999, '{{}}');
                 INSERT INTO custodian.ledger_leaf SELECT 999999, {block}, count(*), sha256('\\x00' || int8send(999999) || '{{}}')
                 FROM custodian.ledger_leaf WHERE block = {block}"
            ),
            format!("{block}|999999|the entry was inserted into the sealed block"),
        ),
        (
            format!(
                "CREATE TEMPORARY TABLE turned AS
                     SELECT entry, hash, row_number() OVER (ORDER BY entry DESC) - 1 AS position
                     FROM custodian.ledger_leaf WHERE block = {block};
                 DELETE FROM custodian.ledger_leaf WHERE block = {block};
                 INSERT INTO custodian.ledger_leaf SELECT entry, {block}, position, hash FROM turned"
            ),
            format!("{block}|{first}|the entry is not where it was sealed"),
        ),
        (
            format!(
                "DELETE FROM custodian.ledger_leaf WHERE block = {block};
                 DELETE FROM custodian.ledger_block WHERE block = {block};
                 DELETE FROM custodian.ledger_entry WHERE entry >= {first};
                 TRUNCATE custodian.ledger_tail"
            ),
            format!("{block}||block {block} is missing"),
        ),
        (
            format!(
                "UPDATE custodian.ledger_entry SET body = body || ' ' WHERE entry = {first};
                 INSERT INTO custodian.ledger_tail SELECT entry FROM custodian.ledger_leaf WHERE block = {block};
                 DELETE FROM custodian.ledger_leaf WHERE block = {block};
                 DELETE FROM custodian.ledger_block WHERE block = {block};
                 SELECT custodian.seal_ledger()"
            ),
            format!("{block}||the block is not the one that the head names: the ledger was rewritten"),
        ),
    ];
    for (tampering, expected) in cases {
        node.exec(&tampering)?;
        let problems = verify(&node, Some(&head))?;
        assert!(
            problems.lines().any(|line| line.starts_with(&expected)),
            "after {tampering}\nthere should be {expected}\nbut there is {problems}"
        );
        undo(&node)?;
        assert_eq!(verify(&node, Some(&head))?, "");
        undo(&node)?;
    }
    Ok(())
}

#[test]
fn concurrent_entries_are_sealed_once_and_rolled_back_ones_never() -> Result<()> {
    let node = node("concurrent")?;
    // The lowest number commits last.
    let mut late = node.client()?;
    late.batch_execute(&format!("BEGIN; {ENTRY}"))?;
    thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|number| {
                let node = &node;
                scope.spawn(move || -> Result<()> {
                    let mut client = node.client()?;
                    for round in 0..15 {
                        client.text(ENTRY)?;
                        client.batch_execute(&format!("BEGIN; {ENTRY}; ROLLBACK"))?;
                        if (round + number) % 3 == 0 {
                            client.text("SELECT custodian.seal_ledger()")?;
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        writers
            .into_iter()
            .try_for_each(|writer| writer.join().map_err(|_| "a writer panicked")?)
    })?;
    let before = seal(&node)?;
    late.batch_execute("COMMIT")?;
    let after = seal(&node)?;
    assert_ne!(before, after);
    for head in [&before, &after] {
        assert_eq!(verify(&node, Some(head))?, "");
    }
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.ledger WHERE kind = 'key.exported'")?,
        "61"
    );
    seal(&node)?;
    assert_eq!(
        node.text(
            "SELECT (SELECT count(*) FROM custodian.ledger_tail),
                    (SELECT count(*) FROM custodian.ledger_entry) = (SELECT count(*) FROM custodian.ledger_leaf),
                    (SELECT sum(entries) FROM custodian.ledger_block) = (SELECT count(*) FROM custodian.ledger_leaf)"
        )?,
        "0|t|t"
    );
    Ok(())
}

#[test]
fn crashes_leave_a_valid_ledger_and_say_that_they_happened() -> Result<()> {
    let node = node("crash")?;
    let mut heads = vec![seal(&node)?];
    for crash in 1..=3 {
        let mut victim = node.client()?;
        let pid = victim.text("SELECT pg_backend_pid()")?;
        // Dies between appending and sealing, or while it seals.
        let work = thread::spawn(move || {
            while victim
                .text(&format!("{ENTRY}; SELECT custodian.seal_ledger()"))
                .is_ok()
            {}
        });
        let sealed = |node: &Cluster| node.text("SELECT max(block) FROM custodian.ledger_block");
        let start = sealed(&node)?;
        wait_until("blocks are sealed", 60, || {
            sealed(&node).is_ok_and(|now| now != start)
        });
        heads.push(node.text("SELECT custodian.ledger_head()")?);
        node.kill_backend(pid.parse().map_err(|_| "no pid")?)?;
        work.join().map_err(|_| "the worker panicked")?;
        wait_until("the server has restarted after the crash", 60, || {
            node.log().matches("terminated; reinitializing").count() == crash
                && node.client().is_ok()
        });
        heads.push(seal(&node)?);
        for head in &heads {
            assert_eq!(verify(&node, Some(head))?, "");
        }
    }
    assert_eq!(
        node.text(
            "SELECT count(*) FILTER (WHERE (detail ->> 'after_crash')::boolean) FROM custodian.ledger WHERE kind = 'status.started'"
        )?,
        "3"
    );
    Ok(())
}

#[test]
fn fork_of_the_ledger_is_found_and_names_its_timeline() -> Result<()> {
    let primary = node("origin")?;
    let standby = primary.standby("fork").start()?;
    primary.text(ENTRY)?;
    let common = seal(&primary)?;
    primary.wait_for_catchup(&standby, 60)?;
    // A standby can be asked, and writes nothing about it.
    assert_eq!(verify(&standby, Some(&common))?, "");
    assert_eq!(standby.text("SELECT custodian.ledger_head()")?, common);
    let error = standby.client()?.refused("SELECT custodian.seal_ledger()");
    assert_eq!(error.sqlstate(), "55000");

    // Both go on, each as if there was no other.
    standby.promote()?;
    primary.text(ENTRY)?;
    let lost = seal(&primary)?;
    standby.text(ENTRY)?;
    let kept = seal(&standby)?;
    assert_ne!(lost, kept);
    assert_eq!(verify(&standby, Some(&common))?, "");
    assert_eq!(verify(&standby, Some(&kept))?, "");
    let problems = verify(&standby, Some(&lost))?;
    assert!(
        problems.contains("is not the one that the head names")
            && problems.contains("sealed on timeline 2"),
        "{problems}"
    );
    primary.stop(Stop::Fast)?;
    Ok(())
}

#[test]
fn restored_database_is_disarmed_until_its_keys_are_imported() -> Result<()> {
    let node = node("restore")?;
    let mut restored = node.create_database("restored")?;
    let keys = node.text("SELECT custodian.export_keys()")?;
    seal(&node)?;
    let dump = node.program("pg_dump")?.run()?.ok()?;
    let secret = keys
        .lines()
        .find_map(|line| line.strip_prefix("key ")?.rsplit(' ').next())
        .ok_or("no key in the export")?;
    assert!(!dump.contains(secret), "the dump carries a key");
    assert!(
        !dump.contains("key.exported"),
        "the dump carries the ledger"
    );
    let output = node.psql_as("postgres", "restored", &dump)?;
    assert!(output.success(), "{output}");

    let status = "SELECT armed FROM custodian.status";
    assert_eq!(restored.text(status)?, "f");
    assert_eq!(
        restored.text(
            "SELECT count(*), min(severity) FROM custodian.check() WHERE code = 'keys-missing'"
        )?,
        "2|error"
    );
    // What a person does: pass the text from one database to the other.
    let import = format!("SELECT custodian.import_keys({})", quote_literal(&keys));
    assert_eq!(restored.text(&import)?, "2");
    assert_eq!(restored.text(&import)?, "0");
    assert_eq!(restored.text(status)?, "t");
    assert_eq!(
        restored.text("SELECT count(*) FROM custodian.check() WHERE code = 'keys-missing'")?,
        "0"
    );
    // The restored database goes on with the keys of its origin.
    let active = "SELECT use, fingerprint FROM custodian.key_ref r WHERE created_at = (SELECT min(created_at) FROM custodian.key_ref) ORDER BY 1";
    assert_eq!(restored.text(active)?, node.text(active)?);
    assert_eq!(
        restored.text(
            "SELECT kind, detail ->> 'keys' FROM custodian.ledger WHERE kind = 'key.imported'"
        )?,
        "key.imported|2"
    );
    // A key of another configuration is refused: the origin does not know the keys made in the copy.
    let theirs = restored.text("SELECT custodian.export_keys()")?;
    let error = node.client()?.refused(&format!(
        "SELECT custodian.import_keys({})",
        quote_literal(&theirs)
    ));
    assert_eq!(error.sqlstate(), "42704");
    Ok(())
}

#[test]
fn imported_keys_do_not_show_in_the_activity_of_sessions() -> Result<()> {
    let node = node("activity")?;
    let mut client = node.client()?;
    let keys = client.text("SELECT custodian.export_keys()")?;
    let shown = client.text(&format!(
        "SELECT n, query FROM custodian.import_keys({}) AS n, LATERAL (
             SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid() AND n >= 0) AS a",
        quote_literal(&keys)
    ))?;
    assert!(
        shown.starts_with("0|SELECT custodian.import_keys("),
        "{shown}"
    );
    assert!(!shown.contains("BEGIN CUSTODIAN"), "{shown}");
    Ok(())
}

#[test]
fn without_preloading_evidence_works_and_says_what_is_missing() -> Result<()> {
    let node = Cluster::builder("bare").start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    let head = seal(&node)?;
    assert_eq!(verify(&node, Some(&head))?, "");
    assert_eq!(
        node.text("SELECT preloaded, worker_alive, armed FROM custodian.status")?,
        "f|f|t"
    );
    let problem =
        node.text("SELECT severity, remedy FROM custodian.check() WHERE code = 'not-preloaded'")?;
    assert!(
        problem.starts_with("error|")
            && problem.contains("shared_preload_libraries = 'pg_custodian'"),
        "{problem}"
    );
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.guard_events")?,
        "0"
    );
    Ok(())
}

/// A cluster where every publication of the table is refused, since nobody reviewed its columns.
fn guarded(name: &str) -> Result<Cluster> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("wal_level = logical")
        .conf("custodian.enforce = on")
        // No round of the scheduler after its first one.
        .conf("custodian.naptime = 86400")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian; CREATE TABLE unreviewed (a int)")?;
    wait_until("the scheduler's first round is over", 60, || {
        node.text("SELECT last_success IS NOT NULL FROM custodian.status")
            .is_ok_and(|over| over == "t")
    });
    Ok(node)
}

const REFUSED: &str = "42501";

#[test]
fn refused_statement_is_in_the_ledger_although_its_transaction_aborted() -> Result<()> {
    let node = guarded("refused")?;
    let mut client = node.client()?;
    for _ in 0..3 {
        let error = client.refused("CREATE PUBLICATION secret FOR TABLE unreviewed");
        assert_eq!(error.sqlstate(), REFUSED);
    }
    let shown = "SELECT count, gate, outcome, role, object FROM custodian.guard_events WHERE object LIKE '%secret%'";
    let expected = client.text(shown)?;
    assert!(
        expected.starts_with("3|ddl|refused|postgres|"),
        "{expected}"
    );
    let in_ledger = "SELECT kind, actor, detail ->> 'count', at > now() - interval '1 hour' FROM custodian.ledger WHERE object LIKE '%secret%'";
    assert_eq!(client.text(in_ledger)?, "");

    // A transaction that moves them and fails loses none.
    client.batch_execute("BEGIN; SELECT custodian.seal_ledger()")?;
    assert_eq!(client.text(in_ledger)?, "guard.refused|postgres|3|t");
    client.batch_execute("ROLLBACK")?;
    assert_eq!(client.text(in_ledger)?, "");
    assert_eq!(client.text(shown)?, expected);

    // Once it has committed they are there once.
    for _ in 0..2 {
        seal(&node)?;
        assert_eq!(client.text(in_ledger)?, "guard.refused|postgres|3|t");
        assert_eq!(client.text(shown)?, expected);
    }
    // What comes again is counted again.
    client.refused("CREATE PUBLICATION secret FOR TABLE unreviewed");
    let head = seal(&node)?;
    assert_eq!(
        client.text(
            "SELECT sum(count), count(*) FROM custodian.guard_events WHERE object LIKE '%secret%'"
        )?,
        "4|2"
    );
    assert_eq!(verify(&node, Some(&head))?, "");
    Ok(())
}

#[test]
fn a_role_that_floods_the_guards_events_does_not_keep_others_out() -> Result<()> {
    let node = guarded("flood")?;
    let mut client = node.client()?;
    client.batch_execute("CREATE ROLE flood SUPERUSER; CREATE ROLE quiet SUPERUSER")?;
    client.batch_execute("SET SESSION AUTHORIZATION flood")?;
    for number in 0..300 {
        client.refused(&format!(
            "CREATE PUBLICATION p{number} FOR TABLE unreviewed"
        ));
    }
    client.batch_execute("SET SESSION AUTHORIZATION quiet")?;
    client.refused("CREATE PUBLICATION secret FOR TABLE unreviewed");
    client.batch_execute("RESET SESSION AUTHORIZATION")?;
    seal(&node)?;
    // Nothing is lost, and what the flood left no room for is told as one event.
    assert_eq!(
        client.text(
            "SELECT role, sum(count), count(*) < 300, count(*) FILTER (WHERE reason LIKE 'several: %'),
                    count(*) FILTER (WHERE object LIKE '%secret%')
             FROM custodian.guard_events WHERE outcome = 'refused' GROUP BY role ORDER BY role"
        )?,
        "flood|300|t|1|0\nquiet|1|t|0|1"
    );
    assert_eq!(
        client.text("SELECT count(*) FROM custodian.check() WHERE code = 'events-lost'")?,
        "0"
    );
    Ok(())
}

#[test]
fn events_that_find_no_room_are_counted() -> Result<()> {
    let node = guarded("overflow")?;
    let mut client = node.client()?;
    // More roles than there is room for one event each.
    let kinds = 300;
    for number in 0..kinds {
        client.batch_execute(&format!(
            "CREATE ROLE r{number} SUPERUSER; SET SESSION AUTHORIZATION r{number}"
        ))?;
        client.refused("CREATE PUBLICATION p FOR TABLE unreviewed");
        client.batch_execute("RESET SESSION AUTHORIZATION")?;
    }
    assert_eq!(
        client.text("SELECT code, severity FROM custodian.check() WHERE code = 'events-lost'")?,
        "events-lost|warning"
    );
    seal(&node)?;
    let lost: i64 = client
        .text("SELECT detail ->> 'count' FROM custodian.ledger WHERE kind = 'status.events_lost'")?
        .parse()
        .map_err(|_| "no number of lost events")?;
    let kept: i64 = client
        .text("SELECT count(*) FROM custodian.ledger WHERE kind = 'guard.refused'")?
        .parse()
        .map_err(|_| "no number of events")?;
    assert!(lost > 0, "{lost}");
    assert_eq!(lost + kept, kinds);
    // There is room again, and the loss is told once.
    client.refused("CREATE PUBLICATION late FOR TABLE unreviewed");
    seal(&node)?;
    assert_eq!(
        client.text("SELECT count(*) FILTER (WHERE kind = 'status.events_lost'), count(*) FILTER (WHERE object LIKE '%late%') FROM custodian.ledger")?,
        "1|1"
    );
    Ok(())
}

#[test]
fn events_of_another_database_are_not_shown_here() -> Result<()> {
    let node = guarded("databases")?;
    let mut other = node.create_database("other")?;
    other.batch_execute("CREATE EXTENSION pg_custodian; CREATE TABLE unreviewed (a int)")?;
    other.refused("CREATE PUBLICATION elsewhere FOR TABLE unreviewed");
    let count = "SELECT count(*) FROM custodian.guard_events WHERE object LIKE '%elsewhere%'";
    assert_eq!(other.text(count)?, "1");
    assert_eq!(node.text(count)?, "0");
    seal(&node)?;
    assert_eq!(node.text(count)?, "0");
    assert_eq!(other.text(count)?, "1");
    Ok(())
}

#[test]
fn refusals_reach_the_ledger_unasked_and_are_sealed() -> Result<()> {
    let node = Cluster::builder("unasked")
        .preload("pg_custodian")
        .conf("custodian.enforce = on")
        .conf("custodian.naptime = 1")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian; CREATE TABLE customer (email text); CREATE ROLE intern LOGIN")?;
    let mut intern = node.client_as("intern", "postgres")?;
    let decisions = [
        "SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.account}')",
        "SELECT custodian.define_purpose('shop.forever', 'contract', '99 years')",
        "SELECT custodian.seal_ledger()",
    ];
    for decision in decisions {
        assert_eq!(intern.refused(decision).sqlstate(), REFUSED);
    }
    // Looking is refused too, and no entry.
    assert_eq!(
        intern.refused("SELECT custodian.ledger_head()").sqlstate(),
        REFUSED
    );
    // A walsender belongs to no database.
    let copy = node
        .program("pg_basebackup")?
        .args(["-D", &node.dir().join("copy").display().to_string()])
        .run()?;
    assert!(!copy.success(), "{copy}");
    let sealed = "SELECT string_agg(DISTINCT concat_ws(' ', detail ->> 'gate', actor, object), ', ' ORDER BY concat_ws(' ', detail ->> 'gate', actor, object))
        FROM custodian.ledger WHERE kind = 'guard.refused' AND block IS NOT NULL AND detail ->> 'gate' = ";
    let expected = "policy intern define a purpose, policy intern seal the ledger, policy intern tag column public.customer.email";
    wait_until("the scheduler has sealed the refused decisions", 60, || {
        node.text(&format!("{sealed}'policy'"))
            .is_ok_and(|text| text == expected)
    });
    wait_until("the scheduler has sealed the refused walsender", 60, || {
        node.text(&format!("{sealed}'login'"))
            .is_ok_and(|text| text.contains("postgres"))
    });
    let head = seal(&node)?;
    assert_eq!(verify(&node, Some(&head))?, "");
    Ok(())
}

#[test]
fn hold_is_in_the_ledger_with_a_digest_and_without_the_subject() -> Result<()> {
    let node = node("digest")?;
    node.exec(
        "CREATE ROLE counsel; CREATE TABLE customer (id text PRIMARY KEY, email text);
         SELECT custodian.define_purpose('shop.account', 'contract', '1 year');
         SELECT custodian.tag_table('customer', subject_kind => 'customer', subject_key => '{id}')",
    )?;
    let place = |key: &str, matter: &str| {
        node.exec(&format!(
            "SELECT custodian.place_hold('{matter}', approver => 'counsel', review_on => current_date + 30,
                 reason => 'a dispute', subject_kind => 'customer', subject_key => '{{{key}}}')"
        ))
    };
    place("canary-4711", "m1")?;
    place("canary-4711", "m2")?;
    place("canary-4712", "m3")?;
    let digest = |matter: &str| {
        node.text(&format!(
            "SELECT detail ->> 'subject_digest' FROM custodian.ledger WHERE kind = 'hold.placed' AND object = '{matter}'"
        ))
    };
    let first = digest("m1")?;
    assert_eq!(first.len(), 36 + 1 + 64, "{first}");
    assert_eq!(digest("m2")?, first);
    assert_ne!(digest("m3")?, first);
    assert_eq!(
        node.text("SELECT count(*) FROM custodian.ledger_entry WHERE body LIKE '%canary%'")?,
        "0"
    );
    Ok(())
}
