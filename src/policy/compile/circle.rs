//! Rows that refer to each other in a circle, within one table or over several: which of them can go in one statement,
//! which runs as one owner. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::compile::{Compiler, Context, MAX_DEPENDENTS, deletes, mode};
use crate::policy::model::{Dependent, ForeignKey, Plan, RelId, Schema, Severity, Table};
use crate::policy::order;

/// What a table is compiled as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum As<'a> {
    /// With all tables whose rows go together with its own.
    Itself,
    /// As one of those, which these keys connect.
    Peer(&'a [ForeignKey]),
}

/// The circles of tables in a schema. Where a table is in none it is in none of the maps.
#[derive(Debug, Default)]
pub struct Circles {
    /// The other tables whose rows can go in one statement with those of a table.
    together: BTreeMap<RelId, BTreeSet<RelId>>,
    /// The other tables that delete rows and are in a circle of foreign keys with it, whatever they can do.
    connected: BTreeMap<RelId, BTreeSet<RelId>>,
    /// Tables with leaves that another table governs as well.
    shared: BTreeSet<RelId>,
}

/// The role that owns all leaves of a table, if it is one.
fn single_owner(table: &Table) -> Option<u32> {
    let mut owners = table.leaves.iter().map(|leaf| leaf.owner);
    let first = owners.next()?;
    owners.all(|owner| owner == first).then_some(first)
}

/// Whether all rows below a relation that a foreign key is declared on are rows of the table.
fn is_within(table: &Table, relation: RelId) -> bool {
    table.family.contains(&relation) && !table.above.contains(&relation) && !table.split
}

/// Tables of which another one governs some leaves, too.
fn shared(schema: &Schema) -> BTreeSet<RelId> {
    let mut governing: BTreeMap<RelId, RelId> = BTreeMap::new();
    let mut shared = BTreeSet::new();
    for table in schema.tables.values() {
        for leaf in &table.leaves {
            if let Some(other) = governing.insert(leaf.id, table.id) {
                shared.extend([other, table.id]);
            }
        }
    }
    shared
}

/// By table the other tables whose rows refer to it, as far as `counts` says that a key between the two does.
fn edges(
    tables: &[&Table],
    schema: &Schema,
    counts: impl Fn(&ForeignKey, &Table, &Table) -> bool,
) -> BTreeMap<RelId, Vec<RelId>> {
    let mut about: BTreeMap<RelId, Vec<&Table>> = BTreeMap::new();
    for table in tables {
        for relation in &table.family {
            about.entry(*relation).or_default().push(table);
        }
    }
    let of = |relation: RelId| about.get(&relation).into_iter().flatten();
    let mut edges: BTreeMap<RelId, Vec<RelId>> = BTreeMap::new();
    for key in &schema.foreign_keys {
        for parent in of(key.parent) {
            for child in of(key.child).filter(|child| child.id != parent.id) {
                if counts(key, child, parent) {
                    edges.entry(parent.id).or_default().push(child.id);
                }
            }
        }
    }
    edges
}

fn others(
    tables: &[&Table],
    edges: &BTreeMap<RelId, Vec<RelId>>,
) -> BTreeMap<RelId, BTreeSet<RelId>> {
    let ids: Vec<RelId> = tables.iter().map(|table| table.id).collect();
    let mut found = BTreeMap::new();
    for component in order::components(&ids, edges) {
        for id in component.iter().filter(|_| component.len() > 1) {
            let rest = component.iter().copied().filter(|other| other != id);
            found.insert(*id, rest.collect());
        }
    }
    found
}

impl Circles {
    pub fn of(schema: &Schema) -> Circles {
        if schema.foreign_keys.is_empty() {
            return Circles::default();
        }
        let tables: Vec<&Table> = schema
            .tables
            .values()
            .filter(|table| deletes(table) && !table.leaves.is_empty())
            .collect();
        let connected = others(&tables, &edges(&tables, schema, |_, _, _| true));
        let shared = shared(schema);
        if connected.is_empty() {
            return Circles {
                shared,
                ..Circles::default()
            };
        }
        let alone = |table: &Table| shared.contains(&table.id);
        let together = edges(&tables, schema, |key, child, parent| {
            let one_owner =
                single_owner(child).is_some_and(|owner| single_owner(parent) == Some(owner));
            one_owner
                && !parent.split
                && !alone(child)
                && !alone(parent)
                && is_within(child, key.child)
                && mode(child) == mode(parent)
        });
        Circles {
            together: others(&tables, &together),
            connected,
            shared,
        }
    }

    /// Whether rows of both tables can go in one statement.
    pub fn connect(&self, one: RelId, other: RelId) -> bool {
        let others = self.together.get(&one);
        others.is_some_and(|others| others.contains(&other))
    }
}

/// Whether rows of the family, or of the plan's own table, refer to what goes along by the plan, and nothing lets them go.
fn comes_back(plan: &Plan, family: &[RelId]) -> bool {
    plan.dependents.iter().any(|dependent| {
        let child = dependent.foreign_key.child;
        match dependent.plan.as_deref() {
            None => family.contains(&child) || plan.declared && plan.family.contains(&child),
            Some(plan) => comes_back(plan, family),
        }
    })
}

