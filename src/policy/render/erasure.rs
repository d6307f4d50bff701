//! Conditions of erasures: of the one that is at work, and of those on record. Pure.

use crate::policy::model::{Clock, ErasedRows, Group, Plan, SubjectKey, TypeClass};
use crate::policy::period::Instant;
use crate::policy::render::condition::{Scope, all, any};
use crate::policy::render::facts::{erased_rows, moment};
use crate::policy::render::statement::Param;
use crate::policy::render::{Due, ROW, Statement, Step, bounds, sample};

impl Scope<'_> {
    /// The row is one that the erasure at work is about; `true` while none is. A row whose subject cannot be told
    /// is not, and neither is one that began anew after the erasure, or of which that is not known.
    pub fn erased(&mut self, row: &str, plan: &Plan) -> String {
        let policy = self.policy;
        let Some(erasing) = &policy.erasing else {
            return "true".to_owned();
        };
        let subject = plan.subject.as_ref().filter(|subject| {
            subject.kind == erasing.kind && subject.columns.len() == erasing.key.len()
        });
        let Some(subject) = subject else {
            return "false".to_owned();
        };
        let mut parts = Vec::new();
        // A plain comparison first, which an index on the subject can serve.
        if let ([], [column], [base], [key]) = (
            subject.path.as_slice(),
            subject.columns.as_slice(),
            subject.bases.as_slice(),
            erasing.key.as_slice(),
        ) && let Some((keys, cast)) = bounds::comparable(base, vec![key.clone()])
        {
            let keys = self.binder.bind(Param::TextArray(keys));
            parts.push(format!("{row}.{} = ANY ({keys}{cast})", column.quoted));
        }
        parts.push(self.subject_in(row, subject, &[&erasing.key]));
        if let Some(before) = erasing.before {
            let clocks: Vec<&Clock> = plan
                .groups
                .iter()
                .flat_map(|group| &group.covers)
                .map(|cover| &cover.clock)
                .chain(&plan.collected)
                .collect();
            for clock in clocks {
                parts.push(self.began_before(row, clock, before));
            }
        }
        all(parts)
    }

    /// The group's covers have ended: `ended`, or, of a subject that was erased, those that no erasure ends.
    pub(super) fn or_erased(&mut self, row: &str, group: &Group, ended: String) -> String {
        let Some(erased) = &group.erasure else {
            return ended;
        };
        if ended == "true" {
            return ended;
        }
        let required: Vec<String> = group
            .covers
            .iter()
            .filter(|cover| !cover.ends_on_erasure)
            .map(|cover| self.cover_ended(row, cover))
            .filter(|part| part != "true")
            .collect();
        if required.iter().any(|part| part == "false") {
            return ended;
        }
        // The costlier question last.
        let erased = self.erased_on_record(row, erased);
        let by_erasure = all(required.into_iter().chain([erased]));
        if ended == "false" {
            return by_erasure;
        }
        any([ended, by_erasure])
    }

    /// An erasure on record, made by the cutoff, is about the row.
    fn erased_on_record(&mut self, row: &str, erased: &ErasedRows) -> String {
        let began: Vec<String> = erased
            .clocks
            .iter()
            .map(|clock| {
                let moment = moment(self, row, clock);
                match clock.class {
                    // It does not say which hour of the day: the whole day must lie before the erasure.
                    TypeClass::Date => format!("({moment} + interval '86399.999999 seconds')"),
                    _ => moment,
                }
            })
            .collect();
        let subject = &erased.subject;
        let kind = self.binder.bind(Param::Text(subject.kind.clone()));
        let cutoff = self.cutoff;
        let cutoff = self.instant(cutoff);
        let found = self.value(row, &subject.path, |at| {
            let key = Self::key_of(at, subject);
            format!(
                "custodian.sweep_erased({kind}, {key}, ARRAY[{}]::timestamptz[], {cutoff})",
                began.join(", ")
            )
        });
        format!("coalesce({found}, false)")
    }

    /// What is on record of the erasures of the row's subject, as `subject::lend` writes it.
    pub fn erasures(&mut self, row: &str, subject: &SubjectKey) -> String {
        let kind = self.binder.bind(Param::Text(subject.kind.clone()));
        self.value(row, &subject.path, |at| {
            let key = Self::key_of(at, subject);
            format!("custodian.sweep_erasures({kind}, {key})")
        })
    }

    /// Strictly: of a row that was collected on the very day, a clock of days does not say whether before or after.
    fn began_before(&mut self, row: &str, clock: &Clock, before: Instant) -> String {
        let class = clock.class;
        self.along(row, &clock.path, |scope, at| {
            let raw = format!("{at}.{}", clock.column.quoted);
            let bound = scope.bound(before, class);
            format!("CASE WHEN isfinite({raw}) THEN {raw} < {bound} ELSE false END")
        })
    }
}

