//! The range of a clock in which the rows of a step lie, for an index on that clock. Pure.

use crate::policy::model::{Group, TypeClass};
use crate::policy::period::Instant;
use crate::policy::reach::Reach;
use crate::policy::render::{Due, Step};

/// Every row that the step is for has its clock in here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockRange {
    /// The column's name.
    pub column: String,
    pub class: TypeClass,
    pub latest: Instant,
    /// `None`: as early as can be.
    pub earliest: Option<Instant>,
}

/// The ranges of the row's own clocks, each of which holds every row that the step is for at `cutoff`, as far as they
/// became due after `after`; none where no clock bounds them alone, as where a withdrawal can end a purpose. They are
/// those of [`super::Due::batch`]'s plain comparisons.
pub fn ranges(due: &Due) -> Vec<ClockRange> {
    let plan = due.plan;
    let (groups, after): (Vec<&Group>, Option<&Reach>) = match due.step {
        Step::Cells { group } => (plan.groups.get(group).into_iter().collect(), due.after),
        Step::Rows => (
            plan.groups.iter().collect(),
            due.after.filter(|_| plan.circle.is_empty()),
        ),
    };
    due.scope().clock_ranges(&groups, after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::compile::compile;
    use crate::policy::fixture::{at, policy, schema, table, tag};
    use crate::policy::model::Withdrawn;

    const TABLE: &str = r#"{"clock":"at","subject":{"kind":"customer","key":["id"]}}"#;

    fn of(consent: bool, withdrawn: Option<&[&str]>, after: Option<&str>) -> Vec<ClockRange> {
        let mut policy = policy(&[("p.a", 12)]);
        for purpose in policy.purposes.values_mut() {
            purpose.consent = consent;
        }
        policy.withdrawn = withdrawn.map(|keys| {
            keys.iter()
                .map(|key| Withdrawn {
                    purpose: "p.a".to_owned(),
                    kind: "customer".to_owned(),
                    key: vec![(*key).to_owned()],
                })
                .collect()
        });
        let column = tag(&["p.a"], r#""on_expiry":"set_null""#);
        let mut table = table(1, "t", TABLE, &[("a", &column)]);
        for column in &mut table.columns {
            "int8".clone_into(&mut column.base);
        }
        let plan = compile(&schema(vec![table], vec![]), &policy, 1);
        let step = Step::Cells { group: 0 };
        let cutoff = at("2024-01-01T00:00:00Z");
        let after = after.map(|after| Reach::since(at(after)));
        ranges(&Due {
            after: after.as_ref(),
            ..Due::all(&plan, step, &plan.leaves[0], &policy, cutoff)
        })
    }

    #[test]
    fn a_period_bounds_its_clock_from_above_and_a_watermark_from_below() {
        let found = of(false, None, None);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].column, "at");
        assert!(found[0].latest >= at("2023-01-01T00:00:00Z"));
        assert!(found[0].latest < at("2023-01-10T00:00:00Z"));
        assert_eq!(found[0].earliest, None);
        let narrowed = of(false, None, Some("2023-12-01T00:00:00Z"));
        assert!(narrowed[0].earliest <= Some(at("2022-12-01T00:00:00Z")));
        assert!(narrowed[0].earliest > Some(at("2022-11-01T00:00:00Z")));
    }

    #[test]
    fn where_consent_was_withdrawn_no_clock_bounds_the_rows() {
        assert_eq!(of(true, Some(&[]), None).len(), 1);
        assert_eq!(of(true, Some(&["7"]), None), []);
        assert_eq!(of(true, None, None), []);
    }
}
