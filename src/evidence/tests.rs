//! Evidence, tested inside a server that has the library preloaded. Each test's transaction is rolled back.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;
    use serde_json::json;

    use crate::error::Error;
    use crate::evidence::events::{self, Database, Event, Gate, Outcome};
    use crate::evidence::{keys, ledger, sealer};
    use crate::pg::subxact::subtransaction;
    use crate::pg::{relation, xact};

    fn event(database: Database, object: &str) -> Event {
        Event {
            gate: Gate::Ddl,
            outcome: Outcome::Refused,
            database,
            role: "app".to_owned(),
            peer: "10.33.0.7".to_owned(),
            region: "eu".to_owned(),
            object: object.to_owned(),
            reason: "the region may not hold the data".to_owned(),
        }
    }

    fn text(sql: &str) -> Option<String> {
        Spi::get_one::<String>(sql).expect("a query that works")
    }

    #[pg_test]
    fn entry_is_written_for_a_role_without_rights() -> Result<(), Error> {
        Spi::run("CREATE ROLE evidence_nobody; SET LOCAL ROLE evidence_nobody")?;
        let entry = ledger::append("policy.test", "an object", json!({"b": 1, "a": [2]}))?;
        Spi::run("RESET ROLE")?;
        let body = text(&format!(
            "SELECT body FROM custodian.ledger_entry WHERE entry = {entry}"
        ))
        .expect("the entry");
        let fields: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(fields["kind"], "policy.test");
        assert_eq!(fields["object"], "an object");
        assert_eq!(fields["detail"], json!({"a": [2], "b": 1}));
        assert_eq!(
            fields["actor"].as_str(),
            text("SELECT session_user::text").as_deref()
        );
        assert!(fields["at"].as_str().is_some_and(|at| at.ends_with('Z')));
        // The bytes are canonical: fields in a fixed order, keys of the detail sorted, no spaces.
        assert!(body.starts_with("{\"at\":\""));
        assert!(body.ends_with("\"object\":\"an object\",\"detail\":{\"a\":[2],\"b\":1}}"));
        Ok(())
    }

    #[pg_test]
    fn events_are_moved_with_their_count_and_stay_until_the_commit() -> Result<(), Error> {
        // The scheduler moves events, too. It leaves them alone while somebody else has this lock.
        Spi::run("LOCK TABLE custodian.ledger_block IN SHARE ROW EXCLUSIVE MODE")?;
        let here = Database::current();
        events::record(event(here.clone(), "evidence_moved"));
        events::record(event(here, "evidence_moved"));
        events::record(event(
            Database::Oid(pg_sys::Oid::from(4_000_000_000)),
            "evidence_elsewhere",
        ));
        let name = relation::database_name(xact::database()).expect("a name");
        events::record(event(Database::Name(name), "evidence_by_name"));
        assert!(sealer::drain_events(false, true)? >= 2);
        let moved = |object: &str| {
            text(&format!(
                "SELECT string_agg(concat_ws(' ', kind, actor, detail ->> 'count', detail ->> 'gate', detail ->> 'role',
                     detail ->> 'peer', detail ->> 'region', detail ->> 'reason'), ',')
                 FROM custodian.ledger WHERE object = '{object}'"
            ))
        };
        assert_eq!(
            moved("evidence_moved").as_deref(),
            Some("guard.refused app 2 ddl app 10.33.0.7 eu the region may not hold the data")
        );
        assert!(moved("evidence_by_name").is_some());
        assert_eq!(moved("evidence_elsewhere"), None);
        // On its way it is in the ledger and in memory, and shown once.
        assert_eq!(
            text("SELECT string_agg(count::text, ',') FROM custodian.guard_events WHERE object = 'evidence_moved'").as_deref(),
            Some("2")
        );
        // Not committed: it is still there for the next attempt.
        assert_eq!(
            text(
                "SELECT count::text FROM custodian.pending_events() WHERE object = 'evidence_moved'"
            )
            .as_deref(),
            Some("2")
        );
        Ok(())
    }

    #[pg_test]
    fn events_are_not_moved_where_a_rollback_would_go_unnoticed() {
        events::record(event(Database::current(), "evidence_nested"));
        let moved = subtransaction(|| sealer::drain_events(true, true));
        assert_eq!(moved, Ok(0));
    }

    #[pg_test]
    fn events_that_wait_are_shown() {
        Spi::run("LOCK TABLE custodian.ledger_block IN SHARE ROW EXCLUSIVE MODE")
            .expect("the scheduler lets go");
        events::record(event(Database::current(), "evidence_shown"));
        assert_eq!(
            text(
                "SELECT concat_ws(' ', count, gate, outcome, role, peer, region, reason, at = last_at)
                 FROM custodian.guard_events WHERE object = 'evidence_shown'"
            )
            .as_deref(),
            Some("1 ddl refused app 10.33.0.7 eu the region may not hold the data t")
        );
    }

    #[pg_test]
    fn digest_depends_on_the_key_of_the_ledger() -> Result<(), Error> {
        let digest = keys::digest("customer", &["4711"])?.expect("the database is armed");
        assert_eq!(keys::digest("customer", &["4711"])?.as_ref(), Some(&digest));
        assert!(!digest.contains("4711"));
        let id = text("SELECT key_id::text FROM custodian.key_ref WHERE use = 'ledger'");
        assert_eq!(digest.split(':').next(), id.as_deref());
        Spi::run(
            "UPDATE custodian.secret SET key = sha256(key) WHERE key_id = (SELECT key_id FROM custodian.key_ref WHERE use = 'ledger')",
        )?;
        assert_ne!(keys::digest("customer", &["4711"])?, Some(digest));
        Ok(())
    }

    #[pg_test]
    fn restored_key_goes_before_the_one_made_here() -> Result<(), Error> {
        assert!(keys::armed()?);
        // As COPY does when a dump is restored; which key is older says nothing.
        Spi::run(
            "INSERT INTO custodian.key_ref
             VALUES ('00000000-0000-4000-8000-000000000001', 'pseudonym', 'f', now() + interval '1 year')",
        )?;
        assert!(!keys::armed()?);
        assert!(keys::active(keys::Use::Pseudonym)?.is_none());
        assert_eq!(keys::missing()?.len(), 1);
        Spi::run(
            "INSERT INTO custodian.secret VALUES ('00000000-0000-4000-8000-000000000001', '\\x0102', now())",
        )?;
        assert!(keys::armed()?);
        let key = keys::active(keys::Use::Pseudonym)?.expect("a key");
        assert_eq!(key.secret.as_slice(), [1, 2]);
        Ok(())
    }
}
