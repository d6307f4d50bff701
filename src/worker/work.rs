//! A table's compiled plan with all that executing it needs, as of one epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::pg::fresh::{self, Seen};
use crate::pg::{clock, inherit, sandbox};
use crate::policy::compile::{self, Connections};
use crate::policy::model::{Leaf, Plan, Policy, RelId, Schema};
use crate::policy::period::Instant;
use crate::policy::reach::Reach;
use crate::policy::render::{Due, Step};
use crate::policy::{along, epoch, load};
use crate::worker::watch::{self, Watch};

/// A plan of one table and the policy it was compiled from.
pub struct Work {
    /// The number of the policy it was compiled from: valid until a higher one is visible.
    pub epoch: i64,
    pub policy: Rc<Policy>,
    pub plan: Plan,
    /// What leaves, and what goes along with their rows, looked like before the plan was made: a statement written for
    /// them fits as long as they look the same. Empty, and then nothing fits, in a plan that is not to be executed.
    pub shapes: Shapes,
    /// What is to be noticed behind the leaves' watermarks; `None` where those narrow nothing.
    pub watch: Option<Watch>,
}

impl Work {
    /// Whether the plan would be another one by now, although the policy is the same: a column that it reads may be gone, also
    /// from a table that a clock leads to, which nothing locks.
    pub fn is_outdated(&self) -> Result<bool> {
        let root = self.plan.table;
        let schema = load::schema(Some(pg_sys::Oid::from(root)))?;
        let connections = Connections::of(&schema);
        let plan = compile::compile_connected(&schema, &connections, &self.policy, root);
        Ok(plan.digest != self.plan.digest)
    }

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

/// How relations look, in words to compare; `None` of those that are not there.
pub type Shapes = BTreeMap<RelId, Option<String>>;

/// How often a table is looked at again that turns out to go together with others.
const LOOKS: u32 = 4;

/// The plan of one table, compiled now, to be executed; `None` when it is not tagged any more. Locks that keep the policy
/// from changing are taken before, and a fresh snapshot is active.
///
/// Errors: 55P03 when what it goes together with kept changing.
pub fn load(root: pg_sys::Oid) -> Result<Option<Work>> {
    load_with(root, |policy| policy)
}

/// The same by another policy than that in force.
pub fn load_with(root: pg_sys::Oid, changed: impl Fn(Policy) -> Policy) -> Result<Option<Work>> {
    // How the tables look is read before what the plan is made of. A column or a foreign key that comes in between makes a
    // difference to the first batch then; read afterwards, it would pass for one that the plan knows.
    let tree = std::iter::once(root).chain(inherit::descendants(root));
    let mut shapes = look(&tree.map(|relation| relation.to_u32()).collect())?;
    for _ in 0..LOOKS {
        let epoch = epoch::current()?;
        let schema = load::schema(Some(root))?;
        let table = schema.tables.get(&root.to_u32());
        if !table.is_some_and(|table| table.is_tagged()) {
            return Ok(None);
        }
        let policy = Rc::new(changed(load::policy()?));
        let work = compiled(epoch, &schema, &Connections::of(&schema), policy, root);
        let mut concerned = along::declared_below(&work.plan);
        concerned.extend(
            work.plan
                .together()
                .flat_map(|plan| &plan.leaves)
                .map(|leaf| leaf.id),
        );
        concerned.retain(|relation| !shapes.contains_key(relation));
        if concerned.is_empty() {
            return Ok(Some(Work { shapes, ..work }));
        }
        // Which these are the plan tells, which is made again after they were looked at.
        shapes.append(&mut look(&concerned)?);
    }
    Err(Error::new(
        Kind::LockNotAvailable,
        "tables that go together were changed while they were looked at",
    )
    .hint("Try again."))
}

/// The plan of one table of `schema`, to be looked at: how the tables look was not read.
pub fn compiled(
    epoch: i64,
    schema: &Schema,
    connections: &Connections,
    policy: Rc<Policy>,
    root: pg_sys::Oid,
) -> Work {
    let plan = compile::compile_connected(schema, connections, &policy, root.to_u32());
    let watch = watch::watch(&plan, &policy, clock::wall());
    Work {
        epoch,
        watch,
        policy,
        plan,
        shapes: Shapes::new(),
    }
}

/// Owner, kind, columns and foreign keys of relations, those too that lead to them.
pub fn look(relations: &BTreeSet<RelId>) -> Result<Shapes> {
    let mut shapes: Shapes = relations.iter().map(|relation| (*relation, None)).collect();
    let relations: Vec<pg_sys::Oid> = relations.iter().copied().map(pg_sys::Oid::from).collect();
    sandbox::as_extension_owner(|| {
        // Each batch asks: it is planned once.
        let found = fresh::looked_up(
            "SELECT c.oid,
                    concat_ws(' ', c.relowner, c.relkind, c.relnamespace, c.relname,
                    (SELECT string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypmod),
                                       ',' ORDER BY a.attnum)
                     FROM pg_catalog.pg_attribute a
                     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
                    (SELECT string_agg(k.oid::text, ',' ORDER BY k.oid)
                     FROM (SELECT DISTINCT t.tgconstraint AS oid FROM pg_catalog.pg_trigger t
                           WHERE t.tgrelid = c.oid AND t.tgconstraint <> 0) AS k))
             FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1)",
            &[relations.into()],
            Seen::Everything,
            0,
        )?;
        for row in &found {
            let shape = fresh::must(row, 1)?.to_owned();
            shapes.insert(fresh::number(row, 0)?, Some(shape));
        }
        Ok(shapes)
    })
}
