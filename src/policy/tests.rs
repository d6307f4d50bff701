//! The two readings of a plan checked against each other inside a server: the SQL that sweeps and previews
//! run, and the evaluation of plain facts, on random rows under random policies.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use pgrx::prelude::*;

    use crate::error::Error;
    use crate::evidence::keys;
    use crate::pg::{sandbox, spi};
    use crate::policy::compile::compile;
    use crate::policy::evaluate::{Action, Facts, evaluate};
    use crate::policy::explain::read_facts;
    use crate::policy::load;
    use crate::policy::model::{Leaf, Plan, Policy, RelId};
    use crate::policy::period::{Instant, Period};
    use crate::policy::random::{Random, policy};
    use crate::policy::reach::Reach;
    use crate::policy::render::{self, Due, Statement, Step, facts};
    use crate::subject::{lend, lend_erasures};

    fn label(object: &str, label: Option<&serde_json::Value>) -> Result<(), Error> {
        let text = label.map_or("NULL".to_owned(), |label| {
            format!("'{}'", label.to_string().replace('\'', "''"))
        });
        Ok(Spi::run(&format!(
            "SECURITY LABEL FOR custodian ON {object} IS {text}"
        ))?)
    }

    fn clock_name(random: &mut Random) -> &'static str {
        random.pick(&["ts", "ts", "tl", "d", "t_parent_fkey.at"])
    }

    fn tags(random: &mut Random) -> Result<(), Error> {
        let mut tag = serde_json::json!({"clock": clock_name(random)});
        if random.chance(60) {
            tag["collected"] = "c".into();
        }
        if random.chance(60) {
            tag["on_expiry"] = "delete".into();
        }
        match random.below(3) {
            0 => tag["subject"] = serde_json::json!({"kind": "customer", "key": ["subj"]}),
            1 => tag["subject"] = serde_json::json!({"kind": "pair", "key": ["subj", "inv"]}),
            _ => {}
        }
        label("TABLE plan_test.t", Some(&tag))?;
        for column in ["a", "b", "e"] {
            if random.chance(15) {
                label(&format!("COLUMN plan_test.t.{column}"), None)?;
                continue;
            }
            let mut purposes: Vec<&str> = vec!["p.a", "p.b", "p.c"];
            purposes.retain(|_| random.chance(60));
            if purposes.is_empty() {
                purposes.push("p.a");
            }
            let mut tag = serde_json::json!({
                "category": "user.name", "sensitivity": "personal", "purposes": purposes
            });
            match random.below(5) {
                0 => {}
                1 => tag["on_expiry"] = "set_null".into(),
                2 => tag["on_expiry"] = serde_json::json!({"mask": 1}),
                3 => tag["on_expiry"] = serde_json::json!({"constant": "gone"}),
                _ => tag["on_expiry"] = serde_json::json!({"prefix": 1}),
            }
            if random.chance(30) {
                tag["clock"] = clock_name(random).into();
            }
            if random.chance(30) {
                tag["minimums"] = serde_json::json!([{"name": "m.x"}]);
            }
            if random.chance(10) {
                tag["minimums"] =
                    serde_json::json!([{"name": "m.y", "clock": "tl"}, {"name": "m.x"}]);
            }
            if random.chance(15) {
                tag["maximums"] = serde_json::json!([{"name": "x.z", "clock": clock_name(random)}]);
            }
            label(&format!("COLUMN plan_test.t.{column}"), Some(&tag))?;
        }
        if random.chance(70) {
            let clock = random.pick(&["at", "k_t_fkey.ts"]);
            label(
                "TABLE plan_test.k",
                Some(&serde_json::json!({"clock": clock, "on_expiry": "delete"})),
            )?;
            label(
                "COLUMN plan_test.k.v",
                Some(&serde_json::json!({
                    "category": "user.name", "sensitivity": "personal", "purposes": ["p.a"]
                })),
            )?;
        } else {
            label("TABLE plan_test.k", None)?;
            label("COLUMN plan_test.k.v", None)?;
        }
        Ok(())
    }

    fn fill(random: &mut Random, rows: u64) -> Result<(), Error> {
        // Minimums of the trial before guard its rows until their tags are gone.
        for column in ["a", "b", "e"] {
            label(&format!("COLUMN plan_test.t.{column}"), None)?;
        }
        Spi::run("DELETE FROM plan_test.k; DELETE FROM plan_test.t; DELETE FROM plan_test.p")?;
        let parents: Vec<String> = (0..30)
            .map(|id| format!("({id}, {})", random.clock()))
            .collect();
        Spi::run(&format!(
            "INSERT INTO plan_test.p VALUES {}",
            parents.join(",")
        ))?;
        let mut values = Vec::new();
        for id in 0..rows {
            let text = |random: &mut Random| {
                random
                    .pick(&["NULL", "'gone'", "'**x'", "'secret'", "'s'", "''"])
                    .to_owned()
            };
            let subject = if random.chance(10) {
                "NULL".to_owned()
            } else {
                random.below(20).to_string()
            };
            let invoice = if random.chance(10) {
                "NULL".to_owned()
            } else {
                format!("'I{}'", random.below(30))
            };
            let parent = if random.chance(10) {
                "NULL".to_owned()
            } else {
                random.below(30).to_string()
            };
            values.push(format!(
                "({id}, {}, {}, {}, {}, {subject}, {invoice}, {parent}, {}, {}, {})",
                random.clock(),
                random.clock(),
                random.clock(),
                random.clock(),
                text(random),
                text(random),
                text(random)
            ));
        }
        Spi::run(&format!(
            "INSERT INTO plan_test.t VALUES {}",
            values.join(",")
        ))?;
        let children: Vec<String> = (0..rows / 4)
            .map(|id| format!("({id}, {}, {}, 'v')", random.below(rows), random.clock()))
            .collect();
        Spi::run(&format!(
            "INSERT INTO plan_test.k VALUES {}",
            children.join(",")
        ))?;
        Ok(())
    }

    /// Consents of some subjects of both kinds.
    fn consents(random: &mut Random) -> Result<(), Error> {
        Spi::run("DELETE FROM custodian.consent")?;
        for subject in 0..20 {
            let key = match random.below(3) {
                0 => continue,
                1 => format!("'customer', '{{{subject}}}'"),
                _ => format!("'pair', '{{{subject},I{}}}'", random.below(30)),
            };
            for span in random.spans() {
                let stamp = |at: Instant| format!("to_timestamp({} / 1000000.0)", at.micros());
                Spi::run(&format!(
                    "INSERT INTO custodian.consent (subject_kind, subject_key, purpose, granted_at, withdrawn_at)
                     VALUES ({key}, 'p.c', {}, {})",
                    stamp(span.from),
                    span.until.map_or("NULL".to_owned(), stamp)
                ))?;
            }
        }
        Ok(())
    }

    /// Erasures of some subjects of both kinds.
    fn erasures(random: &mut Random) -> Result<(), Error> {
        Spi::run("DELETE FROM custodian.erasure")?;
        for subject in 0..20 {
            let (subject, invoice) = (subject.to_string(), format!("I{}", random.below(30)));
            let (kind, key): (_, &[&str]) = match random.below(3) {
                0 | 1 => ("customer", &[&subject]),
                _ => ("pair", &[&subject, &invoice]),
            };
            let digest = keys::digest(kind, key)?.expect("a key of this database");
            for _ in 0..=random.below(2) {
                Spi::run(&format!(
                    "INSERT INTO custodian.erasure (subject_kind, digest, erased_at, epoch, reason)
                     VALUES ('{kind}', '{digest}', to_timestamp({} / 1000000.0), 1, 'request')
                     ON CONFLICT DO NOTHING",
                    random.instant().micros()
                ))?;
            }
        }
        Ok(())
    }

    /// The ids of the rows that a `SELECT count(*)` of a plan counts.
    fn ids(statement: &Statement) -> Result<BTreeSet<i64>, Error> {
        let rest = statement
            .sql
            .strip_prefix("SELECT count(*)")
            .expect("a counting statement");
        let params = spi::bind(&statement.params)?;
        sandbox::with_pinned_settings(|| {
            let rows = spi::select(&format!("SELECT t.id::bigint {rest}"), &params, |row| {
                row.must::<i64>(1)
            })?;
            Ok(rows.into_iter().collect())
        })
    }

    /// The facts of every row of a leaf, by id.
    fn all_facts(
        plan: &Plan,
        leaf: &Leaf,
        policy: &Policy,
        now: Instant,
    ) -> Result<BTreeMap<i64, Facts>, Error> {
        let mut statement = facts::facts(plan, leaf, policy, now, |_, _| "true".to_owned());
        statement.sql.push_str(" ORDER BY t.id");
        sandbox::with_pinned_settings(|| {
            let facts = read_facts(&statement, leaf)?;
            let ids = spi::select(
                &format!(
                    "SELECT id::bigint FROM ONLY {} ORDER BY id",
                    leaf.ident.quoted
                ),
                &[],
                |row| row.must::<i64>(1),
            )?;
            assert_eq!(ids.len(), facts.len());
            Ok(ids.into_iter().zip(facts).collect())
        })
    }

    struct Decided {
        rewritten: BTreeMap<String, BTreeSet<i64>>,
        deleted: BTreeSet<i64>,
    }

    fn decide(plan: &Plan, policy: &Policy, facts: &BTreeMap<i64, Facts>, now: Instant) -> Decided {
        let mut decided = Decided {
            rewritten: BTreeMap::new(),
            deleted: BTreeSet::new(),
        };
        for (id, facts) in facts {
            for verdict in evaluate(plan, policy, facts, now) {
                match verdict.action {
                    Action::Nothing => {}
                    Action::Rewrite => {
                        decided
                            .rewritten
                            .entry(verdict.column)
                            .or_default()
                            .insert(*id);
                    }
                    Action::DeleteRow => {
                        decided.deleted.insert(*id);
                    }
                }
            }
        }
        decided
    }

    fn expected(decided: &Decided, step: Step, plan: &Plan) -> BTreeSet<i64> {
        match step {
            Step::Rows => decided.deleted.clone(),
            Step::Cells { .. } => step
                .columns(plan)
                .iter()
                .filter_map(|column| decided.rewritten.get(column))
                .flatten()
                .copied()
                .collect(),
        }
    }

    /// Which rows of `t` have a child that stays, worked out without SQL.
    fn blocked_by_children(
        child: Option<(&Plan, &BTreeMap<i64, Facts>)>,
        policy: &Policy,
        now: Instant,
    ) -> Result<BTreeSet<i64>, Error> {
        let going = child.map_or_else(BTreeSet::new, |(plan, facts)| {
            decide(plan, policy, facts, now).deleted
        });
        let children = spi::select(
            "SELECT id::bigint, t::bigint FROM plan_test.k",
            &[],
            |row| Ok((row.must::<i64>(1)?, row.must::<i64>(2)?)),
        )?;
        Ok(children
            .into_iter()
            .filter(|(id, _)| !going.contains(id))
            .map(|(_, parent)| parent)
            .collect())
    }

    #[derive(Default)]
    struct Seen {
        rewritten: usize,
        deleted: usize,
        narrowed: usize,
        withdrawn: usize,
        limited: usize,
        erased: usize,
    }

    impl Seen {
        /// Counts cells that only a withdrawal, or only a maximum, made past.
        fn note(
            &mut self,
            plan: &Plan,
            known: &BTreeMap<i64, Facts>,
            policy: &Policy,
            now: Instant,
        ) {
            for facts in known.values() {
                for verdict in evaluate(plan, policy, facts, now) {
                    self.withdrawn += usize::from(verdict.explanation.contains("was withdrawn"));
                    self.erased += usize::from(verdict.explanation.contains("was requested"));
                    self.limited += usize::from(verdict.explanation.contains("ended its purposes"));
                }
            }
        }
    }

    fn trial(random: &mut Random, table: RelId, seen: &mut Seen) -> Result<(), Error> {
        fill(random, 140)?;
        let mut policy = policy(random, table);
        for minimum in policy.minimums.values() {
            // The row guard, which batches meet too, reads them from the table.
            Spi::run(&format!(
                "INSERT INTO custodian.minimum (name, period, citation, defence)
                 VALUES ('{}', '{}', '{}', {})
                 ON CONFLICT (name) DO UPDATE SET period = excluded.period, defence = excluded.defence",
                minimum.name,
                minimum.period.iso(),
                minimum.citation,
                minimum.defence
            ))?;
        }
        tags(random)?;
        consents(random)?;
        erasures(random)?;
        policy.erased_kinds = load::policy()?.erased_kinds;
        // Mostly the withdrawals are known, so that passes may look for their subjects only.
        if random.chance(80) {
            policy.withdrawn = load::policy()?.withdrawn;
        }
        let schema = load::schema(None)?;
        let plan = compile(&schema, &policy, table);
        let [leaf] = plan.leaves.as_slice() else {
            panic!("one leaf");
        };
        let _loans = (lend::lend(&plan), lend_erasures::lend(&plan)?);
        let child = schema
            .tables
            .values()
            .find(|table| table.ident.name == "plan_test.k" && table.is_tagged())
            .map(|table| compile(&schema, &policy, table.id));

        let mut now = random.instant();
        if random.chance(50) {
            // The very moment at which a period of some row ends, or just before.
            let known = all_facts(&plan, leaf, &policy, now)?;
            let clocks: Vec<Instant> = known
                .values()
                .flat_map(|facts| facts.clocks.iter().flatten().copied())
                .collect();
            if !clocks.is_empty() {
                let clock = clocks[random.below(clocks.len() as u64) as usize];
                now = clock.plus(random.period()).expect("in range");
                if random.chance(30) {
                    now = Instant::from_micros(now.micros() - 1);
                }
            }
        }
        // No sweep has a cutoff in the future, and the guard knows the present alone.
        now = now.min(crate::pg::clock::now());
        let mut known = all_facts(&plan, leaf, &policy, now)?;
        let child_facts = match &child {
            Some(child) => Some(all_facts(
                child,
                child.leaves.first().expect("one leaf"),
                &policy,
                now,
            )?),
            None => None,
        };
        let blocked = blocked_by_children(child.as_ref().zip(child_facts.as_ref()), &policy, now)?;
        for (id, facts) in &mut known {
            if let Some(by_sql) = facts.blocked.first() {
                assert_eq!(*by_sql, blocked.contains(id), "row {id}");
            }
        }

        let decided = decide(&plan, &policy, &known, now);
        seen.note(&plan, &known, &policy, now);
        let after = now
            .plus(Period::days(-(random.below(900) as i32)))
            .expect("in range");
        // A row that others keep comes free when they go, which triggers note: it is behind the watermark by then.
        let child_before = match &child {
            Some(child) => Some(all_facts(
                child,
                child.leaves.first().expect("one leaf"),
                &policy,
                after,
            )?),
            None => None,
        };
        let kept_before =
            blocked_by_children(child.as_ref().zip(child_before.as_ref()), &policy, after)?;
        let mut due_before = BTreeSet::new();
        for step in render::steps(&plan) {
            due_before.extend(ids(&Due::all(&plan, step, leaf, &policy, after).count())?);
        }
        for step in render::steps(&plan) {
            let statement = Due::all(&plan, step, leaf, &policy, now).count();
            let by_sql = ids(&statement)?;
            let by_rules = expected(&decided, step, &plan);
            assert_eq!(by_sql, by_rules, "{step:?} at {now:?}: {}", statement.sql);
            match step {
                Step::Rows => seen.deleted += by_sql.len(),
                Step::Cells { .. } => seen.rewritten += by_sql.len(),
            }
            // A watermark narrows the scan, and loses no row that became due after it.
            let since = Reach::since(after);
            let narrowed = Due {
                after: Some(&since),
                ..Due::all(&plan, step, leaf, &policy, now)
            };
            let statement = narrowed.count();
            let narrowed = ids(&statement)?;
            assert!(narrowed.is_subset(&by_sql));
            // What an erasure ends goes when it is made, watermark or not.
            let erased_since = |id: &i64| {
                let mut erasures = known[id].erasures.iter();
                erasures.any(|erased_at| *erased_at > after)
            };
            let lost: Vec<&i64> = by_sql
                .difference(&narrowed)
                .filter(|id| !due_before.contains(id) && !erased_since(id))
                .filter(|id| !(matches!(step, Step::Rows) && kept_before.contains(id)))
                .collect();
            assert!(lost.is_empty(), "{lost:?}: {}", statement.sql);
            seen.narrowed += by_sql.len() - narrowed.len();
        }

        // Executing disposes exactly that, and leaves nothing of it to do. Children go first, as in a sweep.
        let mut done = Vec::new();
        if let Some(child) = &child {
            let leaf = child.leaves.first().expect("one leaf");
            for step in render::steps(child) {
                let batch = Due::all(child, step, leaf, &policy, now).batch();
                sandbox::with_pinned_settings(|| spi::run(&batch.with_blocks(0, u32::MAX - 1)))?;
            }
        }
        for step in render::steps(&plan) {
            let batch = Due::all(&plan, step, leaf, &policy, now).batch();
            let rows =
                sandbox::with_pinned_settings(|| spi::run(&batch.with_blocks(0, u32::MAX - 1)))?;
            done.push((step, rows));
        }
        for (step, rows) in done {
            assert_eq!(rows as usize, expected(&decided, step, &plan).len());
            let left = sandbox::with_pinned_settings(|| {
                spi::count_fresh(&Due::all(&plan, step, leaf, &policy, now).count())
            })?;
            assert_eq!(left, 0, "{step:?}");
        }
        Ok(())
    }

    #[pg_test]
    fn both_readings_of_a_plan_agree() -> Result<(), Error> {
        Spi::run(
            "SET LOCAL TimeZone = 'UTC';
             CREATE SCHEMA plan_test;
             CREATE TABLE plan_test.p (id int PRIMARY KEY, at date);
             CREATE TABLE plan_test.t (id int PRIMARY KEY, ts timestamptz, tl timestamp, d date,
                 c timestamptz, subj int, inv text, parent int REFERENCES plan_test.p, a text, b text, e text);
             CREATE INDEX ON plan_test.t (ts);
             CREATE TABLE plan_test.k (id int PRIMARY KEY, t int REFERENCES plan_test.t ON DELETE CASCADE,
                 at timestamptz, v text);",
        )?;
        let table = Spi::get_one::<pg_sys::Oid>("SELECT 'plan_test.t'::regclass::oid")?
            .expect("the table")
            .to_u32();
        let mut random = Random(0x5eed_0fac_0570_d1a5);
        let mut seen = Seen::default();
        for _ in 0..60 {
            trial(&mut random, table, &mut seen)?;
        }
        // The trials must not have passed for want of anything to decide.
        assert!(seen.rewritten > 200, "{}", seen.rewritten);
        assert!(seen.deleted > 30, "{}", seen.deleted);
        assert!(seen.narrowed > 5, "{}", seen.narrowed);
        assert!(seen.withdrawn > 15, "{}", seen.withdrawn);
        assert!(seen.erased > 10, "{}", seen.erased);
        assert!(seen.limited > 50, "{}", seen.limited);
        Ok(())
    }
}