/// [`Due::count`] with a second column: all that is due, and of that what is due since its time has come; the rest
/// is due because its subject was erased. With `percent` it is over that part of the leaf's blocks.
pub fn count_by_cause(due: &Due, percent: Option<f64>) -> Statement {
    let Due { plan, leaf, .. } = *due;
    let groups: Vec<&Group> = match due.step {
        Step::Cells { group } => plan.groups.get(group).into_iter().collect(),
        Step::Rows => plan.groups.iter().collect(),
    };
    let timely: Vec<Group> = groups
        .into_iter()
        .map(|group| Group {
            erasure: None,
            ..group.clone()
        })
        .collect();
    let mut scope = due.scope();
    let condition = due.condition(&mut scope);
    let past: Vec<String> = timely
        .iter()
        .map(|group| scope.past(ROW, group))
        .filter(|part| part != "true")
        .collect();
    scope.binder.finish(format!(
        "SELECT count(*), count(*) FILTER (WHERE {}) FROM {} WHERE {condition}",
        all(past),
        sample::rows(leaf, percent)
    ))
}

/// `SELECT DISTINCT` of the keys, as `text[]`, of the subjects on record as erased of whose rows in the leaf the step
/// would dispose; `None` for a plan that no erasure changes.
pub fn erased_subjects(due: &Due) -> Option<Statement> {
    let erased = erased_rows(due.plan)?;
    let subject = &erased.subject;
    let mut scope = due.scope();
    let parts: Vec<String> = subject
        .columns
        .iter()
        .map(|column| {
            scope.value(ROW, &subject.path, |at| {
                format!("{at}.{}::text", column.quoted)
            })
        })
        .collect();
    let condition = due.condition(&mut scope);
    // The costlier question last.
    let condition = all([condition, scope.erased_on_record(ROW, erased)]);
    Some(scope.binder.finish(format!(
        "SELECT DISTINCT ARRAY[{}]::text[] FROM ONLY {} AS {ROW} WHERE {condition}",
        parts.join(", "),
        due.leaf.ident.quoted
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::compile::compile;
    use crate::policy::fixture::{at, policy, schema, table, tag};
    use crate::policy::model::{Erasing, Policy, State};
    use crate::policy::render::Step;

    const NOW: &str = "2021-01-01T00:00:00Z";

    fn erasing(kind: &str, key: &[&str], before: Option<Instant>) -> Erasing {
        Erasing {
            kind: kind.to_owned(),
            key: key.iter().map(|part| (*part).to_owned()).collect(),
            before,
        }
    }

    /// The policy of one erasure, and the plan of a table of customers with one cell for two purposes; `p.b` is
    /// optional, and `p.a` as given.
    fn erased(erasing: Erasing, a_is_required: bool) -> (Policy, Plan) {
        let mut policy = policy(&[("p.a", 120), ("p.b", 240)]);
        for purpose in policy.purposes.values_mut() {
            purpose.required = purpose.name == "p.a" && a_is_required;
        }
        let column = tag(&["p.a", "p.b"], r#""on_expiry":"set_null""#);
        let tagged =
            r#"{"clock":"at","on_expiry":"delete","subject":{"kind":"customer","key":["id"]}}"#;
        let schema = schema(vec![table(1, "t", tagged, &[("a", &column)])], Vec::new());
        let policy = policy.erasing(erasing, at(NOW));
        let plan = compile(&schema, &policy, 1);
        (policy, plan)
    }

    fn statement(erasing: Erasing) -> Statement {
        let (policy, plan) = erased(erasing, false);
        Due::all(&plan, Step::Rows, &plan.leaves[0], &policy, at(NOW)).count()
    }

    #[test]
    fn an_erasure_is_for_rows_of_its_subject_alone() {
        let one = statement(erasing("customer", &["7"], None));
        let value = crate::policy::render::Param::TextArray(vec!["7".to_owned()]);
        assert!(one.params.contains(&value), "{:?}", one.params);
        // Values are parameters, whatever they are.
        assert!(!one.sql.contains("'7'"), "{}", one.sql);
        for nobody in [
            erasing("device", &["7"], None),
            erasing("customer", &["7", "8"], None),
            erasing("customer", &[], None),
        ] {
            let none = statement(nobody);
            assert!(none.sql.contains("false"), "{}", none.sql);
            assert!(!none.params.contains(&value), "{:?}", none.params);
        }
    }

    #[test]
    fn a_repeated_erasure_looks_at_clocks() {
        let once = statement(erasing("customer", &["7"], None));
        let again = statement(erasing(
            "customer",
            &["7"],
            Some(at("2020-06-01T00:00:00Z")),
        ));
        let bound = crate::policy::render::Param::Instant(at("2020-06-01T00:00:00Z"));
        assert!(!once.params.contains(&bound));
        assert!(again.params.contains(&bound), "{:?}", again.params);
    }

    #[test]
    fn subjects_that_an_erasure_changes_are_asked_for_in_one_statement() {
        let tagged = |required: bool| {
            let mut policy = policy(&[("p.a", 120)]);
            for purpose in policy.purposes.values_mut() {
                purpose.required = required;
            }
            policy.erased_kinds.insert("customer".to_owned());
            let column = tag(&["p.a"], r#""on_expiry":"set_null""#);
            let of = r#"{"clock":"at","subject":{"kind":"customer","key":["id"]}}"#;
            let schema = schema(vec![table(1, "t", of, &[("a", &column)])], Vec::new());
            let plan = compile(&schema, &policy, 1);
            let step = Step::Cells { group: 0 };
            erased_subjects(&Due::all(&plan, step, &plan.leaves[0], &policy, at(NOW)))
        };
        // What a required purpose covers no erasure ends.
        assert_eq!(tagged(true), None);
        let sql = tagged(false).expect("an erasure ends it").sql;
        assert!(
            sql.starts_with("SELECT DISTINCT ARRAY[t.id::text]"),
            "{sql}"
        );
        assert!(sql.contains("custodian.sweep_erased("), "{sql}");
    }

    #[test]
    fn required_purposes_outlast_an_erasure_and_optional_ones_do_not() {
        let state = |required: bool, now: &str| {
            let (policy, plan) = erased(erasing("customer", &["7"], None), required);
            let facts = crate::policy::evaluate::Facts {
                clocks: crate::policy::render::facts::clocks(&plan)
                    .iter()
                    .map(|_| Some(at("2020-01-01T00:00:00Z")))
                    .collect(),
                disposed: vec![false],
                subject: vec![Some("7".to_owned())],
                within: vec![1],
                ..Default::default()
            };
            crate::policy::evaluate::evaluate(&plan, &policy, &facts, at(now))[0].state
        };
        assert_eq!(state(false, NOW), State::Due);
        assert_eq!(state(true, NOW), State::Active);
        assert_eq!(state(true, "2029-12-31T00:00:00Z"), State::Active);
        // The longer, optional purpose does not cover it after the required one.
        assert_eq!(state(true, "2030-01-01T00:00:00Z"), State::Due);
    }
}
