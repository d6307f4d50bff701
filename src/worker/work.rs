//! A table's compiled plan with all that executing it needs, as of one epoch.

use std::collections::BTreeMap;
use std::rc::Rc;

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::fresh::{self, Seen};
use crate::pg::{clock, sandbox};
use crate::policy::compile::{self, Connections};
use crate::policy::model::{Leaf, Plan, Policy, Schema};
use crate::policy::period::Instant;
use crate::policy::reach::Reach;
use crate::policy::render::{Due, Step};
use crate::policy::{epoch, load};
use crate::worker::watch::{self, Watch};

/// A plan of one table and the policy it was compiled from.
pub struct Work {
    /// The number of the policy it was compiled from: valid until a higher one is visible.
    pub epoch: i64,
    pub policy: Rc<Policy>,
    pub plan: Plan,
    /// What each leaf looked like: a statement written for it fits as long as it looks the same.
    pub shapes: BTreeMap<u32, String>,
    /// What is to be noticed behind the leaves' watermarks; `None` where those narrow nothing.
    pub watch: Option<Watch>,
}

impl Work {
    /// The rows of a leaf of the plan that a step is for.
    pub fn due<'a>(
        &'a self,
        step: Step,
        leaf: &'a Leaf,
        cutoff: Instant,
        after: Option<&'a Reach>,
    ) -> Due<'a> {
        Due {
            plan: &self.plan,
            step,
            leaf,
            policy: &self.policy,
            cutoff,
            after,
        }
    }
}

/// The plan of one table, compiled now; `None` when it is not tagged any more. Locks that keep the policy
/// from changing are taken before, and a fresh snapshot is active.
pub fn load(root: pg_sys::Oid) -> Result<Option<Work>> {
    let epoch = epoch::current()?;
    let schema = load::schema(Some(root))?;
    if !schema
        .tables
        .get(&root.to_u32())
        .is_some_and(|table| table.is_tagged())
    {
        return Ok(None);
    }
    let policy = Rc::new(load::policy()?);
    compiled(epoch, &schema, &Connections::of(&schema), policy, root).map(Some)
}

/// The plan of one table of `schema`.
pub fn compiled(
    epoch: i64,
    schema: &Schema,
    connections: &Connections,
    policy: Rc<Policy>,
    root: pg_sys::Oid,
) -> Result<Work> {
    let plan = compile::compile_connected(schema, connections, &policy, root.to_u32());
    let mut shapes = BTreeMap::new();
    for leaf in plan.together().flat_map(|plan| &plan.leaves) {
        if let Some(shape) = shape(leaf)? {
            shapes.insert(leaf.id, shape);
        }
    }
    let watch = watch::watch(&plan, &policy, clock::wall());
    Ok(Work {
        epoch,
        watch,
        policy,
        plan,
        shapes,
    })
}

/// Owner, kind, columns and foreign keys of a leaf, those too that lead to it, in words to compare; `None` when it is gone.
pub fn shape(leaf: &Leaf) -> Result<Option<String>> {
    sandbox::as_extension_owner(|| {
        // Each batch asks: it is planned once.
        let found = fresh::repeated(
            "SELECT concat_ws(' ', c.relowner, c.relkind, c.relnamespace, c.relname,
                    string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypmod),
                               ',' ORDER BY a.attnum),
                    (SELECT string_agg(k.oid::text, ',' ORDER BY k.oid)
                     FROM (SELECT DISTINCT t.tgconstraint AS oid FROM pg_catalog.pg_trigger t
                           WHERE t.tgrelid = c.oid AND t.tgconstraint <> 0) AS k))
             FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             WHERE c.oid = $1
             GROUP BY c.oid",
            &[pg_sys::Oid::from(leaf.id).into()],
            Seen::Everything,
            1,
        )?;
        found
            .first()
            .map(|row| fresh::must(row, 0).map(str::to_owned))
            .transpose()
    })
}