/// The tables whose rows may go together with those of `tables`, with these themselves.
pub fn together(schema: &Schema, tables: impl IntoIterator<Item = RelId>) -> BTreeSet<RelId> {
    let circles = Circles::of(schema);
    let mut found = BTreeSet::new();
    for table in tables {
        found.extend(circles.together.get(&table).into_iter().flatten());
        found.insert(table);
    }
    found
}

impl Compiler<'_> {
    /// The foreign keys by which rows of the table refer to each other, and over circles of tables: what they connect
    /// goes together. What cannot is a finding.
    pub(super) fn circle(&self, context: &mut Context) -> Vec<ForeignKey> {
        let table = context.table;
        let mut members = vec![table];
        let peers = self.connections.circles.together.get(&table.id);
        let (peers, too_many) = match peers {
            Some(peers) if peers.len() > self.budget.get() => (None, Some(peers)),
            peers => (peers, None),
        };
        if let Some(too_many) = too_many {
            context.find(
                Severity::Notice,
                "circle-kept",
                None,
                format!(
                    "its rows and rows of {} other tables refer to each other in a circle, and no more than {MAX_DEPENDENTS} are looked at together: a row goes once no row of these refers to it, and a circle of rows stays",
                    too_many.len()
                ),
                "Break circles of rows before they are due, or have fewer tables with on_expiry => 'delete' refer to each other.",
            );
        }
        for peer in peers.into_iter().flatten() {
            members.extend(self.schema.tables.get(peer));
        }
        let apart: Vec<&str> = self
            .connections
            .circles
            .connected
            .get(&table.id)
            .into_iter()
            .flatten()
            .filter(|other| !members.iter().any(|member| member.id == **other))
            .filter(|other| !too_many.is_some_and(|peers| peers.contains(other)))
            .filter_map(|other| self.schema.tables.get(other))
            .map(|other| other.ident.name.as_str())
            .collect();
        if !apart.is_empty() {
            context.find(
                Severity::Notice,
                "circle-kept",
                None,
                format!(
                    "its rows and rows of {} refer to each other in a circle, but have not one owner, one mode of disposal and one tag each: a row goes once no row of these refers to it, and a circle of rows stays",
                    apart.join(", ")
                ),
                "Give these tables and their partitions one owner, the same \"disposal\" and no tags of single partitions, or break circles of rows before they are due.",
            );
        }
        let reflexive: Vec<&ForeignKey> = self
            .keys_to(table)
            .filter(|key| table.family.contains(&key.child))
            .collect();
        let split =
            single_owner(table).is_none() || self.connections.circles.shared.contains(&table.id);
        let alone = split || reflexive.iter().any(|key| !is_within(table, key.child));
        if alone && !reflexive.is_empty() {
            context.find(
                Severity::Notice,
                "circle-kept",
                None,
                "its rows refer to each other, and its partitions have several owners or tags of their own: a row goes once no other one refers to it, and a circle of rows stays".to_owned(),
                "Give its partitions one owner and one tag, or break circles of rows before they are due.",
            );
        }
        if split {
            return Vec::new();
        }
        let between = |key: &&ForeignKey| {
            members.iter().any(|child| is_within(child, key.child))
                && members
                    .iter()
                    .any(|parent| parent.family.contains(&key.parent))
        };
        let keys = self.schema.foreign_keys.iter();
        keys.filter(between).cloned().collect()
    }

    /// Circles over what was declared to go along: a row of such a table is referred to by a row of the table itself, or
    /// of its own, which nothing lets go with it.
    pub(super) fn circle_of_declared(&self, context: &mut Context, dependents: &[Dependent]) {
        let family = &context.table.family;
        let declared: BTreeSet<&str> = dependents
            .iter()
            .filter_map(|dependent| dependent.plan.as_deref())
            .filter(|plan| plan.declared && comes_back(plan, family))
            .map(|plan| plan.ident.name.as_str())
            .collect();
        if declared.is_empty() {
            return;
        }
        let names = Vec::from_iter(declared).join(", ");
        context.find(
            Severity::Notice,
            "circle-kept",
            None,
            format!(
                "rows of {names}, which its tag lets go along with its own, are referred to in a circle: a row goes once nothing refers to what goes along with it, and a circle of rows stays"
            ),
            "Tag these tables with on_expiry => 'delete', so that their rows go together, or break circles of rows before they are due.",
        );
    }

    /// The plans of the other tables that the keys of a circle connect.
    pub(super) fn peers(
        &self,
        table: &Table,
        circle: &[ForeignKey],
        stack: &mut Vec<RelId>,
    ) -> Vec<Plan> {
        let peers = self
            .connections
            .circles
            .together
            .get(&table.id)
            .into_iter()
            .flatten();
        let peers: Vec<&Table> = peers
            .filter_map(|peer| self.schema.tables.get(peer))
            .filter(|peer| circle.iter().any(|key| is_within(peer, key.child)))
            .collect();
        self.budget
            .set(self.budget.get().saturating_sub(peers.len()));
        stack.push(table.id);
        let plans = peers
            .into_iter()
            .map(|peer| self.table(peer, stack, As::Peer(circle)))
            .collect();
        stack.pop();
        plans
    }
}
