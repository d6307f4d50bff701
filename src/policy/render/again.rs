//! Rows behind a watermark that were reopened, by values of their clocks and by holds. Pure.

use crate::policy::model::{Clock, Group, Plan, RelId, TypeClass};
use crate::policy::period::Instant;
use crate::policy::reach::{Points, Reach, Window};
use crate::policy::render::bounds::{deciding, unknown};
use crate::policy::render::concerns;
use crate::policy::render::condition::Scope;
use crate::policy::render::statement::Param;

impl Scope<'_> {
    /// What was reopened behind the last pass: alternatives, one of them `true` for every row.
    pub(super) fn reopened(
        &mut self,
        row: &str,
        plan: &Plan,
        groups: &[&Group],
        after: &Reach,
    ) -> Vec<String> {
        let mut alternatives = Vec::new();
        let clocks = deciding(plan, groups, self.cutoff);
        let is_of = |clock: &Clock, relation: RelId, column: &str| {
            column == clock.column.name
                && match clock.path.last() {
                    None => plan.family.contains(&relation),
                    Some(last) => last.parent == relation,
                }
        };
        for clock in &clocks {
            for window in &after.windows {
                if is_of(clock, window.relation, &window.column) {
                    alternatives.push(self.window(row, plan, clock, window));
                }
            }
            for points in &after.points {
                if is_of(clock, points.relation, &points.column) {
                    alternatives.push(self.points(row, plan, clock, points));
                }
            }
        }
        for hold in &after.released {
            if concerns(hold, plan, None) {
                alternatives.push(self.was_held(row, plan, hold));
            }
        }
        alternatives
    }

    fn points(&mut self, row: &str, plan: &Plan, clock: &Clock, points: &Points) -> String {
        let at = points.at.iter().copied().map(Instant::from_micros);
        let at = self.binder.bind(Param::Instants(at.collect()));
        // In the type of the clock, so that an index on it can be used.
        let values = match clock.class {
            TypeClass::Date => format!(
                "ARRAY(SELECT (points.at AT TIME ZONE 'UTC')::date FROM unnest({at}) AS points (at))"
            ),
            TypeClass::Timestamp => format!(
                "ARRAY(SELECT points.at AT TIME ZONE 'UTC' FROM unnest({at}) AS points (at))"
            ),
            _ => at,
        };
        self.where_clock(row, plan, clock, false, |_, raw| {
            format!("{raw} = ANY ({values})")
        })
    }

    fn window(&mut self, row: &str, plan: &Plan, clock: &Clock, window: &Window) -> String {
        let (from, until) = (
            Instant::from_micros(window.from),
            Instant::from_micros(window.until),
        );
        self.where_clock(row, plan, clock, false, |scope, raw| {
            if window.missing {
                unknown(raw)
            } else {
                scope.between(raw, clock.class, Some(from), Some(until))
            }
        })
    }
}
